/* Requests about jobs: from the HTTP thread through the store to their answer. */
#include "daemon/jobs.h"

#include "daemon/base/clock.h"
#include "daemon/job_impl.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static void job_call_free(struct call *call)
{
    struct job_call *c = (struct job_call *)(void *)call;
    for (size_t i = 0; i < c->n_jobs; i++)
        free(c->jobs[i].json);
    free(c->jobs);
    free(c->id);
    free(c->request);
    free(c->kind);
    free(c->status);
    free(c);
}

struct job_call *job_call_new(enum job_op op)
{
    struct job_call *c = calloc(1, sizeof *c);
    if (!c || call_init(&c->call, job_call_free) < 0) {
        free(c);
        return NULL;
    }
    c->op = op;
    c->limit = 100;
    list_init(&c->watch);
    return c;
}

int job_call_add(struct job_call *c, const char *json, uint64_t seq, struct err *e)
{
    struct job_text *more = realloc(c->jobs, (c->n_jobs + 1) * sizeof *more);
    if (!more)
        return err_set(e, ERR_NOMEM, "no memory for an answer");
    c->jobs = more;
    char *copy = strdup(json);
    if (!copy)
        return err_set(e, ERR_NOMEM, "no memory for an answer");
    c->jobs[c->n_jobs++] = (struct job_text){copy, seq};
    return 0;
}

/* A request on its way through the store. */
struct question {
    struct lane_task lane; /* CREATE of a kind that plans */
    struct service *svc;
    struct job_call *call; /* one reference */
    struct job *job;       /* CREATE: not in the table yet */
};

static void answer(struct question *q, const struct err *e)
{
    struct service *s = q->svc;
    struct call *c = &q->call->call;
    free(q);
    service_end_call(s, NULL, c, e);
}

/* guard: lock */
static struct job *find(struct service *s, const char *id)
{
    LIST_FOR_EACH(n, &s->jobs.live)
    {
        struct job *j = LIST_OWNER(n, struct job, link);
        if (!strcmp(j->id, id))
            return j;
    }
    return NULL;
}

static int add_job(struct job_call *c, const struct job *j, struct err *e)
{
    char *json = job_json(j);
    int rc =
        json ? job_call_add(c, json, j->seq, e) : err_set(e, ERR_NOMEM, "no memory for an answer");
    free(json);
    return rc;
}

/* ---- the store's answers ---- */

/* [thread: the store's] */
static void on_made(void *arg, const struct err *e, const struct store_item *items, size_t n,
                    bool has_more, void *data, size_t bytes)
{
    struct question *q = arg;
    struct service *s = q->svc;
    struct job *j = q->job;
    struct err own = *e;
    (void)n;
    (void)has_more;
    (void)data;
    (void)bytes;
    pthread_mutex_lock(&s->jobs.lock);
    if (own.code) {
        s->jobs.n--;
    } else {
        j->seq = items[0].seq;
        list_push(&s->jobs.live, &j->link);
        add_job(q->call, j, &own); /* without memory the job is there all the same */
    }
    pthread_mutex_unlock(&s->jobs.lock);
    if (e->code)
        job_free(j);
    else
        job_post(j);
    answer(q, &own);
}

/* A stored record as the answer has it: what runs is shown as it stands. */
static int add_item(struct question *q, const struct store_item *i, struct err *e)
{
    int rc = 1;
    pthread_mutex_lock(&q->svc->jobs.lock);
    const struct job *j = find(q->svc, i->name);
    if (j)
        rc = add_job(q->call, j, e);
    pthread_mutex_unlock(&q->svc->jobs.lock);
    if (rc <= 0)
        return rc;
    char *json = i->meta ? job_shown(i->meta) : NULL;
    rc = json ? job_call_add(q->call, json, i->seq, e)
              : err_set(e, ERR_STATE_CORRUPT, "the record of the job %s is damaged", i->name);
    free(json);
    return rc;
}

/* [thread: the store's] */
static void on_found(void *arg, const struct err *e, const struct store_item *items, size_t n,
                     bool has_more, void *data, size_t bytes)
{
    struct question *q = arg;
    struct err own = *e;
    (void)data;
    (void)bytes;
    /* A list leaves out what is damaged; it can be removed. */
    for (size_t i = 0; i < n && !own.code; i++)
        if (items[i].meta || q->call->op == JOB_GET)
            add_item(q, &items[i], &own);
    q->call->has_more = has_more;
    q->call->removed = q->call->op == JOB_DELETE;
    answer(q, &own);
}

/* [thread: the store's] */
static void on_cancelled(void *arg, const struct err *e, const struct store_item *items, size_t n,
                         bool has_more, void *data, size_t bytes)
{
    (void)items;
    (void)n;
    (void)has_more;
    (void)data;
    (void)bytes;
    answer(arg, e);
}

/* ---- the requests ---- */

static int ask(struct service *s, struct job_call *c, struct question **out, struct err *e)
{
    struct question *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    *q = (struct question){.svc = s, .call = c};
    int rc = service_admit(s, NULL, e);
    if (rc < 0) {
        free(q);
        return rc;
    }
    call_ref(&c->call);
    *out = q;
    return 0;
}

/* The store refused to take the question. */
static int withdraw(struct question *q, int rc)
{
    struct service *s = q->svc;
    call_unref(&q->call->call);
    free(q);
    service_leave(s);
    return rc;
}

static int kind_of(const struct service *s, const struct job_call *c, const struct job_kind **out,
                   struct err *e)
{
    json_t *o = json_loads(c->request, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    const char *name = json_string_value(json_object_get(o, "kind"));
    const struct job_kind *k = *out = job_kind_find(name);
    int rc = 0;
    if (!k)
        rc = err_set_param(e, ERR_INVALID, "kind", "there are no jobs of the kind '%.40s'",
                           name ? name : "");
    else if (k->own && !c->own)
        rc = err_set_param(e, ERR_INVALID, "kind", "jobs of the kind %s are made by %s", k->name,
                           k->own);
    json_decref(o);
    return rc < 0 ? rc : k->check(s, c->request, e);
}

static int take_place(struct service *s, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->jobs.lock);
    if (s->jobs.n >= JOBS_MAX)
        rc = err_set(e, ERR_BUSY, "%d jobs wait or run: try again when one has ended", JOBS_MAX);
    else
        s->jobs.n++;
    pthread_mutex_unlock(&s->jobs.lock);
    return rc;
}

/* Writes the job's record; on_made is next. */
static int record(struct question *q, struct err *e)
{
    struct job *j = q->job;
    char *json = job_record(j);
    struct store_item item = job_item(j, json);
    int rc = json ? store_put_item_take(q->svc->options.store, &item, NULL,
                                        &(struct store_item_write){0}, on_made, q, e)
                  : err_set(e, ERR_NOMEM, "no memory for a job");
    free(json);
    return rc;
}

/* [thread: lane] */
static void plan(struct lane *l, struct lane_task *t)
{
    struct question *q = (struct question *)(void *)t;
    struct job *j = q->job;
    struct err e = {0};
    (void)l;
    int rc = j->kind->plan(q->svc, j->request, &j->plan, &e);
    if (rc == 0)
        rc = record(q, &e);
    if (rc < 0)
        on_made(q, &e, NULL, 0, false, NULL, 0);
}

static int create(struct service *s, struct job_call *c, struct err *e)
{
    const struct job_kind *k;
    struct question *q = NULL;
    int rc = kind_of(s, c, &k, e);
    if (rc < 0 || (rc = take_place(s, e)) < 0)
        return rc;
    struct job *j = job_new(s, k, c->request);
    rc = j ? ask(s, c, &q, e) : err_set(e, ERR_NOMEM, "no memory for a job");
    if (rc == 0) {
        q->job = j;
        q->lane = (struct lane_task){.urgency = LANE_NOW, .bounded = true, .run = plan};
        list_init(&q->lane.link);
        j->created_ms = clock_wall_ms();
        snprintf(c->made, sizeof c->made, "%s", j->id);
        rc = k->plan ? lane_post(&s->lane, &q->lane, e) : record(q, e);
        if (rc < 0)
            withdraw(q, rc);
    }
    if (rc == 0)
        return 0;
    job_free(j);
    pthread_mutex_lock(&s->jobs.lock);
    s->jobs.n--;
    pthread_mutex_unlock(&s->jobs.lock);
    return rc;
}

/* Adds the call to who watches. guard: lock */
static int watch(struct job *j, struct job_call *c, struct err *e)
{
    if (j->svc->jobs.draining)
        return err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    if (j->n_watchers == JOB_WATCHERS)
        return err_set(e, ERR_BUSY, "%d clients follow this job already", JOB_WATCHERS);
    char *json = job_json(j);
    if (!json || stream_push(&c->call.stream, json, strlen(json)) < 0) {
        free(json);
        return err_set(e, ERR_NOMEM, "no memory for an answer");
    }
    free(json);
    list_push(&j->watchers, &c->watch);
    j->n_watchers++;
    return 0;
}

/* Cancels a live job and writes that down: one that waits has ended here and now, and the lane only
 * frees it; one that runs ends at its next step. The record is sent under the lock, so that it goes
 * before the one that the end of the job writes. guard: lock */
static int cancel(struct question *q, struct job *j, struct err *e)
{
    if (j->status != JOB_QUEUED && j->status != JOB_RUNNING)
        return 1; /* it is just ending */
    bool waits = j->status == JOB_QUEUED, asked = j->cancel;
    j->cancel = true;
    if (waits) {
        j->status = JOB_CANCELLED;
        j->ended_ms = clock_wall_ms();
    }
    char *json = job_record(j);
    const struct store_item item = job_item(j, json);
    int rc = json ? add_job(q->call, j, e) : err_set(e, ERR_NOMEM, "no memory for a job's record");
    if (rc == 0)
        rc = store_put_item_take(q->svc->options.store, &item, NULL,
                                 &(struct store_item_write){.replace = true}, on_cancelled, q, e);
    free(json);
    if (rc < 0) { /* refused: it goes on as if nobody had asked */
        j->cancel = asked;
        j->status = waits ? JOB_QUEUED : j->status;
        j->ended_ms = 0;
        return rc;
    }
    atomic_store(&j->stop, true);
    if (waits) {
        list_remove(&j->link);
        j->svc->jobs.n--;
        job_end_watchers(j, NULL);
    }
    return rc;
}

enum said { SAID_NOTHING = 1, SAID_ALL, SAID_LATER }; /* LATER: the call ends through a callback */

/* What can be said of a live job. An error, or enum said. */
static int about_live(struct question *q, struct err *e)
{
    struct job_call *c = q->call;
    struct service *s = q->svc;
    int said = SAID_NOTHING;
    pthread_mutex_lock(&s->jobs.lock);
    struct job *j = find(s, c->id);
    if (j && c->op == JOB_WATCH) {
        int rc = watch(j, c, e);
        said = rc < 0 ? rc : SAID_LATER;
        if (rc == 0)
            free(q); /* the job ends the call */
    } else if (j) {
        int rc = c->op == JOB_DELETE ? cancel(q, j, e) : 1;
        said = rc == 0 ? SAID_LATER : rc;
        if (rc > 0)
            said = (rc = add_job(c, j, e)) < 0 ? rc : SAID_ALL;
    }
    pthread_mutex_unlock(&s->jobs.lock);
    return said;
}

static int about_one(struct question *q, struct err *e)
{
    struct job_call *c = q->call;
    struct store *store = q->svc->options.store;
    int said = about_live(q, e);
    if (said == SAID_ALL)
        answer(q, &(struct err){0});
    if (said != SAID_NOTHING)
        return said < 0 ? said : 0;
    return c->op == JOB_DELETE ? store_delete_item(store, STORE_JOB, c->id, 0, on_found, q, e)
                               : store_get_item(store, STORE_JOB, c->id, false, on_found, q, e);
}

int service_job(struct service *s, struct job_call *c, struct err *e)
{
    struct question *q;
    if (c->op == JOB_CREATE)
        return create(s, c, e);
    int rc = ask(s, c, &q, e);
    if (rc < 0)
        return rc;
    if (c->op == JOB_LIST) {
        const struct store_item_query query = {.kind = STORE_JOB,
                                               .type = c->kind,
                                               .status = c->status,
                                               .newest = true,
                                               .before = c->before,
                                               .limit = c->limit};
        rc = store_list_items(s->options.store, &query, on_found, q, e);
    } else {
        rc = about_one(q, e);
    }
    return rc < 0 ? withdraw(q, rc) : 0;
}
