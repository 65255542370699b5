/* Threads by role, so that a function can state on which it may run.
 *
 *     void loop_stop(struct loop *l) { ASSERT_THREAD(THREAD_LOOP); ... }
 *
 * Who owns what:
 *   LOOP     signals, timers, the drain (the main thread, in libuv)
 *   WORKER   one RWKV model's sequences, session and pool
 *   PORTER   a state on its way between a worker and the store: hashing, packing, checking
 *   LANE     background work (lane.h); the one of ours that may wait for the store
 *   OTHER    HTTP threads (made by libmicrohttpd), the store's thread, pool threads, tests
 *
 * Lock order: stream.lock, then libmicrohttpd's own. service.lock, then mailbox.lock. mailbox.lock
 * and metrics.lock are leaves. No lock is held while a callback runs, except stream.lock around
 * suspend and resume. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include "daemon/base/assert.h"
#include "daemon/base/err.h"

#include <pthread.h>

enum thread_kind { THREAD_OTHER, THREAD_LOOP, THREAD_WORKER, THREAD_PORTER, THREAD_LANE };

/* The role of the calling thread. */
enum thread_kind thread_kind(void);
/* Gives the calling thread a role and, unless name is NULL, a name (15 bytes are kept). */
void thread_enter(enum thread_kind kind, const char *name);
/* Starts a thread with role and name that runs fn(arg); join it with pthread_join. ERR_NOMEM,
 * ERR_UNAVAILABLE. */
int thread_start(pthread_t *out, enum thread_kind kind, const char *name, void (*fn)(void *arg),
                 void *arg, struct err *e);

/* CPUs that this process may run on (its affinity; a container's quota of time is not seen); at least 1. */
int thread_processors(void);

#define ASSERT_THREAD(kind) ASSERT(thread_kind() == (kind))

#endif
