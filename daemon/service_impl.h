/* The inside of the service, and what its owner (cmd_serve.c, tests) does with it.
 *
 *     service_new(&options, &svc, &e);   starts the workers and the porter
 *     loop_run(loop);                    until the drain is over
 *     service_free(svc);                 ends what still runs, joins the threads
 *
 * Order of the end: service_free, then store_close, registry_close, loop_free. */
#ifndef DAEMON_SERVICE_IMPL_H
#define DAEMON_SERVICE_IMPL_H

#include "daemon/guide.h"
#include "daemon/jobs_impl.h"
#include "daemon/lane.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/metrics.h"
#include "daemon/porter.h"
#include "daemon/registry.h"
#include "daemon/service.h"
#include "daemon/sessions.h"
#include "daemon/state_cache.h"
#include "store/store.h"

#define MAX_PROMPT (16u * 1024 * 1024) /* tokens */

struct diffusers;
struct worker;

struct service_options {
    const struct log *log; /* NULL: silence */
    struct store *store;
    struct registry *registry;
    struct loop *loop;
    const char *backup_dir; /* NULL: no backups */
    const char *work_dir;   /* for the files of jobs; NULL: jobs that have files are refused */
    uint64_t dataset_bytes; /* of texts and baked states of data sets; 0: any */
    uint64_t train_bytes;   /* memory that a training job may take; 0: any */
    uint64_t generation_seconds; /* a generation that is estimated to take longer is a job; 0: none is */
    uint64_t max_context;   /* tokens of a context; 0 = 4194304 */
    size_t max_sequences;   /* stepped together, per model; 0 = 32 */
    size_t max_queue;       /* waiting, per model */
    size_t max_sessions;    /* states parked for chats that go on, and ... */
    uint64_t session_bytes; /* ... their bytes, of all models */
    size_t state_cache;     /* bytes of states kept in memory; 0 = none */
    uint64_t request_ns;    /* a call that takes longer ends with ERR_TIMEOUT; 0: none does */
    int lane_threads;       /* of the background lane; 0 = one a processor */
    uint64_t park_ns;       /* a stream that stays full so long ends its request; 0 = 30 s */
};

struct service {
    struct service_options options; /* set once */
    struct metrics *metrics;
    struct state_cache *cache; /* NULL: off */
    struct porter porter;
    struct guider guider;
    struct sessions *sessions;
    struct lane lane;
    struct jobs jobs;
    struct diffusers *diffusers; /* lane only */
    struct worker **workers;     /* [registry->n] */
    atomic_bool cancel_all;      /* the drain's deadline has passed: read once a token */
    atomic_bool draining;

    pthread_mutex_t lock;
    pthread_cond_t idle; /* live has become 0 */
    size_t live;         /* guard: lock; admitted calls that have not ended */
    size_t n_files;      /* guard: lock; of these, those that carry a state's file: see porter.h */
    struct list claims;  /* guard: lock; names that are being written */
    struct mail drained; /* guard: lock; posted to the loop when live is 0, once */
    loop_fn *on_drained; /* guard: lock; NULL: nobody waits */
    void *on_drained_arg;
    struct loop_timer *drain_timer; /* loop only */
};

int service_new(const struct service_options *o, struct service **out, struct err *e)
    __attribute__((warn_unused_result));
/* Refuses new calls, cancels those that run, waits for them, joins all threads. NULL is fine. */
void service_free(struct service *s);
/* Refuses new calls from now on; those that run have timeout_ms, then they are cancelled. done(arg)
 * is called on the loop when the last has ended. [thread: loop] */
void service_drain(struct service *s, uint64_t timeout_ms, loop_fn *done, void *arg);

/* Counts a call in; worker NULL: it needs none. ERR_UNAVAILABLE, ERR_BUSY. */
int service_admit(struct service *s, struct worker *w, struct err *e);
/* A place in the worker's queue is free again. Before the call's stream ends, so that who sees the
 * end may come again. */
void service_release(struct service *s, struct worker *w);
/* The call has ended: s must not be used after this by who is not its owner. */
void service_leave(struct service *s);

/* Ends a call's stream: counts it, keeps the error (NULL or code 0: none). The service's reference and
 * its leaving are still to come, ... */
void service_finish_call(struct service *s, struct worker *w, struct call *c, const struct err *e);
/* ... which this does too. */
void service_end_call(struct service *s, struct worker *w, struct call *c, const struct err *e);

/* The right to write a name, as service.h has it: lies in who holds it and borrows the name. A claim
 * without a name is not held, and giving it back does nothing. ERR_STATE_BUSY. */
struct claim {
    struct list link;
    const char *name;
};
int service_claim(struct service *s, struct claim *c, const char *name, struct err *e);
void service_unclaim(struct service *s, struct claim *c);

/* STATE_BAKE and STATE_APPEND of service_state. */
int service_bake(struct service *s, struct state_call *c, struct err *e);
/* Where the record of a state that was put goes. */
struct record_to {
    store_state_fn *done;
    void *arg;
};
/* Reads the file of a STATE_IMPORT, then claims the name (the caller gives that back, also on failure) and
 * puts the state; an error is returned, else to.done is called. [thread: porter] */
int service_import(struct service *s, const struct state_call *c, struct claim *claim,
                   struct record_to to, struct err *e);
int service_check_orientation(const struct state_call *c, struct err *e);
/* A store's record as state_info, strings copied. ERR_NOMEM. */
int state_info_fill(struct state_info *out, const struct store_state *s);
void state_info_fini(struct state_info *i);
/* Is the state `ref`, whose record names this fingerprint and model, of m? ERR_STATE_INCOMPATIBLE. */
int state_check_model(const char *fingerprint, const char *model, const char *ref,
                      const struct model *m, struct err *e);

#endif
