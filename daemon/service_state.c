/* The service's smaller half: records of states straight from the store, health and numbers. */
#include "daemon/base/clock.h"
#include "daemon/service_impl.h"
#include "daemon/state_record.h"
#include "daemon/worker.h"

#include <stdlib.h>
#include <string.h>

/* A question to the store on its way. */
struct question {
    struct mail mail; /* to the porter */
    struct service *svc;
    struct state_call *call; /* one reference */
    uint64_t asked_ns;
};

/* Does the call carry a state's file, which the porter looks at? */
static bool has_file(const struct state_call *c)
{
    return c->op == STATE_DATA;
}

static int admit(struct service *s, const struct state_call *c, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (has_file(c) && s->n_files == PORTER_FILES)
        rc = err_set(e, ERR_BUSY, "%d files of states are on their way: try again later",
                     PORTER_FILES);
    else if (has_file(c))
        s->n_files++;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void release(struct service *s, const struct state_call *c)
{
    pthread_mutex_lock(&s->lock);
    s->n_files -= has_file(c);
    pthread_mutex_unlock(&s->lock);
}

static bool copy(char **to, const char *from)
{
    *to = strdup(from ? from : "");
    return *to != NULL;
}

int state_info_fill(struct state_info *out, const struct store_state *s)
{
    *out = (struct state_info){
        .version = s->version,
        .n_tokens = s->n_tokens,
        .bytes = s->bytes,
        .n_layer = s->n_layer,
        .n_embd = s->n_embd,
        .head_size = s->head_size,
        .has_logits = s->has_logits,
        .created_ms = s->created_ms,
    };
    bool ok = copy(&out->name, s->name) && copy(&out->model, s->model) &&
              copy(&out->fingerprint, s->fingerprint) &&
              copy(&out->weights_type, s->weights_type) && copy(&out->sha256, s->sha256) &&
              copy(&out->parents, s->parents) && copy(&out->origin, s->origin) &&
              copy(&out->tags, s->tags) && copy(&out->norms, s->norms);
    return ok ? 0 : ERR_NOMEM;
}

static void answer(struct question *q, const struct err *e)
{
    struct service *s = q->svc;
    struct call *c = &q->call->call;
    metrics_observe_ns(s->metrics, METRIC_STORE, clock_ns() - q->asked_ns);
    release(s, q->call);
    free(q);
    service_end_call(s, NULL, c, e);
}

static void keep_records(struct state_call *c, const struct store_state *states, size_t n,
                         struct err *e)
{
    if (!e->code && n && !(c->states = calloc(n, sizeof *c->states)))
        err_set(e, ERR_NOMEM, "no memory for a list of states");
    for (size_t i = 0; i < n && !e->code; i++) {
        c->n_states = i + 1;
        if (state_info_fill(&c->states[i], &states[i]) < 0)
            err_set(e, ERR_NOMEM, "no memory for a list of states");
    }
}

static void on_states(void *arg, const struct err *e, const struct store_state *states, size_t n,
                      bool has_more)
{
    struct question *q = arg;
    struct err own = *e;
    keep_records(q->call, states, n, &own);
    q->call->has_more = has_more;
    answer(q, &own);
}

static void on_state(void *arg, const struct err *e, const struct store_state *state, void *blob,
                     size_t blob_bytes)
{
    (void)blob_bytes;
    free(blob);
    on_states(arg, e, state, e->code ? 0 : 1, false);
}

/* [thread: porter] */
static void on_verify(struct mail *m)
{
    struct question *q = LIST_OWNER(m, struct question, mail);
    const struct state_call *c = q->call;
    const struct state_info *i = &c->states[0];
    struct err e = {0};
    if (atomic_load_explicit(&c->call.cancel, memory_order_acquire))
        err_set(&e, ERR_CANCELLED, "the client has gone");
    else if (state_record_verify(c->data, c->data_bytes, i->sha256, &e) < 0)
        err_prefix(&e, "state %s@%llu", i->name, (unsigned long long)i->version);
    answer(q, &e);
}

/* [thread: the store's] */
static void on_file(void *arg, const struct err *e, const struct store_state *state, void *blob,
                    size_t blob_bytes)
{
    struct question *q = arg;
    struct err own = *e;
    q->call->data = blob;
    q->call->data_bytes = blob_bytes;
    keep_records(q->call, state, own.code ? 0 : 1, &own);
    if (own.code) {
        answer(q, &own);
        return;
    }
    q->mail.run = on_verify;
    porter_post(&q->svc->porter, &q->mail);
}

static int ask(struct service *s, struct question *q, const char *name, uint64_t version,
               struct err *e)
{
    struct store *store = s->options.store;
    struct state_call *c = q->call;
    switch (c->op) {
    case STATE_GET:
        return store_get_state(store, name, version, false, on_state, q, e);
    case STATE_DATA:
        return store_get_state(store, name, version, true, on_file, q, e);
    case STATE_DELETE:
        return store_delete_state(store, name, version, 0, on_state, q, e);
    case STATE_LIST:
        return store_list_states(
            store,
            &(struct store_query){.after = c->after, .prefix = c->prefix, .limit = c->limit},
            on_states, q, e);
    case STATE_BAKE:
        break;
    }
    return err_set(e, ERR_INTERNAL, "no such question");
}

int service_state(struct service *s, struct state_call *c, struct err *e)
{
    char name[129] = "";
    uint64_t version = 0;
    if (c->op == STATE_BAKE)
        return service_bake(s, c, e);
    if (c->op != STATE_LIST && state_ref_parse(c->ref ? c->ref : "", name, &version, e) < 0)
        return e->code;
    if (c->op == STATE_LIST && (c->limit < 1 || c->limit > 1000))
        return err_set_param(e, ERR_INVALID, "limit", "limit is from 1 to 1000");
    struct question *q = malloc(sizeof *q);
    if (!q)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    *q = (struct question){.svc = s, .call = c, .asked_ns = clock_ns()};
    list_init(&q->mail.link);
    int rc = admit(s, c, e);
    if (rc == 0 && (rc = service_admit(s, NULL, e)) < 0)
        release(s, c);
    if (rc < 0) {
        free(q);
        return rc;
    }
    call_ref(&c->call);
    rc = ask(s, q, name, version, e);
    if (rc < 0) {
        release(s, c);
        call_unref(&c->call);
        free(q);
        service_leave(s);
    }
    return rc;
}

/* ---- the daemon itself ---- */

const struct log *service_log(const struct service *s)
{
    return s->options.log;
}

void service_get_limits(const struct service *s, struct service_limits *out)
{
    out->max_sequences = s->options.max_sequences;
    out->max_queue = s->options.max_queue;
}

bool service_ready(const struct service *s)
{
    return !atomic_load(&s->draining);
}

int service_every(struct service *s, unsigned ms, void (*fn)(void *arg), void *arg)
{
    struct err e;
    return loop_start_timer(s->options.loop, ms, ms, fn, arg, NULL, &e);
}

void service_count_http(struct service *s, const char *route, int status, double seconds)
{
    metrics_count_http(s->metrics, route, status, seconds);
}

static void write_worker(const struct service *s, struct buf *out, const char *metric,
                         const char *help, size_t (*pick)(const struct worker_counts *c))
{
    for (size_t i = 0; i < s->options.registry->n; i++) {
        struct worker_counts c;
        struct buf label;
        buf_init(&label, 1000);
        worker_get_counts(s->workers[i], &c);
        metrics_write_label(&label, "model", worker_model(s->workers[i])->name);
        if (!label.failed)
            metrics_write_one(out, "gauge", metric, i ? NULL : help, label.data, (double)pick(&c));
        buf_fini(&label);
    }
}

static size_t pick_waiting(const struct worker_counts *c)
{
    return c->waiting;
}

static size_t pick_active(const struct worker_counts *c)
{
    return c->active;
}

static size_t pick_parked(const struct worker_counts *c)
{
    return c->parked;
}

static void write_store(const struct service *s, struct buf *out)
{
    struct store_stats st;
    store_get_stats(s->options.store, &st);
    const struct {
        const char *type, *metric, *help;
        double value;
    } rows[] = {
        {"gauge", "states", "Named states, all versions", (double)st.states},
        {"gauge", "blobs", "Distinct contents of states", (double)st.blobs},
        {"gauge", "blob_bytes", "Bytes of these", (double)st.blob_bytes},
        {"gauge", "store_queued", "Requests waiting for the store", (double)st.queued},
        {"counter", "store_requests_total", "Requests to the store", (double)st.requests},
        {"counter", "store_errors_total", "Requests that the store could not serve",
         (double)st.errors},
        {"counter", "store_full_total", "Requests for which there was no room, by disk or quota",
         (double)st.refused_full},
        {"counter", "store_expired_total", "States removed when their time was over",
         (double)st.expired},
        {"counter", "store_damaged_total", "Damaged records met in lists", (double)st.damaged},
        {"counter", "store_backups_total", "Backups finished", (double)st.backups},
        {"counter", "store_busy_seconds_total", "Time the store has worked",
         (double)st.busy_ns * 1e-9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        metrics_write_one(out, rows[i].type, rows[i].metric, rows[i].help, NULL, rows[i].value);
}

int service_metrics(struct service *s, struct buf *out)
{
    metrics_write(s->metrics, out);
    write_worker(s, out, "sequences_waiting", "Sequences waiting for a place in the batch",
                 pick_waiting);
    write_worker(s, out, "sequences_active", "Sequences in the batch", pick_active);
    write_worker(s, out, "sequences_parked", "Of these waiting for their clients", pick_parked);
    write_store(s, out);
    return out->failed ? ERR_NOMEM : 0;
}
