/* t-SNE: a map of points in two dimensions that keeps neighbours together (van der Maaten & Hinton
 * 2008), exact: all pairs, O(n^2) a step.
 *
 *     struct tsne_options o = TSNE_DEFAULTS;
 *     o.perplexity = 20;
 *     tsne_fit(&run, &points, &o, y, &kl, &e);            y [n, 2], x and y of each point
 *
 * p_j|i = softmax_j(-|x_i - x_j|^2 beta_i), beta_i such that the entropy is log(perplexity);
 * P = (p + p^T) / 2n;  q_ij = w_ij / Z, w_ij = 1 / (1 + |y_i - y_j|^2), Z = sum w
 * dKL/dy_i = 4 sum_j (e p_ij - q_ij) w_ij (y_i - y_j)
 * Descent with momentum .5 (.8 after the early exaggeration e) and a gain for each coordinate (+.2
 * where the direction stays, * .8 where it turns, at least .01), as in the paper and scikit-learn.
 * For points of hundreds of numbers, reduce them with pca.h to about 50 first, as is usual.
 *
 * Memory: 4 n^2 bytes (100 MB for 5,000 points). About 1,000 n^2 * 12 operations. */
#ifndef ENGINE_MANIFOLD_TSNE_H
#define ENGINE_MANIFOLD_TSNE_H

#include "engine/manifold/points.h"

#define TSNE_MAX 5000 /* points */

struct tsne_options {
    double perplexity;         /* at least 1, at most (n - 1) / 3 */
    size_t iterations;         /* all, 1 to 10,000 */
    double early_exaggeration; /* at least 1 */
    size_t exaggeration_iterations;
    double learning_rate; /* 0: max(n / early_exaggeration / 4, 50) */
    bool random_start;    /* else the first two principal components, scaled to 1e-4 */
    uint64_t seed;        /* of a random start */
};
#define TSNE_DEFAULTS                                                                              \
    ((struct tsne_options){.perplexity = 30,                                                       \
                           .iterations = 1000,                                                     \
                           .early_exaggeration = 12,                                               \
                           .exaggeration_iterations = 250})

/* y [n, 2] and the KL divergence of its q from P. 4 to TSNE_MAX points. One step of `proceed` an
 * iteration. ERR_INVALID (which option), ERR_NUMERIC (a point not finite), ERR_NOMEM, ERR_CANCELLED. */
int tsne_fit(const struct manifold_run *run, const struct points *points,
             const struct tsne_options *o, float *y, double *kl, struct err *e)
    __attribute__((warn_unused_result));

/* The parts, for tests. P [n, n], symmetric, sums to 1, diagonal 0. */
int tsne__joint(const struct manifold_run *run, const struct points *points, double perplexity,
                float *P, struct err *e) __attribute__((warn_unused_result));
/* gradient [n, 2]; sums [n] is scratch. */
struct tsne__gradient {
    const float *P, *y; /* [n, n], [2, n]: all x, then all y */
    size_t n;
    float exaggeration;
    double *gradient; /* [2, n] */
    double *sums;     /* [3, n]: of w, and of w^2 (y_i - y_j) */
};
void tsne__gradient(struct pool *pool, const struct tsne__gradient *g);
double tsne__divergence(struct pool *pool, const struct tsne__gradient *g);

#endif
