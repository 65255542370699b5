/* Jobs: work that is longer than a request should be, with a record in the store.
 *
 *     struct job_call *c = job_call_new(JOB_CREATE);
 *     c->request = strdup("{\"kind\": \"train_state\", ...}");
 *     service_job(svc, c, &e);                         (refused at once: 400, 404, 409, 429, 503)
 *     ... STREAM_END ...; c->call.err.code, c->jobs[0].json
 *     call_unref(&c->call);
 *
 * A job that was answered is on disk. It waits, runs on the background lane, and ends as succeeded,
 * failed, cancelled or interrupted. When the process ends before it does, the next one goes on with it:
 * a job that waited waits again; one that ran goes on from its checkpoint if its kind can (`resumed`),
 * else it is interrupted. One that ran when the process was killed for the third time is interrupted too.
 *
 * Limits: JOBS_MAX jobs wait or run, JOB_WATCHERS follow one. Threads and ownership: as service.h. */
#ifndef DAEMON_JOBS_H
#define DAEMON_JOBS_H

#include "daemon/base/list.h"
#include "daemon/service.h"

#define JOBS_MAX     32
#define JOB_WATCHERS 32

enum job_op {
    JOB_CREATE,
    JOB_LIST,
    JOB_GET,
    JOB_DELETE, /* cancels; one that has ended is removed */
    JOB_WATCH   /* each change is a record in the stream, as JSON; the last one is the result */
};

struct job_text {
    char *json; /* the job as the API shows it */
    uint64_t seq;
};

struct job_call {
    struct call call;
    enum job_op op;
    /* the request */
    char *id;            /* GET, DELETE, WATCH */
    char *request;       /* CREATE: a JSON object; its `kind` says what it means */
    bool own;            /* CREATE: the request was written by us (generation_request) */
    char *kind, *status; /* LIST: only those; NULL: any */
    uint64_t before;     /* LIST: made before the job with this seq; 0: from the newest */
    size_t limit;        /* LIST: 1..1000 */
    /* the result */
    struct job_text *jobs; /* [n_jobs] */
    size_t n_jobs;
    bool has_more, removed; /* removed: DELETE took away the record of a job that had ended */
    char made[40];          /* CREATE: its id */
    struct list watch;      /* guard: the table's lock */
};

struct job_call *job_call_new(enum job_op op); /* NULL: no memory */
/* ERR_JOB_NOT_FOUND comes through the call. */
int service_job(struct service *s, struct job_call *c, struct err *e);

#endif
