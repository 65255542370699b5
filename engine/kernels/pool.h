/* A pool of threads that run one function together: the engine's only source of parallelism.
 *
 * Whoever owns an engine makes the pool and hands it down; nothing in engine/ starts a thread by
 * itself. pool_run calls fn once on every thread of the pool, the caller being thread 0, and returns
 * when all are done. Inside fn, pool_barrier makes all threads wait for each other, so that a whole
 * step (many products, norms and recurrences) is one pool_run with barriers between its parts.
 * Waiting threads spin for some tens of microseconds, which is longer than any wait of a quiet machine, then park on a
 * futex: a core taken by another program costs little.
 *
 *     static void scale(void *ctx, int part, int parts) {
 *         struct job *j = ctx;
 *         size_t lo, hi;
 *         pool_slice(j->n, 16, part, parts, &lo, &hi);
 *         for (size_t i = lo; i < hi; i++) j->x[i] *= 2;
 *     }
 *     pool_run(pool, scale, &job);
 *
 * Threads: one pool_run at a time per pool, from any one thread (the one that calls takes part).
 * Functions run here must not allocate, log or lock. */
#ifndef ENGINE_POOL_H
#define ENGINE_POOL_H

#include <stddef.h>
#include <stdint.h>

struct pool;
struct err;

/* A pool of `threads` (1 to 256), the caller of pool_run included: threads - 1 are started here, with
 * `name` (at most 15 bytes) and lowered to `nice` (0 to 19) where that is possible. NULL on failure. */
struct pool *pool_new(int threads, const char *name, int nice, struct err *e)
    __attribute__((warn_unused_result));
/* Ends and joins the threads. NULL is fine. */
void pool_free(struct pool *p);
int pool_threads(const struct pool *p);

void pool_run(struct pool *p, void (*fn)(void *ctx, int part, int parts), void *ctx);
/* The same on the first `parts` threads, at least 1; the others sleep on. */
void pool_run_some(struct pool *p, int parts, void (*fn)(void *ctx, int part, int parts),
                   void *ctx);
/* ns that threads have waited at barriers since this was asked last, in waits of more than a millisecond: for a thread
 * that did not have its core. */
uint64_t pool_lost(struct pool *p);
/* Only inside a function run by pool_run, by all its threads: memory written before the barrier by
 * one is seen after it by all. */
void pool_barrier(struct pool *p);

/* The share of part in 0..n, in whole units of `unit` (the last may be short): [*lo, *hi). */
static inline void pool_slice(size_t n, size_t unit, int part, int parts, size_t *lo, size_t *hi)
{
    size_t units = (n + unit - 1) / unit;
    size_t a = units * (size_t)part / (size_t)parts * unit;
    size_t b = units * (size_t)(part + 1) / (size_t)parts * unit;
    *lo = a < n ? a : n;
    *hi = b < n ? b : n;
}

#endif
