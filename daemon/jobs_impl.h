/* The inside of jobs: what a kind of job is, and what it may do while it runs. */
#ifndef DAEMON_JOBS_IMPL_H
#define DAEMON_JOBS_IMPL_H

#include "daemon/jobs.h"
#include "daemon/lane.h"

struct job;

/* The table of jobs that wait or run; those that have ended are in the store alone. */
struct jobs {
    pthread_mutex_t lock; /* before a stream's lock; never held while waiting for the store */
    struct list live;     /* guard: lock */
    size_t n;             /* guard: lock; live ones and those being made */
    bool draining;        /* guard: lock */
};

struct job_run {
    struct service *svc;
    struct lane *lane;
    struct job *job;
    const char *id, *request;
    const char *plan;  /* what the kind's plan has found; NULL: it has none */
    char dir[768];     /* for its files; made */
    char *result;      /* a JSON object, malloc'd; a run that fails may leave NULL or what it has made */
    atomic_bool *stop; /* set when it must end: with a checkpoint, if it can */
};

struct job_kind {
    const char *name;
    enum lane_urgency urgency;
    bool resumable; /* run again in the same folder it goes on from its checkpoint */
    /* What can be refused at once. [thread: who submits] */
    int (*check)(const struct service *s, const char *request, struct err *e);
    /* What the store has to say before the job is made: refusals, and what will be read, made and
     * needed: a JSON object, malloc'd, for who asks and for run. NULL: nothing. [thread: lane; may wait for
     * the store] */
    int (*plan)(struct service *s, const char *request, char **plan, struct err *e);
    /* [thread: lane; may wait for the store] */
    int (*run)(struct job_run *r, struct err *e);
    const char *own; /* NULL, or its requests are written by us (job_call.own) for this other resource */
};
extern const struct job_kind job_train_state, job_train_dit, job_train_hybrid, job_bake_dataset,
    job_generate_states;

struct job_progress {
    uint64_t step, steps; /* done, of */
    double eta_s;         /* NAN: not known */
    const char *metrics;  /* a JSON object; NULL: as before */
};
/* Between two steps: tells who watches, lets what is more urgent run. p NULL: it stands as before. ERR_CANCELLED, ERR_UNAVAILABLE: the
 * job must end (*stop is set too). */
int job_proceed(struct job_run *r, const struct job_progress *p, struct err *e);

int jobs_init(struct jobs *j, struct err *e);
void jobs_fini(struct jobs *j);
/* Takes up what an earlier process left, and removes the folders of jobs that have ended. [before requests
 * come] */
int jobs_resume(struct service *s, struct err *e);
/* No more jobs begin, the one that runs stops, nobody watches any more. */
void jobs_drain(struct service *s);
/* Ends the watching of clients that have gone. */
void jobs_sweep(struct service *s);

#endif
