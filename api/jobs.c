/* /v1/jobs: work that is longer than a request should be. */
#include "api/jobs.h"
#include "api/json.h"
#include "api/route.h"
#include "api/sse.h"
#include "api/states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct job_call *call_of(struct req *r)
{
    return (struct job_call *)(void *)r->sources[0].call;
}

/* Submits the call and waits for it; takes over the reference. rc < 0: drops it, and gives rc. */
static int submit(struct req *r, struct job_call *c, const struct task *t, int rc, struct err *e)
{
    if (rc == 0)
        rc = service_job(r->svc, c, e);
    if (rc < 0) {
        call_unref(&c->call);
        return rc;
    }
    req_add_source(r, &c->call);
    req_await(r, t, NULL);
    return 0;
}

/* A call about the job of the path. NULL: no memory. */
static struct job_call *call_of_path(struct req *r, enum job_op op, struct err *e)
{
    struct job_call *c = job_call_new(op);
    if (c && (c->id = strdup(r->params[0])))
        return c;
    if (c)
        call_unref(&c->call);
    err_set(e, ERR_NOMEM, "no memory for a request");
    return NULL;
}

static int finish_one(struct req *r, struct err *e)
{
    const struct job_call *c = call_of(r);
    if (!c->n_jobs)
        return err_set(e, ERR_INTERNAL, "a job without a record");
    req_reply_json(r, c->op == JOB_CREATE ? 202 : 200);
    if (c->op == JOB_CREATE)
        snprintf(r->reply.location, sizeof r->reply.location, "/v1/jobs/%s", c->made);
    buf_puts(&r->reply.body, c->jobs[0].json);
    return 0;
}

static const struct task one = {states_no_record, states_no_end, finish_one, NULL, false};

int jobs_create_take(struct req *r, char *request, bool own, struct err *e)
{
    struct job_call *c = request ? job_call_new(JOB_CREATE) : NULL;
    if (!c) {
        free(request);
        return err_set(e, ERR_NOMEM, "no memory for a request");
    }
    c->request = request;
    c->own = own;
    return submit(r, c, &one, 0, e);
}

int handle_job_create(struct req *r, struct err *e)
{
    json_t *o = decode_object(r->body.data, r->body.len, e);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return e->code ? e->code : jobs_create_take(r, text, false, e);
}

int handle_job_get(struct req *r, struct err *e)
{
    struct job_call *c = call_of_path(r, JOB_GET, e);
    return c ? submit(r, c, &one, 0, e) : e->code;
}

static int finish_delete(struct req *r, struct err *e)
{
    const struct job_call *c = call_of(r);
    struct jw w = {&r->reply.body, false};
    if (!c->removed)
        return finish_one(r, e);
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "job.deleted");
    jw_string(&w, "id", c->id);
    jw_bool(&w, "deleted", true);
    jw_end_object(&w);
    return 0;
}

int handle_job_delete(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_delete, NULL, false};
    struct job_call *c = call_of_path(r, JOB_DELETE, e);
    return c ? submit(r, c, &task, 0, e) : e->code;
}

/* ---- the list ---- */

static int finish_list(struct req *r, struct err *e)
{
    const struct job_call *c = call_of(r);
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_jobs; i++)
        jw_raw(&w, NULL, c->jobs[i].json, strlen(c->jobs[i].json));
    jw_end_array(&w);
    jw_bool(&w, "has_more", c->has_more);
    if (c->has_more)
        jw_uint(&w, "next_before", c->jobs[c->n_jobs - 1].seq);
    else
        jw_null(&w, "next_before");
    jw_end_object(&w);
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "the answer is too large to be held") : 0;
}

static int query_word(struct req *r, const char *name, char **out, struct err *e)
{
    char text[32];
    bool found;
    if (req_query(r, name, text, sizeof text, &found, e) < 0)
        return e->code;
    return !found || (*out = strdup(text)) ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
}

static int decode_query(struct req *r, struct job_call *c, struct err *e)
{
    static const char *const words[] = {"queued", "running",   "succeeded",
                                        "failed", "cancelled", "interrupted"};
    char text[32];
    bool found, known = false;
    if (states_query_limit(r, 1, &c->limit, e) < 0 || query_word(r, "kind", &c->kind, e) < 0 ||
        query_word(r, "status", &c->status, e) < 0 ||
        req_query(r, "before", text, sizeof text, &found, e) < 0)
        return e->code;
    for (size_t i = 0; c->status && i < sizeof words / sizeof *words; i++)
        known |= !strcmp(words[i], c->status);
    if (c->status && !known)
        return err_set_param(e, ERR_INVALID, "status", "there is no such status of a job");
    size_t n = strspn(text, "0123456789");
    if (found && (!n || n > 18 || text[n]))
        return err_set_param(e, ERR_INVALID, "before", "before is not a next_before of a list");
    c->before = found ? strtoull(text, NULL, 10) : 0;
    return 0;
}

int handle_job_list(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_list, NULL, false};
    struct job_call *c = job_call_new(JOB_LIST);
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    return submit(r, c, &task, decode_query(r, c, e), e);
}

/* ---- events ---- */

static void event(struct req *r, const char *json, size_t bytes)
{
    sse_begin(&r->out);
    buf_append(&r->out, json, bytes);
    sse_end(&r->out);
}

static void on_change(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)source;
    event(r, record, bytes);
}

static int finish_events(struct req *r, struct err *e)
{
    const struct job_call *c = call_of(r);
    (void)e;
    if (c->n_jobs)
        event(r, c->jobs[0].json, strlen(c->jobs[0].json));
    sse_done(&r->out);
    return 0;
}

int handle_job_events(struct req *r, struct err *e)
{
    static const struct task task = {on_change, states_no_end, finish_events, NULL, true};
    struct job_call *c = call_of_path(r, JOB_WATCH, e);
    return c ? submit(r, c, &task, 0, e) : e->code;
}
