/* The vectors that the sequences of a request run with in place of their model's own: what its hybrid
 * makes of a context (engine/hybrid/hybrid.h). They are made once, for all completions of the request,
 * by the first of their sequences that gets to adjustment_post; the others wait for it, and end as it
 * ends if it fails.
 *
 *     a stored context    store (its bytes) -> porter (checks them)
 *     a text              worker: the leader has a place in the batch and reads it there from the zero
 *                         state (READ), final hidden states go into a pool of fixed size
 *                         -> lane (the transformer's steps)
 *     strength 0          of a text nothing is read
 *
 * then all of them go into the worker's queue. POST /v1/contexts is a leader without followers, whose
 * vectors the lane stores.
 *
 * Threads: as marked. A sequence that leads is in one place at a time, like any other. */
#ifndef DAEMON_ADJUSTMENT_H
#define DAEMON_ADJUSTMENT_H

#include "daemon/items.h"
#include "daemon/lane.h"
#include "daemon/served_hybrid.h"

#include <pthread.h>

struct sequence;

enum adjustment_status { ADJUSTMENT_NEW, ADJUSTMENT_BUSY, ADJUSTMENT_READY, ADJUSTMENT_FAILED };

struct adjustment {
    atomic_int refs;
    struct adjustment_ask ask; /* set once */
    pthread_mutex_t lock;
    enum adjustment_status status; /* guard: lock */
    struct list waiting;           /* guard: lock; sequences that follow */
    struct err err;                /* guard: lock; FAILED */
    /* the leader's until it is READY, read-only then */
    struct sequence *leader;
    struct served_hybrid *hybrid; /* of the leader's model, when it began; one reference */
    struct lane_task task;
    struct adjustment_used used;
    float *theta; /* [L, G, C] of the hybrid's rank; NULL: the model's own */
    char key[65]; /* SHA-256 of theta, by which states are told apart; "": NULL */
};

/* What can be refused before it waits. ERR_NO_HYBRID, ERR_INVALID, ERR_TOO_LARGE. [any thread] */
int adjustment_check(const struct service *s, const struct model_info *m,
                     const struct adjustment_ask *ask, struct err *e);
/* Takes q, of which all else is known: it goes to its worker's queue with its vectors, or ends.
 * [any thread that has q] */
void adjustment_post(struct sequence *q);
/* q ends: if it leads and is not done, those that follow end with e too. [any thread that has q] */
void adjustment_leave(struct sequence *q, const struct err *e);

/* All below: [thread: worker] */

/* q has its place and begins to read. ERR_NOMEM. */
int adjustment_begin(struct sequence *q, struct err *e);
/* The tokens it feeds in this step. */
size_t adjustment_next(const struct sequence *q, const uint32_t **tokens);
/* After a step that fed n tokens; hidden [n, C]. True: it has read all, and is to leave its place. */
bool adjustment_advance(struct sequence *q, size_t n, const float *hidden);
/* Takes q, which has read all. */
void adjustment_make_post(struct sequence *q);

/* Of theta. [any thread that has a sequence of it, once there is a hybrid] */
size_t adjustment_rank(const struct adjustment *a);
/* Stores what was made, as the context that q's call asks for. [thread: lane] */
int context_put(struct sequence *q, const float *theta, const struct hybrid_norms *norms,
                struct err *e);

#endif
