/* One job in memory: what jobs.c (requests about jobs) and job_run.c (their life on the lane) share. */
#ifndef DAEMON_JOB_IMPL_H
#define DAEMON_JOB_IMPL_H

#include "daemon/items.h"
#include "daemon/service_impl.h"

enum job_status {
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_SUCCEEDED,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_INTERRUPTED,
    JOB_STATUSES
};

struct job {
    struct lane_task lane;
    struct list link; /* guard: jobs.lock; in jobs.live, or nowhere: it has ended */
    struct service *svc;
    const struct job_kind *kind;
    char id[40];
    char *request, *plan; /* JSON; plan: NULL, or what the kind's has found; set once */
    uint64_t seq;
    atomic_bool stop;
    /* guard: jobs.lock, all that follows */
    enum job_status status;
    bool cancel;  /* asked to */
    bool resumed; /* an earlier process began it */
    uint64_t attempts, step, steps;
    uint64_t killed; /* attempts that the process did not survive */
    double eta_s;
    int64_t created_ms, started_ms, ended_ms; /* 0: not yet */
    char *metrics, *result;                   /* JSON objects, or NULL */
    struct err err;
    uint64_t told_ns;
    struct list watchers; /* job_call.watch */
    size_t n_watchers;
};

/* NULL: there is no such kind. */
const struct job_kind *job_kind_find(const char *name);
const char *job_status_word(enum job_status s);
struct job *job_new(struct service *s, const struct job_kind *k, const char *request);
void job_free(struct job *j); /* NULL is fine */
/* As the API shows it, malloc'd; NULL: no memory. guard: lock */
char *job_json(const struct job *j);
/* The same for the store: with the request, which may be long, and what only we need. guard: lock */
char *job_record(const struct job *j);
/* What the API shows of a record, malloc'd; NULL: it makes no sense. */
char *job_shown(const char *record);
/* The job out of its record. ERR_STATE_CORRUPT: it makes no sense. */
int job_read(struct service *s, const struct item_info *i, struct job **out, struct err *e);
/* An item for the store around json. */
struct store_item job_item(const struct job *j, const char *json);
/* Hands it to the lane. */
void job_post(struct job *j);
/* Shows the watchers how it stands. guard: lock */
void job_tell(struct job *j);
/* It has ended: its watchers go with the last word; e: or with an error. guard: lock */
void job_end_watchers(struct job *j, const struct err *e);
/* Drops the call's place among the watchers. guard: lock */
void job_unwatch(struct job *j, struct job_call *c, const char *json, const struct err *e);
/* Appends a text to a call's result. ERR_NOMEM. */
int job_call_add(struct job_call *c, const char *json, uint64_t seq, struct err *e);
/* The folder of a job's files: its name; and its end with all files. */
int job_dir(const struct service *s, const char *id, char *out, size_t size, struct err *e);
void job_dir_remove(const struct service *s, const char *id);

#endif
