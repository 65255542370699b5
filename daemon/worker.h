/* The thread of one model: steps all its sequences as one batch (continuous batching).
 *
 * Threads: worker_new, worker_free: the service's owner; the posts and counts: any. */
#ifndef DAEMON_WORKER_H
#define DAEMON_WORKER_H

#include "daemon/sequence.h"
#include "daemon/state_pool.h"

int worker_new(struct service *s, struct model *m, struct worker **out, struct err *e)
    __attribute__((warn_unused_result));
/* Joins the thread; it must have no sequences left. NULL is fine. */
void worker_free(struct worker *w);

/* Puts q (NEW or FIND) into the worker's queue. */
void worker_take_post(struct worker *w, struct sequence *q);
/* Ends those in the queue that were cancelled or are late. */
void worker_end_waiting(struct worker *w);
/* Gives q (LOAD) back, its state in memory or q->load_error filled. */
void worker_loaded_post(struct worker *w, struct sequence *q);

/* Gives q back with the mask of its next token. */
void worker_guided_post(struct worker *w, struct sequence *q);

/* Calls admitted and not yet ended: the service counts here. guard: service.lock */
size_t *worker_admitted(struct worker *w);

/* The places, as last shown, into out [max_sequences]. */
void worker_get_slots(const struct worker *w, struct slot_info *out);

struct worker_counts {
    size_t waiting, active, parked;
};
void worker_get_counts(struct worker *w, struct worker_counts *out);
/* Where its sequences take their memory from. */
struct state_pool *worker_states(struct worker *w);
struct model *worker_model(const struct worker *w);

#endif
