#include "engine/sampling/select.h"

#include <math.h>
#include <string.h>

static float key_value(uint32_t key)
{
    union {
        uint32_t u;
        float f;
    } bits = {.u = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key};
    return bits.f;
}

/* The digit in which the running sum, from the largest down, reaches target; *above becomes the
 * weight of all that is larger. When rounding keeps the sum below target it is the smallest in use.
 */
static uint32_t select_digit(const struct select_bins *bins, double target, double *above)
{
    double sum = *above;
    uint32_t chosen = 0;
    for (uint32_t bin = SELECT_BINS; bin-- > 0 && (sum < target || sum == 0);) {
        if (bins->weight[bin] == 0)
            continue;
        chosen = bin;
        *above = sum;
        sum += bins->weight[bin];
    }
    return chosen;
}

/* Decides the key digit by digit from the top; *above becomes the weight of what is larger. A value
 * weighs w, or 1 if w is NULL. */
static uint32_t select_threshold(const float *x, const float *w, size_t n, double target,
                                 double *above, struct select_bins *bins)
{
    static const int shifts[] = {32 - SELECT_BITS, 32 - 2 * SELECT_BITS, 0};
    uint32_t prefix = 0, mask = 0; /* the digits decided so far */
    *above = 0;
    for (size_t digit = 0; digit < sizeof shifts / sizeof shifts[0]; digit++) {
        int shift = shifts[digit];
        uint32_t own = ~mask & ~((1u << shift) - 1); /* the bits of this digit */
        memset(bins, 0, sizeof *bins);
        for (size_t i = 0; i < n; i++) {
            uint32_t key = select_key(x[i]);
            if ((key & mask) == prefix)
                bins->weight[(key & own) >> shift] += w ? (double)w[i] : 1.0;
        }
        prefix |= select_digit(bins, target, above) << shift;
        mask |= own;
    }
    return prefix;
}

/* The first of the equal values, each of weight each, that bring above to target. */
static struct selection select_ties(uint32_t key, double above, double target, double each)
{
    double ties = ceil((target - above) / each);
    return (struct selection){key, ties > 1 ? (size_t)ties : 1};
}

struct selection select_count(const float *x, size_t n, size_t k, struct select_bins *bins)
{
    double above;
    uint32_t key = select_threshold(x, NULL, n, (double)k, &above, bins);
    return select_ties(key, above, (double)k, 1);
}

struct selection select_weight(const float *w, size_t n, double target, struct select_bins *bins)
{
    double above;
    uint32_t key = select_threshold(w, w, n, target, &above, bins);
    return select_ties(key, above, target, (double)key_value(key));
}

struct selection select_by(const float *x, const float *w, size_t n, double target,
                           struct select_bins *bins)
{
    double above;
    struct selection sel = {select_threshold(x, w, n, target, &above, bins), 0};
    for (size_t i = 0; i < n && (sel.ties == 0 || above < target); i++)
        if (select_key(x[i]) == sel.key) {
            above += (double)w[i];
            sel.ties++;
        }
    return sel;
}
