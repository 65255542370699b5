/* A backward pass against central differences of its forward, in double. */
#ifndef TESTS_DIFFERENCES_H
#define TESTS_DIFFERENCES_H

#include "engine/kernels/rng.h"

#include <stddef.h>

/* A scalar of numbers that a test changes in place. */
struct differences {
    double (*value)(void *ctx);
    void *ctx;
    double h; /* step */
    struct rng *rng;
};

/* n numbers from N(0, scale^2); free(). */
double *normal_numbers(size_t n, double scale, struct rng *rng);
/* The derivatives of the value along three directions of x [n], straight along dx and two anywhere,
 * by a 4-point stencil, are those that the gradient dx [n] gives, within 1e-7 of its norm, which is
 * not 0. x is left as it was. */
void check_gradient(const struct differences *d, const char *name, double *x, const double *dx,
                    size_t n);

#endif
