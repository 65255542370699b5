#include "daemon/porter.h"

#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/state_import.h"
#include "daemon/state_put.h"
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
    atomic_init(&p->n_clear, 0);
    if (mailbox_init(&p->box, limit + PORTER_FILES + PORTER_CLEARS, NULL, NULL) < 0)
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

/* ---- clear ---- */

static void on_clear(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    atomic_fetch_sub(&q->svc->porter.n_clear, 1);
    sequence_leave(q);
}

bool porter_clear_post(struct porter *p, struct sequence *q)
{
    if (atomic_fetch_add(&p->n_clear, 1) >= PORTER_CLEARS) {
        atomic_fetch_sub(&p->n_clear, 1);
        return false;
    }
    hand_over(p, q, on_clear);
    return true;
}

/* ---- load ---- */

static bool uses_cache(const struct sequence *q)
{
    return q->svc->cache && !(q->completion && q->completion->no_cache);
}

static int unpack(struct sequence *q, struct err *e)
{
    const struct rwkv_info *info = q->model->rwkv_info;
    if (sequence_make_room(q, e) < 0)
        return e->code;
    if (state_record_unpack(q->blob, q->blob_bytes, q->record.sha256, info, q->state, q->logits,
                            &q->has_logits, &q->n_start, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", sequence_from_param(q));
        return err_prefix(e, "state %s", q->used);
    }
    if (uses_cache(q))
        state_cache_put(q->svc->cache, q->record.sha256, info,
                        &(struct cached_state){.state = q->state,
                                               .logits = q->has_logits ? q->logits : NULL,
                                               .n_tokens = q->n_start});
    return 0;
}

/* Which state the request started from, in its result. */
static void tell_start(const struct sequence *q)
{
    bool other = strcmp(q->record.weights_type, q->model->weights_type) != 0;
    struct completion *c = q->completion;
    struct embedding *b = q->embedding;
    if (q->file)
        return;
    if (c) {
        snprintf(c->state_used, sizeof c->state_used, "%s", q->used);
        c->other_weights_type = other;
    } else if (b) {
        snprintf(b->state_used, sizeof b->state_used, "%s", q->used);
        b->other_weights_type = other;
    }
}

/* The state is in memory. */
static void loaded(struct sequence *q)
{
    struct metrics *metrics = q->svc->metrics;
    q->n_read = q->n_start;
    metrics_add(metrics, METRIC_STATES_LOADED, 1);
    sequence_count(q, METRIC_CACHED_TOKENS, q->n_start);
    metrics_observe_ns(metrics, METRIC_STATE_LOAD, clock_ns() - q->hop_ns);
    tell_start(q);
}

/* [thread: porter] */
static void on_unpack(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct err *e = &q->load_error;
    if (!sequence_must_end(q, clock_ns(), e) && unpack(q, e) == 0)
        loaded(q);
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

static void read_post(struct sequence *q)
{
    struct err *e = &q->load_error;
    if (store_get_state(q->svc->options.store, q->record.name, q->record.version, true, on_read, q,
                        e) < 0)
        worker_loaded_post(q->worker, q);
}

static bool from_cache(struct sequence *q)
{
    struct cached_state s = {.state = q->state, .logits = q->logits};
    if (!state_cache_get(q->svc->cache, q->record.sha256, q->model->rwkv_info, &s))
        return false;
    q->has_logits = s.has_logits;
    q->n_start = s.n_tokens;
    return true;
}

/* [thread: porter] */
static void on_look(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct err *e = &q->load_error;
    bool failed = sequence_must_end(q, clock_ns(), e) || sequence_make_room(q, e) < 0;
    if (!failed && !from_cache(q)) {
        read_post(q);
        return;
    }
    if (!failed)
        loaded(q);
    worker_loaded_post(q->worker, q);
}

static int import(struct sequence *q, struct err *e)
{
    const struct state_file *f = q->file;
    if (sequence_make_room(q, e) < 0)
        return e->code;
    struct state_import i = {.info = q->model->rwkv_info, .state = q->state, .logits = q->logits};
    if (f->orientation)
        state_orientation_parse(f->orientation, &i.declared);
    if (state_import_bytes(f->data, f->bytes, &i, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", sequence_from_param(q));
        return e->code;
    }
    q->has_logits = i.has_logits;
    q->n_start = i.n_tokens;
    return 0;
}

/* [thread: porter] */
static void on_import(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct err *e = &q->load_error;
    if (!sequence_must_end(q, clock_ns(), e) && import(q, e) == 0)
        loaded(q);
    worker_loaded_post(q->worker, q);
}

void porter_load_post(struct sequence *q)
{
    sequence_set_phase(q, SEQ_LOAD);
    q->hop_ns = clock_ns();
    if (q->file)
        hand_over(&q->svc->porter, q, on_import);
    else if (uses_cache(q))
        hand_over(&q->svc->porter, q, on_look);
    else
        read_post(q);
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

/* The context that it has read under. */
static void write_adjustment(const struct sequence *q, struct buf *out)
{
    const struct adjustment_used *used = q->theta ? &q->adjustment->used : NULL;
    if (used)
        buf_printf(out,
                   ", \"hybrid\": {\"context\": \"%s\", \"sha256\": \"%s\", \"strength\": %.9g, "
                   "\"seed\": %llu}",
                   used->context, used->sha256, used->strength, (unsigned long long)used->seed);
}

/* How the state came to be, as a JSON object. */
static void write_origin(const struct sequence *q, struct buf *out)
{
    const struct completion *c = q->completion;
    if (!c) {
        buf_printf(out, "{\"kind\": \"%s\", \"prompt_n\": %zu",
                   q->bake->op == STATE_APPEND ? "append" : "bake", q->fed);
        write_adjustment(q, out);
        buf_puts(out, "}");
        return;
    }
    buf_printf(out, "{\"kind\": \"completion\", \"prompt_n\": %zu, \"predicted_n\": %llu", q->fed,
               (unsigned long long)q->predicted);
    if (c->max_tokens)
        buf_printf(out, ", \"seed\": %llu, \"temperature\": %.9g, \"top_p\": %.9g, \"top_k\": %u",
                   (unsigned long long)c->sampling.seed, (double)c->sampling.temperature,
                   (double)c->sampling.top_p, c->sampling.top_k);
    write_adjustment(q, out);
    buf_puts(out, "}");
}

static int put(struct sequence *q, struct buf *parents, struct buf *origin, struct err *e)
{
    const struct store_write how = {.if_exists = q->new_version ? STORE_EXISTS_NEW_VERSION
                                                                : STORE_EXISTS_ERROR,
                                    .if_revision = q->if_revision,
                                    .key = q->key,
                                    .request_sha256 = q->request_sha256};
    buf_puts(parents, "[");
    if (q->used[0])
        buf_printf(parents, "\"%s\"", q->used);
    buf_puts(parents, "]");
    write_origin(q, origin);
    if (parents->failed || origin->failed)
        return err_set(e, ERR_NOMEM, "no memory for a state's record");
    const struct state_put state = {.model = q->model,
                                    .name = q->save,
                                    .weights_type = q->model->weights_type,
                                    .parents = parents->data,
                                    .origin = origin->data,
                                    .state = q->state,
                                    .logits = q->has_logits ? q->logits : NULL,
                                    .n_tokens = q->n_read,
                                    .change = q->bake ? &q->bake->change : NULL,
                                    .no_cache = !uses_cache(q)};
    return state_put(q->svc, &state, &how, on_saved, q, e);
}

/* The state as a file in the request's result. */
static int give_back(struct sequence *q, struct err *e)
{
    struct returned_state *r = &q->completion->returned;
    r->n_tokens = q->n_read;
    r->has_logits = q->has_logits;
    return state_record_pack(q->model->rwkv_info, q->model->weights_type, q->n_read, q->state,
                             q->has_logits ? q->logits : NULL, &r->data, &r->bytes, r->sha256, e);
}

/* [thread: porter] */
static void on_pack(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct buf parents, origin;
    struct err e = {0};
    buf_init(&parents, 256);
    buf_init(&origin, 4096);
    /* What nobody waits for any more is not kept. Done well, q is the store's. */
    bool failed = sequence_must_end(q, clock_ns(), &e);
    if (!failed && q->completion && q->completion->return_state)
        failed = give_back(q, &e) < 0;
    bool over = failed || !q->save;
    if (!over)
        over = put(q, &parents, &origin, &e) < 0;
    buf_fini(&parents);
    buf_fini(&origin);
    if (over)
        sequence_end(q, &e);
}

void porter_save_post(struct porter *p, struct sequence *q)
{
    sequence_set_phase(q, SEQ_SAVE);
    q->hop_ns = clock_ns();
    hand_over(p, q, on_pack);
}
