#include "daemon/adjustment.h"

#include "daemon/base/clock.h"
#include "daemon/base/sha256.h"
#include "daemon/worker.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONTEXT ((uint64_t)4 << 20) /* tokens, where nothing was said */

size_t adjustment_rank(const struct adjustment *a)
{
    return hybrid_get_info(a->hybrid->hybrid)->rank;
}

static size_t theta_bytes(const struct sequence *q)
{
    const size_t rank = adjustment_rank(q->adjustment);
    return rwkv_theta_floats(q->model->rwkv_info, rank) * sizeof(float);
}

int adjustment_check(const struct service *s, const struct model_info *m,
                     const struct adjustment_ask *ask, struct err *e)
{
    uint64_t most = s->options.max_context ? s->options.max_context : MAX_CONTEXT;
    char sha256[65];
    if (!service_model_hybrid(s, m, sha256))
        return err_set_param(
            e, ERR_NO_HYBRID, "hybrid",
            "there is no hybrid for the model %s: train one (`dreamstated train hybrid` or a job "
            "train_hybrid), or name a file with --hybrid",
            m->name);
    if (!(ask->strength >= 0 && ask->strength <= 1))
        return err_set_param(e, ERR_INVALID, "hybrid.strength", "strength is not from 0 to 1");
    if (ask->steps > 100)
        return err_set_param(e, ERR_INVALID, "hybrid.num_inference_steps",
                             "num_inference_steps is not from 1 to 100");
    if (ask->context)
        return 0;
    if (ask->n_text < 2) /* the separator alone */
        return err_set_param(e, ERR_INVALID, "hybrid.text", "the context is empty");
    if (ask->n_text - 1 > most)
        return err_set_param(e, ERR_TOO_LARGE, "hybrid.text",
                             "the context has %zu tokens, at most %llu are taken (--max-context)",
                             ask->n_text - 1, (unsigned long long)most);
    for (size_t i = 0; i < ask->n_text; i++)
        if (ask->text[i] >= m->n_vocab)
            return err_set_param(e, ERR_INVALID, "hybrid.text",
                                 "token %u: the vocabulary of %s has %u ids", ask->text[i], m->name,
                                 m->n_vocab);
    return 0;
}

/* ---- the end of making ---- */

static void take(struct sequence *q)
{
    q->theta = q->adjustment->theta;
    q->rank = adjustment_rank(q->adjustment);
    worker_take_post(q->worker, q);
}

/* Ends the wait of those that follow: all go on, or all end with e. */
static void resolve(struct adjustment *a, enum adjustment_status to, const struct err *e)
{
    struct list waiting;
    list_init(&waiting);
    pthread_mutex_lock(&a->lock);
    a->status = to;
    if (e)
        a->err = *e;
    for (struct list *n; (n = list_pop(&a->waiting));)
        list_push(&waiting, n);
    pthread_mutex_unlock(&a->lock);
    for (struct list *n; (n = list_pop(&waiting));) {
        struct sequence *q = LIST_OWNER(n, struct sequence, link);
        if (to == ADJUSTMENT_READY)
            take(q);
        else
            sequence_end(q, &a->err);
    }
}

static void ready(struct sequence *q)
{
    struct adjustment *a = q->adjustment;
    call_ref(q->call); /* a lives as long as one of its calls */
    struct call *call = q->call;
    q->leads_context = false;
    resolve(a, ADJUSTMENT_READY, NULL);
    take(q);
    call_unref(call);
}

void adjustment_leave(struct sequence *q, const struct err *e)
{
    static const struct err gone = {.code = ERR_CANCELLED, .msg = "the request has ended"};
    if (!q->leads_context)
        return;
    q->leads_context = false;
    resolve(q->adjustment, ADJUSTMENT_FAILED, e && e->code ? e : &gone);
}

static void hash(const void *p, size_t n, char sha256[65])
{
    uint8_t digest[32];
    sha256_of(p, n, digest);
    sha256_hex(digest, sha256);
}

/* theta of strength 1, whose hash is known, becomes a's. */
static int mix(struct sequence *q, float *theta, struct err *e)
{
    struct adjustment *a = q->adjustment;
    if (hybrid_weaken(q->model->rwkv, adjustment_rank(a), theta, a->ask.strength, e) < 0)
        return e->code;
    a->theta = theta;
    if (a->ask.strength < 1)
        hash(theta, theta_bytes(q), a->key);
    else
        memcpy(a->key, a->used.sha256, sizeof a->key);
    return 0;
}

/* ---- a stored context ---- */

/* What the record says of how it was made. */
static int read_meta(struct sequence *q, const struct store_item *i, struct err *e)
{
    struct adjustment_used *used = &q->adjustment->used;
    json_t *meta = json_loads(i->meta, 0, NULL);
    const char *hybrid = json_string_value(json_object_get(meta, "hybrid"));
    int rc = 0;
    if (strcmp(i->fingerprint, q->model->rwkv_info->fingerprint) != 0)
        rc = err_set(e, ERR_MODEL_MISMATCH, "the context %s was read by the model %s, not by %s",
                     i->name, i->model, q->model->name);
    else if (!hybrid)
        rc = err_set(e, ERR_STATE_CORRUPT, "the record of the context %s is damaged", i->name);
    else if (strcmp(hybrid, q->adjustment->hybrid->sha256) != 0)
        rc = err_set(e, ERR_MODEL_MISMATCH,
                     "the context %s was made with another hybrid (%.12s...) than that of %s "
                     "(%.12s...): make it again",
                     i->name, hybrid, q->model->name, q->adjustment->hybrid->sha256);
    snprintf(used->context, sizeof used->context, "%s", i->name);
    memcpy(used->sha256, i->sha256, sizeof used->sha256);
    used->seed = (uint64_t)json_integer_value(json_object_get(meta, "seed"));
    used->steps = (uint64_t)json_integer_value(json_object_get(meta, "num_inference_steps"));
    used->n_tokens = (uint64_t)json_integer_value(json_object_get(meta, "n_tokens"));
    json_decref(meta);
    return rc;
}

static int check_bytes(const struct sequence *q, struct err *e)
{
    const struct adjustment_used *used = &q->adjustment->used;
    const float *x = q->blob;
    char sha256[65];
    if (q->blob_bytes != theta_bytes(q))
        return err_set(e, ERR_STATE_CORRUPT, "context %s is damaged: it has %zu bytes, not %zu",
                       used->context, q->blob_bytes, theta_bytes(q));
    hash(q->blob, q->blob_bytes, sha256);
    if (strcmp(sha256, used->sha256) != 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "context %s is damaged: its bytes have another SHA-256", used->context);
    for (size_t i = 0; i < q->blob_bytes / sizeof *x; i++)
        if (!isfinite(x[i]))
            return err_set(e, ERR_STATE_CORRUPT, "context %s holds a value that is not finite",
                           used->context);
    return 0;
}

static void fail(struct sequence *q, struct err *e)
{
    snprintf(e->param, sizeof e->param, "hybrid.context");
    sequence_end(q, e);
}

/* [thread: porter] */
static void on_bytes(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct err e = {0};
    bool over = sequence_must_end(q, clock_ns(), &e);
    if (over || check_bytes(q, &e) < 0 || mix(q, q->blob, &e) < 0) {
        if (over)
            sequence_end(q, &e);
        else
            fail(q, &e);
        return;
    }
    q->blob = NULL; /* it is the adjustment's theta now */
    ready(q);
}

/* [thread: the store's] */
static void on_record(void *arg, const struct err *e, const struct store_item *items, size_t n,
                      bool has_more, void *data, size_t bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)has_more;
    metrics_observe_ns(q->svc->metrics, METRIC_STORE, clock_ns() - q->hop_ns);
    q->blob = data;
    q->blob_bytes = bytes;
    if (!own.code && !n)
        err_set(&own, ERR_INTERNAL, "the store gave no record");
    if (own.code || read_meta(q, &items[0], &own) < 0) {
        fail(q, &own);
        return;
    }
    if (q->adjustment->ask.strength == 0) {
        ready(q);
        return;
    }
    q->mail.run = on_bytes;
    porter_post(&q->svc->porter, &q->mail);
}

static void find(struct sequence *q)
{
    const struct adjustment_ask *ask = &q->adjustment->ask;
    struct err e = {0};
    q->hop_ns = clock_ns();
    if (store_get_item(q->svc->options.store, STORE_CONTEXT, ask->context, ask->strength > 0,
                       on_record, q, &e) < 0)
        fail(q, &e);
}

/* ---- a text ---- */

int adjustment_begin(struct sequence *q, struct err *e)
{
    sequence_set_phase(q, SEQ_READ);
    q->heard = 0;
    q->rows = hybrid_context_new(q->adjustment->hybrid->hybrid, q->model->rwkv, e);
    return q->rows ? sequence_make_room(q, e) : e->code;
}

size_t adjustment_next(const struct sequence *q, const uint32_t **tokens)
{
    const struct adjustment_ask *ask = &q->adjustment->ask;
    size_t n = ask->n_text - q->heard;
    *tokens = ask->text + q->heard;
    return n < SEQUENCE_CHUNK ? n : SEQUENCE_CHUNK;
}

bool adjustment_advance(struct sequence *q, size_t n, const float *hidden)
{
    hybrid_context_add(q->rows, hidden, n);
    q->heard += n;
    sequence_count(q, METRIC_CONTEXT_TOKENS, n);
    atomic_fetch_add_explicit(&q->call->tokens_read, n, memory_order_relaxed);
    return q->heard == q->adjustment->ask.n_text;
}

/* The vectors of strength 1 from what was read. */
static int make(struct sequence *q, float *theta, struct hybrid_norms *norms, struct err *e)
{
    struct adjustment *a = q->adjustment;
    const struct hybrid *h = a->hybrid->hybrid;
    const struct hybrid_options o = {.strength = 1, .steps = a->ask.steps, .seed = a->ask.seed};
    uint64_t at = clock_ns();
    int rc = hybrid_adjust(h, q->rows, &o, theta, norms, e);
    metrics_observe_ns(q->svc->metrics, METRIC_SYNTHESIS, clock_ns() - at);
    if (rc == ERR_NUMERIC)
        rc = e->code = ERR_NOT_FINITE; /* the request's doing, not ours */
    a->used.seed = a->ask.seed;
    a->used.steps = a->ask.steps ? a->ask.steps : hybrid_get_info(h)->sampling_steps;
    a->used.n_tokens = a->ask.n_text - 1;
    if (rc == 0)
        hash(theta, theta_bytes(q), a->used.sha256);
    return rc;
}

/* [thread: lane] */
static void on_read(struct lane *l, struct lane_task *t)
{
    struct adjustment *a = LIST_OWNER(t, struct adjustment, task);
    struct sequence *q = a->leader;
    struct err e = {0};
    struct hybrid_norms norms;
    float *theta = NULL;
    (void)l;
    state_pool_give(worker_states(q->worker), (struct state_pair){q->state, q->logits});
    q->state = q->logits = NULL;
    if (!sequence_must_end(q, clock_ns(), &e) && !(theta = malloc(theta_bytes(q))))
        err_set(&e, ERR_NOMEM, "no memory for the vectors of a context");
    if (!e.code)
        make(q, theta, &norms, &e);
    hybrid_context_free(q->rows);
    q->rows = NULL;
    if (!e.code && q->context)
        context_put(q, theta, &norms, &e);
    if (q->context || e.code || mix(q, theta, &e) < 0) {
        free(theta);
        sequence_end(q, &e);
        return;
    }
    ready(q);
}

void adjustment_make_post(struct sequence *q)
{
    struct adjustment *a = q->adjustment;
    struct err e = {0};
    a->task = (struct lane_task){.urgency = LANE_CONTEXT, .bounded = true, .run = on_read};
    list_init(&a->task.link);
    if (lane_post(&q->svc->lane, &a->task, &e) < 0)
        sequence_end(q, &e);
}

/* ---- its beginning ---- */

void adjustment_post(struct sequence *q)
{
    struct adjustment *a = q->adjustment;
    pthread_mutex_lock(&a->lock);
    enum adjustment_status status = a->status;
    if (status == ADJUSTMENT_BUSY)
        list_push(&a->waiting, &q->link);
    else if (status == ADJUSTMENT_NEW) {
        a->status = ADJUSTMENT_BUSY;
        a->leader = q;
        a->hybrid = hybrid_place_use(&q->model->hybrids);
        a->used.strength = a->ask.strength;
    }
    pthread_mutex_unlock(&a->lock);
    if (status == ADJUSTMENT_READY)
        take(q);
    else if (status == ADJUSTMENT_FAILED)
        sequence_end(q, &a->err);
    if (status != ADJUSTMENT_NEW)
        return;
    q->leads_context = true;
    if (!a->hybrid)
        sequence_end(q, &(struct err){.code = ERR_NO_HYBRID, .msg = "the hybrid was just removed"});
    else if (a->ask.context)
        find(q);
    else if (a->ask.strength == 0 && !q->context)
        ready(q);
    else
        worker_take_post(q->worker, q);
}
