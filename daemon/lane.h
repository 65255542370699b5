/* The background lane: one thread with a pool of its own, at a lower priority than the batch, for work
 * that has no place in it: arithmetic on states, sampling from a diffuser, training, projections.
 *
 *     lane_start(&l, &(struct lane_options){.threads = 2, .limit = 64}, &e);
 *     task->urgency = LANE_NOW;  task->run = edit_run;
 *     lane_post(&l, task, &e);                               any thread; ERR_BUSY when full
 *     static void edit_run(struct lane *l, struct lane_task *t) { ... lane_pool(l) ... }
 *
 * The most urgent task runs first, of equals the oldest. A long task calls lane_yield between its steps
 * (about 50 ms): what is more urgent and waits runs then and there, to its end, before lane_yield
 * returns. So nothing waits longer than a step of something less urgent, and a task needs no state
 * machine: it may block (on the store, say) and be written from top to bottom. Cancelling is the
 * task's own matter.
 *
 * Threads: lane_start, lane_stop: the owner; lane_post: any; lane_yield, lane_pool: the task. */
#ifndef DAEMON_LANE_H
#define DAEMON_LANE_H

#include "daemon/base/err.h"
#include "daemon/base/list.h"
#include "engine/kernels/pool.h"

#include <pthread.h>
#include <stdbool.h>

enum lane_urgency {
    LANE_NOW,      /* a request waits for it, and it is short */
    LANE_CONTEXT,  /* a context's vectors: a request waits, and it takes milliseconds */
    LANE_GENERATE, /* sampling from a diffuser: a request waits */
    LANE_GENERATE_LONG, /* the same, where none does */
    LANE_TRAIN,
    LANE_BAKE, /* data sets */
    LANE_PROJECT,
    LANE_URGENCIES
};

struct lane;
struct lane_task {
    struct list link;
    enum lane_urgency urgency;
    bool bounded; /* its maker bounds how many there are: it does not count here */
    void (*run)(struct lane *l, struct lane_task *t); /* may free the task */
};

struct lane_options {
    int threads;  /* of the pool, the lane's own thread included */
    int nice;     /* 0 to 19, added to the process's */
    size_t limit; /* tasks that may wait */
};

struct lane {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list queued[LANE_URGENCIES]; /* guard: lock */
    size_t n;                           /* guard: lock */
    bool closed;                        /* guard: lock */
    struct lane_options options;        /* set once */
    struct pool *pool;                  /* set once */
    pthread_t thread;
    enum lane_urgency running; /* lane thread only */
};

int lane_start(struct lane *l, const struct lane_options *o, struct err *e)
    __attribute__((warn_unused_result));
/* Runs what waits, joins the thread. */
void lane_stop(struct lane *l);

/* The task is the lane's until it runs. ERR_BUSY, ERR_UNAVAILABLE: it stays the caller's. */
int lane_post(struct lane *l, struct lane_task *t, struct err *e);

/* Tasks that wait, without the bounded ones. Any thread. */
size_t lane_waiting(struct lane *l);
struct pool *lane_pool(const struct lane *l);
/* Between two steps of the running task (its pool at rest). */
void lane_yield(struct lane *l);

#endif
