/* Which of n values are the largest, by count or by weight, in O(n) and without sorting: a radix
 * selection over the bits of the floats. Inside engine/sampling. */
#ifndef ENGINE_SELECT_H
#define ENGINE_SELECT_H

#include <stddef.h>
#include <stdint.h>

#define SELECT_BITS 11 /* of a float decided at once: so many that values spread over the bins */
#define SELECT_BINS (1 << SELECT_BITS)

struct select_bins {
    double weight[SELECT_BINS];
};

/* The members of a selection: every value whose key is above `key`, and the first `ties` of those
 * equal to it. */
struct selection {
    uint32_t key;
    size_t ties;
};

/* Orders as the floats do; -0 equals 0. NaN must have been removed. */
static inline uint32_t select_key(float x)
{
    union {
        float f;
        uint32_t u;
    } bits = {.f = x + 0.0f};
    return bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
}

/* The k >= 1 largest of x [n], k <= n. */
struct selection select_count(const float *x, size_t n, size_t k, struct select_bins *bins);
/* The fewest largest of w [n >= 1] (finite, none negative) whose sum reaches target, at least one.
 */
struct selection select_weight(const float *w, size_t n, double target, struct select_bins *bins);
/* The fewest of largest x [n >= 1] whose weights w [n] (as above) reach target, at least one; of
 * equal x the first. */
struct selection select_by(const float *x, const float *w, size_t n, double target,
                           struct select_bins *bins);

#endif
