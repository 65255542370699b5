#include "daemon/errand_impl.h"

#include "daemon/base/clock.h"

#include <stdlib.h>

static const struct errand_impl *const impls[] = {
    [ERRAND_EDIT] = &errand_edit, [ERRAND_COMPARE] = &errand_compare};

struct task {
    struct lane_task lane;
    struct service *svc;
    struct errand *errand; /* one reference */
};

int errand_proceed(const struct errand_run *r, struct err *e)
{
    lane_yield(r->lane);
    if (atomic_load_explicit(&r->call->cancel, memory_order_acquire))
        return err_set(e, ERR_CANCELLED, "the client has gone");
    if (r->call->deadline_ns && clock_ns() > r->call->deadline_ns)
        return err_set(e, ERR_TIMEOUT, "the time for the request is over");
    if (atomic_load(&r->svc->cancel_all))
        return err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    return 0;
}

/* [thread: lane] */
static void run(struct lane *l, struct lane_task *t)
{
    struct task *task = (struct task *)(void *)t;
    struct errand *c = task->errand;
    struct err e = {0};
    const struct errand_run r = {.svc = task->svc,
                                 .lane = l,
                                 .model = registry_model(task->svc->options.registry, c->model),
                                 .call = &c->call};
    if (errand_proceed(&r, &e) == 0)
        impls[c->kind]->run(&r, c, &e);
    free(task);
    service_end_call(r.svc, NULL, &c->call, &e);
}

int service_errand(struct service *s, struct errand *c, struct err *e)
{
    if (!c->model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "no model");
    if (impls[c->kind]->check(c, e) < 0)
        return e->code;
    struct task *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    *t = (struct task){
        .lane = {.urgency = impls[c->kind]->urgency, .run = run}, .svc = s, .errand = c};
    list_init(&t->lane.link);
    int rc = service_admit(s, NULL, e);
    if (rc < 0) {
        free(t);
        return rc;
    }
    if (s->options.request_ns && !c->call.deadline_ns)
        c->call.deadline_ns = c->call.received_ns + s->options.request_ns;
    call_ref(&c->call);
    rc = lane_post(&s->lane, &t->lane, e);
    if (rc < 0) {
        metrics_add(s->metrics, METRIC_REFUSED, 1);
        call_unref(&c->call);
        free(t);
        service_leave(s);
    }
    return rc;
}
