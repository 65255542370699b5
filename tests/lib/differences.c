#include "tests/lib/differences.h"

#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>

double *normal_numbers(size_t n, double scale, struct rng *rng)
{
    double *x = calloc(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_normal(rng);
    return x;
}

/* A part of what the value depends on. */
struct part {
    double *x;
    const double *base, *dir;
    size_t n;
};

static double at_step(const struct differences *d, const struct part *p, double h)
{
    for (size_t i = 0; i < p->n; i++)
        p->x[i] = p->base[i] + h * p->dir[i];
    return d->value(d->ctx);
}

void check_gradient(const struct differences *d, const char *name, double *x, const double *dx,
                    size_t n)
{
    const double h = d->h;
    double *base = calloc(n, sizeof *base), *dir = calloc(n, sizeof *dir), norm = 0;
    assert_true(base && dir);
    const struct part p = {x, base, dir, n};
    memcpy(base, x, n * sizeof *base);
    for (size_t i = 0; i < n; i++)
        norm += dx[i] * dx[i];
    if (!(norm > 0))
        fail_msg("%s: no gradient", name);
    for (int t = 0; t < 3; t++) {
        double dot = 0;
        for (size_t i = 0; i < n; i++) {
            dir[i] = t ? rng_normal(d->rng) / sqrt((double)n) : dx[i] / sqrt(norm);
            dot += dir[i] * dx[i];
        }
        double by = (8 * (at_step(d, &p, h) - at_step(d, &p, -h)) -
                     (at_step(d, &p, 2 * h) - at_step(d, &p, -2 * h))) /
                    (12 * h);
        memcpy(x, base, n * sizeof *base);
        if (!(fabs(by - dot) <= 1e-7 * fmax(sqrt(norm), 1e-3)))
            fail_msg("%s: backward says %.12g, differences %.12g (norm %g)", name, dot, by,
                     sqrt(norm));
    }
    free(base);
    free(dir);
}
