/* How many threads a repeated piece of work gets: all, but fewer while other programs hold their cores, as then all
 * would wait for the one that shares its core.
 *
 *     struct effort e;
 *     effort_init(&e, pool_threads(pool));
 *     for (;;) {
 *         ... run on effort_parts(&e) threads, which takes ns ...
 *         effort_note(&e, size, ns, pool_lost(pool));
 *     }
 *
 * Pieces of one size are looked at in windows of at least EFFORT_PIECES and EFFORT_NS. If a window's threads have lost
 * more than a third of it to one that was late, one thread less is tried for a window, and kept if a piece takes less
 * by a sixteenth, else next time half of them; while threads are left out, one more is tried now and then. What a trial
 * does not find better is tried again later and later. Nothing is decided by a clock, but by the times that are handed
 * in. Threads: the owner's. */
#ifndef ENGINE_EFFORT_H
#define ENGINE_EFFORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EFFORT_PIECES = 4 };
#define EFFORT_NS UINT64_C(50000000)
/* ns of work between trials: at first, and in the end (of more threads, half of it). */
#define EFFORT_PAUSE      UINT64_C(400000000)
#define EFFORT_MOST_PAUSE UINT64_C(3200000000)

struct effort {
    int most, parts;           /* threads there are, threads in use */
    int trial;                 /* threads on trial; 0: no trial */
    bool halve;                /* the next trial of fewer takes half */
    size_t size;               /* of the window's pieces */
    uint64_t pieces, ns, lost; /* of the window */
    double before;             /* ns of a piece before the trial */
    uint64_t rest;             /* ns until a trial may be */
    uint64_t pause;            /* rest behind the next one that fails */
};

void effort_init(struct effort *e, int most);
static inline int effort_parts(const struct effort *e)
{
    return e->trial ? e->trial : e->parts;
}
/* A piece of this size took ns, of which all threads together lost some to waiting. */
void effort_note(struct effort *e, size_t size, uint64_t ns, uint64_t lost);

#endif
