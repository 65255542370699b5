#include "daemon/diffusion.h"

#include "daemon/base/clock.h"
#include "daemon/base/sha256.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_NS 20000000 /* between two looks at a text that is being read */

/* ---- the vector of a text ---- */

/* What the reader of a text wakes. */
struct waker {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake; /* guard: lock */
};

static void on_suspend(void *arg)
{
    (void)arg;
}

static void on_resume(void *arg)
{
    struct waker *w = arg;
    pthread_mutex_lock(&w->lock);
    w->wake = true;
    pthread_cond_signal(&w->woken);
    pthread_mutex_unlock(&w->lock);
}

static void doze(struct waker *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAIT_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&w->lock);
    if (!w->wake)
        pthread_cond_timedwait(&w->woken, &w->lock, &until);
    w->wake = false;
    pthread_mutex_unlock(&w->lock);
}

/* Until the call has ended; one that is not wanted any more is cancelled. */
static int await(const struct errand_run *r, struct call *c, struct err *e)
{
    struct waker w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    const struct stream_wake wake = {on_suspend, on_resume, &w};
    struct buf batch;
    enum stream_take got;
    int rc = 0;
    buf_init(&batch, 1u << 20);
    stream_set_wake(&c->stream, &wake);
    while ((got = stream_take(&c->stream, &batch)) != STREAM_END) {
        buf_reset(&batch);
        if (got == STREAM_WAIT)
            doze(&w);
        if (rc == 0 && (rc = errand_proceed(r, e)) < 0)
            call_cancel(c);
    }
    buf_fini(&batch);
    stream_set_wake(&c->stream, &(struct stream_wake){0});
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.woken);
    if (rc == 0 && c->err.code) {
        *e = c->err;
        rc = e->code;
    }
    return rc;
}

static void mean(const float *vectors, size_t n, size_t dim, float *out)
{
    for (size_t c = 0; c < dim; c++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)vectors[i * dim + c];
        out[c] = (float)(sum / (double)n);
    }
}

int diffusion_embed_take(const struct errand_run *r, struct token_list *texts, size_t n, float *out,
                         struct err *e)
{
    struct embedding *b = embedding_new();
    if (!b || !(b->texts = calloc(n, sizeof *b->texts))) {
        call_unref(b ? &b->call : NULL);
        return err_set(e, ERR_NOMEM, "no memory for the vectors of texts");
    }
    b->model = service_find_model(r->svc, r->model->name);
    b->n_texts = n;
    for (size_t i = 0; i < n; i++) {
        b->texts[i] = texts[i];
        texts[i] = (struct token_list){0};
    }
    int rc = service_embed(r->svc, b, e);
    if (rc == 0)
        rc = await(r, &b->call, e);
    if (rc == 0)
        mean(b->vectors, n, r->model->rwkv_info->n_embd, out);
    call_unref(&b->call);
    return rc;
}

/* ---- conditions ---- */

static int stored_vector(const struct errand_run *r, const char *name, float *out, struct err *e)
{
    struct fetched_item c;
    size_t bytes = r->model->rwkv_info->n_embd * sizeof *out;
    int rc = fetch_item(r->svc, STORE_CONDITION, name, true, &c, e);
    if (rc < 0) {
        snprintf(e->param, sizeof e->param, "condition");
        return rc;
    }
    if (strcmp(c.info.fingerprint, r->model->rwkv_info->fingerprint) != 0)
        rc = err_set_param(e, ERR_MODEL_MISMATCH, "condition",
                           "the condition %s was made by the model %s, not by %s", name,
                           c.info.model, r->model->name);
    else if (c.bytes != bytes)
        rc = err_set(e, ERR_STATE_CORRUPT, "condition %s has %zu bytes, not %zu", name, c.bytes,
                     bytes);
    else
        memcpy(out, c.data, bytes);
    fetched_item_fini(&c);
    return rc;
}

static int part_vector(const struct errand_run *r, struct mix_part *p, float *out, struct err *e)
{
    return p->name ? stored_vector(r, p->name, out, e)
                   : diffusion_embed_take(r, &p->text, 1, out, e);
}

static int check_label(const struct diffuser *d, const char *label, struct err *e)
{
    return diffuser_label(d, label) >= 0 ? 0
                                         : err_set_param(e, ERR_CONDITION_NOT_FOUND, "condition",
                                                         "the diffuser has no label %s", label);
}

/* The condition that a mix is; v [n_embd] holds its vector. */
static int resolve(const struct errand_run *r, const struct diffuser *d, struct mix *m, float *v,
                   struct diffuser_condition *out, struct err *e)
{
    size_t dim = r->model->rwkv_info->n_embd;
    *out = (struct diffuser_condition){.label = DIFFUSER_NONE};
    if (!m->n)
        return 0;
    if (m->parts[0].label) {
        out->label = diffuser_label(d, m->parts[0].label);
        return check_label(d, m->parts[0].label, e);
    }
    float *part = calloc(dim, sizeof *part);
    double *sum = calloc(dim, sizeof *sum), weights = 0;
    int rc = part && sum ? 0 : err_set(e, ERR_NOMEM, "no memory for a condition");
    for (size_t i = 0; rc == 0 && i < m->n; i++) {
        rc = part_vector(r, &m->parts[i], part, e);
        weights += m->parts[i].weight;
        for (size_t c = 0; rc == 0 && c < dim; c++)
            sum[c] += m->parts[i].weight * (double)part[c];
    }
    for (size_t c = 0; rc == 0 && c < dim; c++)
        v[c] = (float)(sum[c] / weights);
    free(part);
    free(sum);
    *out = (struct diffuser_condition){DIFFUSER_VECTOR, v};
    return rc;
}

/* What the record calls the condition: the hash of its vector, or of its label. */
static void name_condition(const struct diffuser_condition *c, const struct diffuser *d, size_t dim,
                           char sha256[65])
{
    uint8_t digest[32];
    if (c->label == DIFFUSER_VECTOR)
        sha256_of(c->vector, dim * sizeof *c->vector, digest);
    else if (c->label >= 0)
        sha256_of(diffuser_get_info(d)->label[c->label],
                  strlen(diffuser_get_info(d)->label[c->label]), digest);
    else
        sha256_of("", 0, digest);
    sha256_hex(digest, sha256);
}

static int check_diffuser(const struct diffusion *d, struct err *e)
{
    if (d->want_diffuser[0] && strcmp(d->want_diffuser, d->diffuser_sha256) != 0)
        return err_set_param(e, ERR_MODEL_MISMATCH, "diffuser_sha256",
                             "the diffuser %s is not the one that is asked for", d->used);
    return 0;
}

static int check_condition(const struct diffusion *d, struct err *e)
{
    if (d->want_condition[0] && strcmp(d->want_condition, d->condition_sha256) != 0)
        return err_set_param(e, ERR_MODEL_MISMATCH, "condition_sha256",
                             "the condition is not what it was");
    return 0;
}

/* ---- the run ---- */

int diffusion_check(const struct diffusion *d, const char *prefix, struct err *e)
{
    const struct {
        const char *field;
        bool ok;
        const char *range;
    } rules[] = {
        {"num_inference_steps", d->steps >= 2 && d->steps <= DIFFUSION_MAX_STEPS, "from 2 to 1000"},
        {"guidance_scale", d->guidance >= 0 && d->guidance <= 100, "from 0 to 100"},
        {"eta", d->eta >= 0 && d->eta <= 1, "from 0 to 1"},
        {"strength", d->strength >= 0 && d->strength <= 1, "from 0 to 1"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!rules[i].ok) {
            char param[48];
            snprintf(param, sizeof param, "%.24s%s", prefix, rules[i].field);
            return err_set_param(e, ERR_INVALID, param, "%s is not %s", rules[i].field,
                                 rules[i].range);
        }
    return 0;
}

/* keep [n_token]: all but the tokens of the chosen blocks. */
static void mark_kept(const struct rwkv_info *info, const struct diffuser_info *d,
                      const struct rwkv_select *select, uint8_t *keep)
{
    memset(keep, 1, d->n_token);
    for (size_t i = 0; i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        int64_t token = b.part == RWKV_WKV
                            ? diffuser_matrix_token(d, b.layer, b.head)
                            : diffuser_shift_token(d, b.layer, b.part == RWKV_FFN_SHIFT);
        if (token >= 0 && rwkv_selected(select, &b))
            keep[token] = 0;
    }
}

/* Blocks that were not chosen, and shift vectors that the diffuser does not make, stay as they were. */
static void put_back(const struct rwkv_info *info, const struct diffuser_info *d,
                     const struct rwkv_select *select, const float *start, float *state)
{
    for (size_t i = 0; i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        if ((b.part != RWKV_WKV && !d->shifts) || (select && !rwkv_selected(select, &b)))
            memcpy(state + b.first, start + b.first, b.n * sizeof *state);
    }
}

struct work {
    const struct errand_run *r;
    struct diffusion *d;
    const struct diffusion_job *job;
    const struct diffuser *diffuser;
    struct diffuser_condition condition, negative, source;
    const struct rwkv_select *select; /* NULL: all */
    size_t at, n;                     /* the batch: states at .. at + n of the job's */
    struct err why;                   /* of proceed */
};

static bool proceed(void *ctx, size_t done, size_t total)
{
    struct work *w = ctx;
    const struct diffusion_job *job = w->job;
    int rc = job->proceed ? job->proceed(job->ctx, w->at, done, total, &w->why)
                          : errand_proceed(w->r, &w->why);
    return rc == 0;
}

static int sample(struct work *w, const uint8_t *keep, struct err *e)
{
    static const enum dit_scheduler schedulers[] = {DIT_DDIM, DIT_DDPM, DIT_DPMSOLVERPP};
    const struct diffusion *d = w->d;
    const struct diffusion_job *job = w->job;
    struct diffuser_condition *conditions = calloc(w->n, sizeof *conditions);
    if (!conditions)
        return err_set(e, ERR_NOMEM, "no memory for %zu states", w->n);
    for (size_t i = 0; i < w->n; i++)
        conditions[i] = w->condition;
    const struct diffuser_options o = {.steps = d->steps,
                                       .scheduler = schedulers[d->scheduler],
                                       .eta = d->eta,
                                       .guidance = d->guidance,
                                       .seed = d->seed,
                                       .bf16 = d->bf16,
                                       .negative = w->negative};
    const struct diffuser_job run = {.n = w->n,
                                     .condition = conditions,
                                     .first = job->first + (uint32_t)w->at,
                                     .start = job->start,
                                     .strength = d->strength,
                                     .source = d->invert ? &w->source : NULL,
                                     .keep = keep,
                                     .states = job->states,
                                     .proceed = proceed,
                                     .ctx = w};
    int rc = diffuser_run(w->diffuser, lane_pool(w->r->lane), &o, &run, e);
    free(conditions);
    if (rc == ERR_CANCELLED) {
        *e = w->why;
        rc = e->code;
    } else if (rc == ERR_NUMERIC) {
        rc = e->code = ERR_NOT_FINITE; /* the request's doing, not ours */
    }
    return rc;
}

static int edit_or_make(struct work *w, struct err *e)
{
    const struct rwkv_info *info = w->r->model->rwkv_info;
    const struct diffuser_info *d = diffuser_get_info(w->diffuser);
    uint8_t *keep = NULL;
    if (w->select && !(keep = calloc(d->n_token, 1)))
        return err_set(e, ERR_NOMEM, "no memory for a mask");
    if (keep)
        mark_kept(info, d, w->select, keep);
    int rc = sample(w, keep, e);
    if (rc == 0 && w->job->start)
        put_back(info, d, w->select, w->job->start, w->job->states);
    free(keep);
    return rc;
}

static int make_batches(struct work *w, struct err *e)
{
    const struct diffusion_job *job = w->job;
    const size_t most = job->take ? job->batch : job->n;
    int rc = 0;
    for (w->at = 0; rc == 0 && w->at < job->n; w->at += w->n) {
        w->n = job->n - w->at < most ? job->n - w->at : most;
        rc = edit_or_make(w, e);
        if (rc == 0 && job->take)
            rc = job->take(job->ctx, w->at, w->n, job->states, e);
    }
    return rc;
}

/* With everything that is named at hand. */
static int run_with(struct work *w, struct err *e)
{
    const struct rwkv_info *info = w->r->model->rwkv_info;
    const struct edit_op *op = w->job->select;
    struct diffusion *d = w->d;
    struct rwkv_select select;
    float *v = calloc(3, info->n_embd * sizeof *v);
    bool *flags = d->masked ? errand_flags(info, op) : NULL;
    int rc = v && (flags || !d->masked) ? 0 : err_set(e, ERR_NOMEM, "no memory for a condition");
    if (flags) {
        select = (struct rwkv_select){.layers = op->n_layers ? flags : NULL,
                                      .heads = op->n_heads ? flags + info->n_layer : NULL};
        memcpy(select.parts, op->parts, sizeof op->parts);
        w->select = &select;
    }
    if (rc == 0)
        rc = resolve(w->r, w->diffuser, &d->condition, v, &w->condition, e);
    if (rc == 0)
        rc = resolve(w->r, w->diffuser, &d->negative, v + info->n_embd, &w->negative, e);
    if (rc == 0)
        rc = resolve(w->r, w->diffuser, &d->source, v + 2 * info->n_embd, &w->source, e);
    if (rc == 0) {
        name_condition(&w->condition, w->diffuser, info->n_embd, d->condition_sha256);
        rc = check_condition(d, e);
    }
    if (rc == 0 && w->job->start && d->strength == 0) /* nothing is to happen */
        memcpy(w->job->states, w->job->start, rwkv_state_floats(info) * sizeof *v);
    else if (rc == 0)
        rc = make_batches(w, e);
    free(flags);
    free(v);
    return rc;
}

static int use(const struct errand_run *r, struct diffusion *d, struct diffuser_use *out,
               struct err *e)
{
    int rc = diffusers_use(r, d->diffuser, out, e);
    if (rc < 0)
        return rc;
    memcpy(d->used, out->name, sizeof d->used);
    memcpy(d->diffuser_sha256, out->sha256, sizeof d->diffuser_sha256);
    if ((rc = check_diffuser(d, e)) < 0)
        diffusers_unuse(r->svc, out);
    return rc;
}

int diffusion_run(const struct errand_run *r, struct diffusion *d, const struct diffusion_job *job,
                  struct err *e)
{
    struct diffuser_use used;
    int rc = use(r, d, &used, e);
    if (rc < 0)
        return rc;
    struct work w = {.r = r, .d = d, .job = job, .diffuser = used.diffuser};
    rc = run_with(&w, e);
    diffusers_unuse(r->svc, &used);
    return rc;
}

/* The named parts of a mix; v [n_embd] is scratch. */
static int look_at(const struct errand_run *r, const struct diffuser *d, const struct mix *m,
                   float *v, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->n; i++)
        if (m->parts[i].name)
            rc = stored_vector(r, m->parts[i].name, v, e);
        else if (m->parts[i].label)
            rc = check_label(d, m->parts[i].label, e);
    return rc;
}

int diffusion_look(const struct errand_run *r, struct diffusion *d, struct err *e)
{
    struct diffuser_use used;
    float *v = calloc(r->model->rwkv_info->n_embd, sizeof *v);
    int rc = v ? use(r, d, &used, e) : err_set(e, ERR_NOMEM, "no memory for a condition");
    if (rc < 0) {
        free(v);
        return rc;
    }
    rc = look_at(r, used.diffuser, &d->condition, v, e);
    if (rc == 0)
        rc = look_at(r, used.diffuser, &d->negative, v, e);
    diffusers_unuse(r->svc, &used);
    free(v);
    return rc;
}
