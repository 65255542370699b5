/* How an errand runs: one function from top to bottom on the lane's thread. */
#ifndef DAEMON_ERRAND_IMPL_H
#define DAEMON_ERRAND_IMPL_H

#include "daemon/errand.h"
#include "daemon/lane.h"
#include "daemon/service_impl.h"

struct errand_run {
    struct service *svc;
    struct lane *lane;
    const struct model *model;
    struct call *call;   /* who waits for it; NULL: nobody does, it is part of ... */
    struct job_run *job; /* ... this job */
};

struct errand_impl {
    enum lane_urgency urgency;
    /* What can be refused before it waits. [thread: who submits] */
    int (*check)(const struct errand *c, struct err *e);
    int (*run)(const struct errand_run *r, struct errand *c, struct err *e);
};

extern const struct errand_impl errand_edit, errand_compare, errand_project, errand_neighbors,
    errand_item, errand_generate;

/* A selector's lists as flags over the model's layers and heads: [L + H], free(). NULL: no memory. */
bool *errand_flags(const struct rwkv_info *info, const struct edit_op *op);
/* ERR_INVALID: a layer or head that the model does not have; prefix before the field in error.param. */
int errand_check_select(const struct model_info *m, const struct edit_op *op, const char *prefix,
                        struct err *e);

/* Calls each(arg, record) for the latest versions of the run's model that match, in the order of names,
 * until it fails. query: prefix, tag. */
int errand_for_each_state(const struct errand_run *r, struct store_query query,
                          int (*each)(void *arg, const struct state_info *record, struct err *e),
                          void *arg, struct err *e);

/* Between two steps: lets what is more urgent run (for a job: job_proceed). ERR_CANCELLED, ERR_TIMEOUT, ERR_UNAVAILABLE: the
 * errand must end. */
int errand_proceed(const struct errand_run *r, struct err *e);

#endif
