#include "engine/manifold/bootstrap.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile of sorted v, between neighbours in proportion. */
static double quantile(const double *v, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

double bootstrap_mean(void *values, const uint32_t *index, size_t n)
{
    const double *v = values;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[index[i]];
    return sum / (double)n;
}

int bootstrap_interval(const struct bootstrap *b, size_t n, double *low, double *high,
                       struct err *e)
{
    if (n == 0 || n > UINT32_MAX || b->resamples < 2 || !(b->level > 0 && b->level < 1))
        return err_set(e, ERR_INVALID, "an interval of %g from %zu resamples of %zu values",
                       b->level, b->resamples, n);
    double *figure = calloc(b->resamples, sizeof *figure);
    uint32_t *index = calloc(n, sizeof *index);
    struct rng rng;
    int rc = 0;
    if (!figure || !index)
        rc = err_set(e, ERR_NOMEM, "no memory for %zu resamples", b->resamples);
    for (size_t r = 0; rc == 0 && r < b->resamples; r++) {
        rng_init(&rng, b->seed, r);
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)rng_below(&rng, n);
        figure[r] = b->statistic(b->arg, index, n);
        if (!isfinite(figure[r]))
            rc = err_set(e, ERR_NUMERIC, "a resampled figure is not finite");
    }
    if (rc == 0) {
        qsort(figure, b->resamples, sizeof *figure, by_value);
        *low = quantile(figure, b->resamples, (1 - b->level) / 2);
        *high = quantile(figure, b->resamples, (1 + b->level) / 2);
    }
    free(figure);
    free(index);
    return rc;
}
