/* Distances between points and what follows from them: nearest neighbours, the vote of neighbours,
 * silhouette, and the two-sample test.
 *
 *     uint32_t index[n * k];
 *     neighbors_find(&run, &p, &p, &(struct neighbors_options){.k = 5, .skip_same = true}, index, NULL, &e);
 *     double accuracy = neighbors_vote(index, n, 5, label, n_labels, predicted);     leave one out
 *
 * Exact: every pair is computed, in double, by tiles. A Euclidean distance is the root of
 * |a|^2 + |b|^2 - 2 a.b, so equal points may stand up to about 1e-8 |a| apart. The cosine distance is
 * 1 - a.b / (|a| |b|), 1 to or from the origin. Equal distances: the smaller index first. Memory beside
 * results: 2 MiB a thread and a double a point. ERR_NUMERIC: a point is not finite. */
#ifndef ENGINE_MANIFOLD_NEIGHBORS_H
#define ENGINE_MANIFOLD_NEIGHBORS_H

#include "engine/manifold/points.h"

enum metric { METRIC_EUCLIDEAN, METRIC_COSINE, METRIC_SQUARED /* Euclidean, squared */ };

/* out [a->n, b->n]. ERR_INVALID (other d), ERR_NUMERIC, ERR_NOMEM, ERR_CANCELLED. */
int neighbors_distances(const struct manifold_run *run, const struct points *a,
                        const struct points *b, enum metric metric, float *out, struct err *e)
    __attribute__((warn_unused_result));

struct neighbors_options {
    size_t k; /* 1 to b's points, less one with skip_same */
    enum metric metric;
    bool skip_same; /* a and b are the same points: a point is not its own neighbour */
};

/* For each point of a the k nearest of b, nearest first: index [a->n, k], distance the same or NULL. */
int neighbors_find(const struct manifold_run *run, const struct points *a, const struct points *b,
                   const struct neighbors_options *o, uint32_t *index, float *distance,
                   struct err *e) __attribute__((warn_unused_result));

/* The label (below n_labels) of most of each point's k neighbours, the smallest of equals, into
 * predicted [n] (or NULL). Returns the share of points whose own label it is. n, k, n_labels > 0. */
double neighbors_vote(const uint32_t *index, size_t n, size_t k, const uint32_t *label,
                      size_t n_labels, uint32_t *predicted);

/* Rousseeuw's silhouette: with a the mean distance to the other points of the own label, b the smallest
 * mean distance to the points of another, (b - a) / max(a, b); 0 for a label's only point. sample [n] or
 * NULL, and their mean. At least two labels in use. ERR_INVALID, ERR_NUMERIC, ERR_NOMEM, ERR_CANCELLED. */
struct silhouette_options {
    enum metric metric;
    const uint32_t *label; /* [n], each below n_labels */
    size_t n_labels;
};
int neighbors_silhouette(const struct manifold_run *run, const struct points *p,
                         const struct silhouette_options *o, float *sample, double *mean,
                         struct err *e) __attribute__((warn_unused_result));

/* 1-nearest-neighbour two-sample test (Lopez-Paz & Oquab 2017): in the union of a and b, the share of
 * each set's points whose nearest neighbour is of the same set. About .5 both: of one distribution, for
 * sets of equal size. 1 of b (generated) with .5 of a: b stands apart; 0 of b: copies of a. */
struct two_sample {
    double a, b, both; /* both: over all points */
};
int neighbors_two_sample(const struct manifold_run *run, const struct points *a,
                         const struct points *b, enum metric metric, struct two_sample *out,
                         struct err *e) __attribute__((warn_unused_result));

#endif
