#include "daemon/porter.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/base/thread.h"
#include "daemon/state_record.h"
#include "daemon/worker.h"

#include <stdlib.h>
#include <string.h>

static void porter_main(void *arg)
{
    struct porter *p = arg;
    struct list mails;
    list_init(&mails);
    while (mailbox_wait(&p->box, &mails, MAILBOX_FOREVER))
        mailbox_run(&mails);
}

int porter_start(struct porter *p, size_t limit, struct err *e)
{
    if (mailbox_init(&p->box, limit + PORTER_FILES, NULL, NULL) < 0)
        return err_set(e, ERR_NOMEM, "no memory for the porter");
    if (thread_start(&p->thread, THREAD_PORTER, "porter", porter_main, p, e) < 0) {
        mailbox_fini(&p->box);
        return e->code;
    }
    return 0;
}

void porter_stop(struct porter *p)
{
    mailbox_close(&p->box);
    pthread_join(p->thread, NULL);
    mailbox_fini(&p->box);
}

void porter_post(struct porter *p, struct mail *m)
{
    ASSERT(mailbox_post(&p->box, m) == 0); /* as large as the number of admitted calls */
}

static void hand_over(struct porter *p, struct sequence *q, void (*run)(struct mail *m))
{
    q->mail.run = run;
    porter_post(p, &q->mail);
}

/* ---- load ---- */

static int unpack(struct sequence *q, struct err *e)
{
    const struct rwkv_info *info = q->model->rwkv_info;
    q->state = rwkv_state_new(info);
    q->logits = mem_calloc_aligned(info->n_vocab, sizeof *q->logits);
    if (!q->state || !q->logits)
        return err_set(e, ERR_NOMEM, "no memory for the state %s", q->used);
    if (state_record_unpack(q->blob, q->blob_bytes, q->record.sha256, info, q->state, q->logits,
                            &q->has_logits, &q->n_start, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", sequence_from_param(q));
        return err_prefix(e, "state %s", q->used);
    }
    q->n_read = q->n_start;
    return 0;
}

/* Which state the request started from, in its result. */
static void tell_start(const struct sequence *q)
{
    bool other = strcmp(q->record.weights_type, q->model->weights_type) != 0;
    struct completion *c = q->completion;
    struct embedding *b = q->embedding;
    if (c) {
        snprintf(c->state_used, sizeof c->state_used, "%s", q->used);
        c->other_weights_type = other;
    } else if (b) {
        snprintf(b->state_used, sizeof b->state_used, "%s", q->used);
        b->other_weights_type = other;
    }
}

/* [thread: porter] */
static void on_unpack(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct metrics *metrics = q->svc->metrics;
    struct err *e = &q->load_error;
    if (!sequence_must_end(q, clock_ns(), e) && unpack(q, e) == 0) {
        metrics_add(metrics, METRIC_STATES_LOADED, 1);
        metrics_add(metrics, METRIC_CACHED_TOKENS, q->n_start);
        metrics_observe_ns(metrics, METRIC_STATE_LOAD, clock_ns() - q->hop_ns);
        tell_start(q);
    }
    free(q->blob);
    q->blob = NULL;
    worker_loaded_post(q->worker, q);
}

/* [thread: the store's] */
static void on_read(void *arg, const struct err *e, const struct store_state *state, void *blob,
                    size_t blob_bytes)
{
    struct sequence *q = arg;
    (void)state;
    metrics_observe_ns(q->svc->metrics, METRIC_STORE, clock_ns() - q->hop_ns);
    q->load_error = *e;
    q->blob = blob;
    q->blob_bytes = blob_bytes;
    if (e->code)
        worker_loaded_post(q->worker, q);
    else
        hand_over(&q->svc->porter, q, on_unpack);
}

void porter_load_post(struct sequence *q)
{
    struct err *e = &q->load_error;
    sequence_set_phase(q, SEQ_LOAD);
    q->hop_ns = clock_ns();
    if (store_get_state(q->svc->options.store, q->record.name, q->record.version, true, on_read, q,
                        e) < 0)
        worker_loaded_post(q->worker, q);
}

/* ---- save ---- */

/* [thread: the store's] */
static void on_saved(void *arg, const struct err *e, const struct store_state *state, void *blob,
                     size_t blob_bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)blob_bytes;
    free(blob);
    if (!own.code && sequence_set_saved(q, state, &own) == 0) {
        metrics_add(q->svc->metrics, METRIC_STATES_SAVED, 1);
        metrics_observe_ns(q->svc->metrics, METRIC_STATE_SAVE, clock_ns() - q->hop_ns);
    }
    sequence_end(q, &own);
}

/* How the state came to be, as a JSON object. */
static void write_origin(const struct sequence *q, struct buf *out)
{
    const struct completion *c = q->completion;
    if (!c) {
        buf_printf(out, "{\"kind\": \"%s\", \"prompt_n\": %zu}",
                   q->bake->op == STATE_APPEND ? "append" : "bake", q->fed);
        return;
    }
    buf_printf(out, "{\"kind\": \"completion\", \"prompt_n\": %zu, \"predicted_n\": %llu", q->fed,
               (unsigned long long)q->predicted);
    if (c->max_tokens)
        buf_printf(out, ", \"seed\": %llu, \"temperature\": %.9g, \"top_p\": %.9g, \"top_k\": %u",
                   (unsigned long long)c->sampling.seed, (double)c->sampling.temperature,
                   (double)c->sampling.top_p, c->sampling.top_k);
    buf_puts(out, "}");
}

struct texts {
    struct buf origin, norms, parents;
};

static void texts_fini(struct texts *t)
{
    buf_fini(&t->origin);
    buf_fini(&t->norms);
    buf_fini(&t->parents);
}

static void apply_change(const struct state_change *c, struct store_state *r)
{
    r->tags = c->tags ? c->tags : r->tags;
    r->description = c->description;
    r->pinned = c->set_pinned && c->pinned;
    r->expires_ms = c->set_expires ? c->expires_ms : 0;
}

static int fill_record(const struct sequence *q, struct store_state *r, struct texts *t,
                       struct err *e)
{
    const struct rwkv_info *info = q->model->rwkv_info;
    *r = (struct store_state){
        .n_layer = (uint32_t)info->n_layer,
        .n_embd = (uint32_t)info->n_embd,
        .head_size = (uint32_t)info->head_size,
        .n_tokens = q->n_read,
        .has_logits = q->has_logits,
        .tags = "[]",
    };
    if (q->bake)
        apply_change(&q->bake->change, r);
    snprintf(r->name, sizeof r->name, "%s", q->save);
    snprintf(r->model, sizeof r->model, "%s", q->model->name);
    snprintf(r->fingerprint, sizeof r->fingerprint, "%s", info->fingerprint);
    snprintf(r->weights_type, sizeof r->weights_type, "%s", q->model->weights_type);
    buf_puts(&t->parents, "[");
    if (q->used[0])
        buf_printf(&t->parents, "\"%s\"", q->used);
    buf_puts(&t->parents, "]");
    write_origin(q, &t->origin);
    state_record_norms(info, q->state, &t->norms);
    r->parents = t->parents.data;
    r->origin = t->origin.data;
    r->norms = t->norms.data;
    return t->parents.failed || t->origin.failed || t->norms.failed
               ? err_set(e, ERR_NOMEM, "no memory for a state's record")
               : 0;
}

static int pack_and_put(struct sequence *q, struct texts *t, struct err *e)
{
    struct store_state record;
    void *blob = NULL;
    if (fill_record(q, &record, t, e) < 0 ||
        state_record_pack(q->model->rwkv_info, q->model->weights_type, q->n_read, q->state,
                          q->has_logits ? q->logits : NULL, &blob, &q->blob_bytes, record.sha256,
                          e) < 0)
        return e->code;
    record.bytes = q->blob_bytes;
    const struct store_write how = {
        .if_exists = q->new_version ? STORE_EXISTS_NEW_VERSION : STORE_EXISTS_ERROR,
        .if_revision = q->if_revision,
        .key = q->key,
        .request_sha256 = q->request_sha256};
    int rc = store_put_state_take(q->svc->options.store, &record, blob, q->blob_bytes, &how,
                                  on_saved, q, e);
    if (rc < 0)
        free(blob);
    return rc;
}

/* [thread: porter] */
static void on_pack(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct texts t;
    struct err e = {0};
    buf_init(&t.origin, 4096);
    buf_init(&t.norms, 1u << 20);
    buf_init(&t.parents, 256);
    /* What nobody waits for any more is not kept. Done well, q is the store's. */
    bool failed = sequence_must_end(q, clock_ns(), &e) || pack_and_put(q, &t, &e) < 0;
    texts_fini(&t);
    if (failed)
        sequence_end(q, &e);
}

void porter_save_post(struct porter *p, struct sequence *q)
{
    sequence_set_phase(q, SEQ_SAVE);
    q->hop_ns = clock_ns();
    hand_over(p, q, on_pack);
}
