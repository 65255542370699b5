#include "engine/sampling/select.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The 32 bits of a key are decided from the top, in three digits. */
#define N_DIGITS 3
static const struct {
    int shift, bits;
} digit[N_DIGITS] = {{21, 11}, {10, 11}, {0, 10}};

static float key_value(uint32_t key)
{
    union {
        uint32_t u;
        float f;
    } bits = {.u = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key};
    return bits.f;
}

/* The digit d in which the running sum, from the largest down, reaches target; *above is the weight
 * of all that is larger. When rounding keeps the sum below target it is the smallest digit in use.
 */
static uint32_t select_digit(const struct select_bins *bins, uint32_t n_bins, double target,
                             double *above)
{
    double sum = *above;
    uint32_t chosen = 0;
    for (uint32_t bin = n_bins; bin-- > 0 && (sum < target || sum == 0);) {
        if (bins->weight[bin] == 0)
            continue;
        chosen = bin;
        *above = sum;
        sum += bins->weight[bin];
    }
    return chosen;
}

/* A value weighs 1, or itself. */
static struct selection select_top(const float *x, size_t n, bool by_weight, double target,
                                   struct select_bins *bins)
{
    uint32_t prefix = 0, mask = 0; /* the digits decided so far */
    double above = 0;
    for (int d = 0; d < N_DIGITS; d++) {
        int shift = digit[d].shift;
        uint32_t n_bins = 1u << digit[d].bits;
        memset(bins->weight, 0, n_bins * sizeof bins->weight[0]);
        for (size_t i = 0; i < n; i++) {
            uint32_t key = select_key(x[i]);
            if ((key & mask) == prefix)
                bins->weight[key >> shift & (n_bins - 1)] += by_weight ? (double)x[i] : 1.0;
        }
        prefix |= select_digit(bins, n_bins, target, &above) << shift;
        mask |= (n_bins - 1) << shift;
    }
    double each = by_weight ? (double)key_value(prefix) : 1.0;
    double ties = ceil((target - above) / each);
    return (struct selection){prefix, ties > 1 ? (size_t)ties : 1};
}

struct selection select_count(const float *x, size_t n, size_t k, struct select_bins *bins)
{
    return select_top(x, n, false, (double)k, bins);
}

struct selection select_weight(const float *w, size_t n, double target, struct select_bins *bins)
{
    return select_top(w, n, true, target, bins);
}
