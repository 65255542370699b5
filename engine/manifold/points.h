/* What the measures of a set of states share: points, and how a long measure is run.
 *
 * A measure takes `struct points`: rows of floats with any distance between them, so that a head of
 * a layer, a layer or a whole state is a window on the same block of states.
 *
 * Everything here is deterministic: the same points, options and seed give the same bytes, whatever
 * the number of threads of the pool. Memory beside the result is bounded as each header says. Long
 * measures ask `proceed` between their steps and stop with ERR_CANCELLED when it says false. */
#ifndef ENGINE_MANIFOLD_POINTS_H
#define ENGINE_MANIFOLD_POINTS_H

#include "daemon/base/err.h"
#include "engine/kernels/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* n points of d numbers: point i at x + i * ld, ld >= d. Not owned. */
struct points {
    const float *x;
    size_t n, d, ld;
};

struct manifold_run {
    struct pool *pool;
    /* Called on the thread that started the measure, with step in 0..total of its own units; false
     * stops it. NULL: never stopped. */
    bool (*proceed)(void *arg, size_t step, size_t total);
    void *arg;
};

/* 0, or ERR_CANCELLED when proceed says so. */
static inline int manifold_proceed(const struct manifold_run *r, size_t step, size_t total,
                                   struct err *e)
{
    if (!r->proceed || r->proceed(r->arg, step, total))
        return 0;
    return err_set(e, ERR_CANCELLED, "stopped at step %zu of %zu", step, total);
}

#endif
