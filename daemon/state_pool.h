/* Memory for the states and logits of a model's sequences, kept from one request to the next: to clear
 * 2.7 MB takes longer than all else that a request needs outside the model. What is taken is all zero:
 * it is cleared when it is given back, after the answer's end and off the worker's thread, so that nothing of a
 * request outlives it.
 *
 * Threads: any. Limits: `most` pairs and STATE_POOL_BYTES are kept, what is more is freed. */
#ifndef DAEMON_STATE_POOL_H
#define DAEMON_STATE_POOL_H

#include "engine/rwkv/rwkv.h"

#include <pthread.h>

#define STATE_POOL_BYTES ((size_t)256 << 20)

struct state_pair {
    float *state;  /* [rwkv_state_floats], 64-byte aligned */
    float *logits; /* [V], the same */
};

struct state_pool {
    const struct rwkv_info *info;
    pthread_mutex_t lock;
    size_t n, most;
    struct state_pair *kept; /* [most] guard: lock; n are there */
};

/* ERR_NOMEM as a negative number; state_pool_fini is fine then too. */
int state_pool_init(struct state_pool *p, const struct rwkv_info *info, size_t most);
void state_pool_fini(struct state_pool *p);
/* All zero. False: no memory. */
bool state_pool_take(struct state_pool *p, struct state_pair *out);
/* Any two blocks of those sizes; NULLs are fine. */
void state_pool_give(struct state_pool *p, struct state_pair s);

#endif
