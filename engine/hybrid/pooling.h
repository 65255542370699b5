/* A context of any length as a bounded sequence of rows: what the parameter transformer attends to.
 *
 *     struct hybrid_pool p;
 *     hybrid_pool_init(&p, C, 64, &e);
 *     hybrid_pool_add(&p, hidden);                     one row [C] a token of the context
 *     n = hybrid_pool_rows(&p, out);                   [at most 64, C + HYBRID_FEATURES]
 *
 * A row is the mean of a segment of hidden states: 16 tokens at first; whenever there are `max`
 * segments, neighbours are joined and segments are twice as long from then on. Behind the means
 * stand the segment's length, log2(length / 16) / 8, and its place in the context, in (0, 1).
 *
 * Memory: (C + 1) max doubles whatever the length. The rows depend on the hidden states alone, not
 * on how they were handed over. Threads: one at a time. */
#ifndef ENGINE_HYBRID_POOLING_H
#define ENGINE_HYBRID_POOLING_H

#include "daemon/base/err.h"

#include <stddef.h>
#include <stdint.h>

#define HYBRID_SEGMENT  16
#define HYBRID_FEATURES 2

struct hybrid_pool {
    size_t C, max;
    uint64_t segment; /* tokens of a whole row */
    size_t n;         /* whole rows */
    uint64_t open;    /* tokens in the row behind them */
    double *sum;      /* [max, C], owned */
};

/* max is even, 2 to 65536. ERR_INVALID, ERR_NOMEM. */
int hybrid_pool_init(struct hybrid_pool *p, size_t C, size_t max, struct err *e)
    __attribute__((warn_unused_result));
void hybrid_pool_fini(struct hybrid_pool *p);  /* a zeroed one is fine */
void hybrid_pool_clear(struct hybrid_pool *p); /* for another context */
void hybrid_pool_add(struct hybrid_pool *p, const float *hidden);
/* The rows so far; returns their number, at most max. */
size_t hybrid_pool_rows(const struct hybrid_pool *p, float *out);

#endif
