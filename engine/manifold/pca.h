/* Principal components of a set of points.
 *
 *     struct pca p;
 *     pca_fit(&run, &points, &(struct pca_options){.components = 50}, &p, &e);
 *     pca_transform(run.pool, &p, &points, y);            y [n, p.k]
 *     pca_inverse(run.pool, &p, y, n, x, ld);             x = mean + y components
 *
 * Exact: eigenvectors of the covariance [d, d] or, with fewer points than numbers, of the Gram matrix
 * [n, n], summed in double. Randomised (Halko, Martinsson, Tropp 2011, subspace iteration with 10
 * columns more than asked and 6 passes over the points), for sets where both n and d are large: exact
 * to rounding where the spectrum falls, and always an orthonormal basis. Signs are fixed: the entry of
 * largest magnitude is positive.
 *
 * Memory beside the result, in doubles: twice the square of the smaller of d and n (exact),
 * (k + 10) (2 d + n) (randomised), and 128 thousand a thread. */
#ifndef ENGINE_MANIFOLD_PCA_H
#define ENGINE_MANIFOLD_PCA_H

#include "engine/manifold/points.h"

enum pca_method {
    PCA_AUTO, /* exact while n or d is at most PCA_EXACT_MAX */
    PCA_EXACT,
    PCA_RANDOMISED
};
#define PCA_EXACT_MAX 1536

struct pca_options {
    size_t components; /* k: 1 to min(n, d) */
    enum pca_method method;
    uint64_t seed; /* of the randomised method */
};

struct pca {
    size_t d, k;
    float *mean;       /* [d] */
    float *components; /* [k, d], orthonormal rows by falling variance */
    double *variance;  /* [k], over n - 1 */
    double total;      /* variance of all d directions */
};

/* At least 2 points. A direction beyond the rank of the points has variance 0 and the row 0. On
 * failure *p is empty. ERR_INVALID, ERR_NUMERIC (a point is not finite), ERR_NOMEM, ERR_CANCELLED. */
int pca_fit(const struct manifold_run *run, const struct points *points,
            const struct pca_options *o, struct pca *p, struct err *e)
    __attribute__((warn_unused_result));
void pca_fini(struct pca *p);

/* y [n, k] = (x - mean) components^T; points of p->d numbers. */
int pca_transform(struct pool *pool, const struct pca *p, const struct points *points, float *y,
                  struct err *e) __attribute__((warn_unused_result));
/* x [n, d] (row i at x + i * ld) = mean + y components. */
void pca_inverse(struct pool *pool, const struct pca *p, const float *y, size_t n, float *x,
                 size_t ld);

/* n draws from the Gaussian with p's mean and p's variances along its components (fitted with all
 * components: the sample covariance) into x, row i at x + i * ld. ERR_NOMEM. */
int pca_sample(struct pool *pool, const struct pca *p, uint64_t seed, size_t n, float *x, size_t ld,
               struct err *e) __attribute__((warn_unused_result));

#endif
