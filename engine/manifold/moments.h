/* Means, squares and correlations of a set of points, in double, by tiles (points.h: any number of
 * threads gives the same bytes). Inputs are not checked for NaN: it shows in the result. */
#ifndef ENGINE_MANIFOLD_MOMENTS_H
#define ENGINE_MANIFOLD_MOMENTS_H

#include "engine/manifold/points.h"

#define MOMENTS_TILE  128 /* rows and columns of a tile of a result */
#define MOMENTS_DEPTH 512 /* of the chunks that a sum is cut into */

/* The smaller, and memory for the tiles of each thread: [threads, 2 TILE DEPTH]. */
static inline size_t moments_min(size_t a, size_t b)
{
    return a < b ? a : b;
}
double *moments_scratch_new(const struct pool *pool); /* free(); NULL: no memory */
static inline double *moments_scratch(double *scratch, int part)
{
    return scratch + (size_t)part * 2 * MOMENTS_TILE * MOMENTS_DEPTH;
}

/* out [r1 - r0, c1 - c0] = rows r0..r1, columns c0..c1 less mean [d] (NULL: as they are). */
void moments_copy(const struct points *p, const double *mean, const size_t rows[2],
                  const size_t cols[2], double *out);

/* mean [d]; squares [d]: each column's sum of squares around it. */
void moments_mean(struct pool *pool, const struct points *p, double *mean, double *squares);

/* out [d, d] = X^T X or, by_rows, [n, n] = X X^T of the centred points: the upper triangle. */
struct moments_square {
    const struct points *points;
    const double *mean; /* [d] */
    bool by_rows;
    double *scratch; /* moments_scratch_new */
    double *out;
};
void moments_square(struct pool *pool, const struct moments_square *s);

/* Of all numbers of all points (rows of a head's matrix, say). */
struct moments_stats {
    double mean, std; /* of the population */
    double max;       /* of magnitudes */
    double norm;      /* mean over the points of the Frobenius (Euclidean) norm */
    double norm_min, norm_max;
};
void moments_stats(const struct points *p, struct moments_stats *out);

/* How far two sets agree about what goes together across blocks of `block` numbers (heads): Pearson's
 * correlation between the entries of their two correlation matrices that join different blocks. 1: the
 * same joint statistics; 0: the blocks of one are independent. d at most 4096, at least two blocks,
 * two points a set. ERR_INVALID, ERR_NOMEM; ERR_NUMERIC (not finite, or nothing varies). */
int moments_agreement(const struct manifold_run *run, const struct points *a,
                      const struct points *b, size_t block, double *agreement, struct err *e)
    __attribute__((warn_unused_result));

#endif
