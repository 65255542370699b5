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
    struct call *call;
};

struct errand_impl {
    enum lane_urgency urgency;
    /* What can be refused before it waits. [thread: who submits] */
    int (*check)(const struct errand *c, struct err *e);
    int (*run)(const struct errand_run *r, struct errand *c, struct err *e);
};

extern const struct errand_impl errand_edit, errand_compare;

/* Between two steps: lets what is more urgent run. ERR_CANCELLED, ERR_TIMEOUT, ERR_UNAVAILABLE: the
 * errand must end. */
int errand_proceed(const struct errand_run *r, struct err *e);

#endif
