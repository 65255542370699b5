/* Bootstrap intervals (Efron & Tibshirani 1993, percentile method): how far a figure would move with
 * another sample of the same size. Deterministic for a seed; one thread. */
#ifndef ENGINE_MANIFOLD_BOOTSTRAP_H
#define ENGINE_MANIFOLD_BOOTSTRAP_H

#include "daemon/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct bootstrap {
    size_t resamples; /* 1,000 is usual */
    double level;     /* .95: the interval leaves .025 on each side */
    uint64_t seed;
    /* The figure of a sample of n, given by its indices (which repeat). */
    double (*statistic)(void *arg, const uint32_t *index, size_t n);
    void *arg;
};

/* Over samples of 0..n-1 drawn with replacement. ERR_INVALID (no sample, a level outside (0, 1), fewer
 * than 2 resamples), ERR_NOMEM, ERR_NUMERIC (a figure that is not finite). */
int bootstrap_interval(const struct bootstrap *b, size_t n, double *low, double *high,
                       struct err *e) __attribute__((warn_unused_result));

/* A statistic: the mean of double values[]; arg is the array. */
double bootstrap_mean(void *values, const uint32_t *index, size_t n);

#endif
