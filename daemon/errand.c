#include "daemon/errand_impl.h"

#include "daemon/base/clock.h"
#include "daemon/fetch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 1000 /* records of a question to the store */

static const struct errand_impl *const impls[] = {
    [ERRAND_EDIT] = &errand_edit,       [ERRAND_COMPARE] = &errand_compare,
    [ERRAND_PROJECT] = &errand_project, [ERRAND_NEIGHBORS] = &errand_neighbors,
    [ERRAND_ITEM] = &errand_item,       [ERRAND_GENERATE] = &errand_generate};

struct task {
    struct lane_task lane;
    struct service *svc;
    struct errand *errand; /* one reference */
};

int errand_proceed(const struct errand_run *r, struct err *e)
{
    if (r->job)
        return job_proceed(r->job, NULL, e);
    lane_yield(r->lane);
    if (atomic_load_explicit(&r->call->cancel, memory_order_acquire))
        return err_set(e, ERR_CANCELLED, "the client has gone");
    if (r->call->deadline_ns && clock_ns() > r->call->deadline_ns)
        return err_set(e, ERR_TIMEOUT, "the time for the request is over");
    if (atomic_load(&r->svc->cancel_all))
        return err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    return 0;
}

int errand_for_each_state(const struct errand_run *r, struct store_query query,
                          int (*each)(void *arg, const struct state_info *record, struct err *e),
                          void *arg, struct err *e)
{
    char after[129] = "";
    bool more = true;
    int rc = 0;
    while (rc == 0 && more) {
        struct state_info *page;
        size_t n;
        query.after = after;
        query.limit = PAGE;
        if ((rc = fetch_list(r->svc, &query, &page, &n, &more, e)) < 0)
            return rc;
        for (size_t i = 0; i < n; i++) {
            snprintf(after, sizeof after, "%s", page[i].name);
            if (rc == 0 && !page[i].damaged &&
                !strcmp(page[i].fingerprint, r->model->rwkv_info->fingerprint))
                rc = each(arg, &page[i], e);
            state_info_fini(&page[i]);
        }
        free(page);
        if (rc == 0)
            rc = errand_proceed(r, e);
    }
    return rc;
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
        .lane = {.urgency = c->samples ? LANE_GENERATE : impls[c->kind]->urgency, .run = run}, .svc = s, .errand = c};
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
    if (rc == 0)
        metrics_add(s->metrics, METRIC_ERRANDS, 1);
    if (rc < 0) {
        metrics_add(s->metrics, METRIC_REFUSED, 1);
        call_unref(&c->call);
        free(t);
        service_leave(s);
    }
    return rc;
}
