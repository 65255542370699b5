#include "engine/train/hybrid_data.h"

#include "daemon/base/mem.h"
#include "engine/hybrid/pooling.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"
#include "engine/train/bake.h"
#include "engine/train/hybrid_target.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT         "dreamstate-hybrid-pairs-2"
#define ROWS           64 /* tokens of one call while a context is read */
#define TRIES          1000
#define CORPUS_WINDOWS 8 /* of a step on a corpus */

void hybrid_pairs_close(struct hybrid_pairs *p)
{
    void *all[] = {p->first, p->corpus, p->bytes, p->rows, p->delta, p->text, p->state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    memset(p, 0, sizeof *p);
}

/* ---- the file ---- */

static int write_pairs(const struct hybrid_pairs *p, const char *path, struct err *e)
{
    const size_t rows = (size_t)p->first[p->n], text = p->M * p->T;
    char n_train[24], n_text[24];
#define T(name_, type, data_, a, b)                                                                \
    {                                                                                              \
        .name = name_, .dtype = type, .n_dims = (b) ? 2 : 1, .shape = {a, b},                      \
        .bytes = (a) * ((b) ? (b) : 1) * sizeof *(data_), .data = data_                            \
    }
    const struct tensor t[] = {
        T("first", DTYPE_I64, p->first, p->n + 1, 0),
        T("corpus", DTYPE_I64, p->corpus, p->n, 0),
        T("bytes", DTYPE_I64, p->bytes, p->n, 0),
        T("rows", DTYPE_F32, p->rows, rows, p->X),
        T("delta", DTYPE_F32, p->delta, p->n, p->n_theta),
        T("text", DTYPE_U8, p->text, p->n, text),
        T("state", DTYPE_F16, p->state, p->n, p->S),
    };
#undef T
    snprintf(n_train, sizeof n_train, "%zu", p->n_train);
    snprintf(n_text, sizeof n_text, "%zu", p->M);
    const struct tensor_meta meta[] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = p->fingerprint},
        {.key = "n_train", .type = TENSOR_META_STR, .str = n_train},
        {.key = "continuations", .type = TENSOR_META_STR, .str = n_text},
    };
    return safetensors_write(path, t, sizeof t / sizeof *t - (p->S == 0), meta, 4, e);
}

/* A copy of a tensor of a type and number of dimensions. */
static void *copy(const struct tensor_file *f, const char *name, enum dtype type, size_t shape[2],
                  struct err *e)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != type || t->n_dims < 1 || t->n_dims > 2 || !t->bytes) {
        err_set(e, ERR_FORMAT, "pairs: tensor %s is missing or of another type", name);
        return NULL;
    }
    void *p = malloc(t->bytes);
    if (!p) {
        err_set(e, ERR_NOMEM, "pairs: out of memory");
        return NULL;
    }
    memcpy(p, t->data, t->bytes);
    shape[0] = t->shape[0];
    shape[1] = t->n_dims == 2 ? t->shape[1] : 0;
    return p;
}

static int check_pairs(struct hybrid_pairs *p, size_t shape[7][2], struct err *e)
{
    bool ok = shape[0][0] > 1 && shape[3][1] > HYBRID_FEATURES && shape[4][1] && shape[5][1];
    p->n = ok ? shape[0][0] - 1 : 0;
    p->X = shape[3][1];
    p->n_theta = shape[4][1];
    ok = ok && p->M && shape[5][1] % p->M == 0;
    p->T = ok ? shape[5][1] / p->M : 0;
    ok = ok && shape[1][0] == p->n && shape[2][0] == p->n && shape[4][0] == p->n &&
         shape[5][0] == p->n && (!p->S || shape[6][0] == p->n) && p->n_train <= p->n &&
         p->first[0] == 0 && p->first[p->n] == (int64_t)shape[3][0];
    for (size_t i = 0; ok && i < p->n; i++)
        ok = p->first[i] <= p->first[i + 1];
    return ok ? 0 : err_set(e, ERR_FORMAT, "pairs: the tensors do not fit each other");
}

int hybrid_pairs_open(struct hybrid_pairs *p, const char *path, struct err *e)
{
    struct tensor_file *f = NULL;
    size_t shape[7][2] = {{0}}, len = 0;
    memset(p, 0, sizeof *p);
    int rc = tensor_file_open(path, &f, e);
    if (rc < 0)
        return rc;
    const char *format = tensor_file_meta_str(f, "format", &len);
    if (!format || strcmp(format, FORMAT))
        rc = err_set(e, ERR_FORMAT, "pairs: the format is not " FORMAT);
    const char *print = tensor_file_meta_str(f, "fingerprint", &len);
    if (rc == 0 && (!print || len != 64 || strlen(print) != 64))
        rc = err_set(e, ERR_FORMAT, "pairs: no fingerprint of a model");
    const char *n_train = tensor_file_meta_str(f, "n_train", &len);
    const char *n_text = tensor_file_meta_str(f, "continuations", &len);
    if (rc == 0) {
        memcpy(p->fingerprint, print, 65);
        p->n_train = n_train ? strtoull(n_train, NULL, 10) : SIZE_MAX;
        p->M = n_text ? strtoull(n_text, NULL, 10) : 0;
        bool ok = (p->first = copy(f, "first", DTYPE_I64, shape[0], e)) &&
                  (p->corpus = copy(f, "corpus", DTYPE_I64, shape[1], e)) &&
                  (p->bytes = copy(f, "bytes", DTYPE_I64, shape[2], e)) &&
                  (p->rows = copy(f, "rows", DTYPE_F32, shape[3], e)) &&
                  (p->delta = copy(f, "delta", DTYPE_F32, shape[4], e)) &&
                  (p->text = copy(f, "text", DTYPE_U8, shape[5], e)) &&
                  (!tensor_file_find(f, "state") ||
                   (p->state = copy(f, "state", DTYPE_F16, shape[6], e)));
        p->S = shape[6][1];
        rc = ok ? check_pairs(p, shape, e) : e->code;
    }
    tensor_file_close(f);
    if (rc < 0)
        hybrid_pairs_close(p);
    return rc;
}

/* ---- making them ---- */

struct maker {
    const struct hybrid_data *d;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct hybrid_pairs p;
    const uint8_t **context; /* [n]: first bytes; their lengths are p.bytes */
    float *own;              /* [n_theta] */
    float *start;            /* [n_data + 1, n_theta]: a corpus' vectors; behind them the model's */
    struct hybrid_target *target; /* [threads] */
    double (*loss)[3];            /* [threads] of its pairs: nats a byte, see hybrid_data_make */
    struct rng *rng;              /* [threads] */
    size_t from, to;              /* corpora or pairs of the present round, one a thread */
    uint64_t step;                /* of the corpora's */
    size_t cap;                   /* rows there is room for */
};

static bool is_held(const struct maker *k, size_t i)
{
    return i >= k->p.n_train;
}

static const struct corpus *corpus_of(const struct maker *k, size_t i)
{
    return is_held(k, i) ? &k->eval[k->p.corpus[i]] : &k->data[k->p.corpus[i]];
}

/* The continuations of a pair, one behind the other from byte `at` on; false: not enough text. */
static bool take_text(struct maker *k, size_t i, const struct corpus *c, size_t at, size_t end)
{
    const size_t T = k->p.T;
    for (size_t w = 0; w < k->p.M; w++) {
        if (at >= end)
            return false;
        at = corpus_boundary(c->text, at, end);
        if (end - at < T)
            return false;
        memcpy(k->p.text + (i * k->p.M + w) * T, c->text + at, T);
        at += T;
    }
    return true;
}

/* One pair of a corpus, or false: nothing fits there. */
static bool try_pair(struct maker *k, size_t i, const struct corpus *c, struct rng *rng)
{
    const struct hybrid_recipe *r = k->d->r;
    const double u = rng_uniform(rng);
    const size_t len =
        (size_t)((double)r->context_min * pow((double)r->context_max / (double)r->context_min, u));
    size_t at = rng_below(rng, c->n);
    if (!c->text[at])
        return false;
    const size_t end = at + strlen((const char *)c->text + at);
    at = corpus_boundary(c->text, at, end);
    size_t begin = at;
    while (begin > 0 && c->text[begin - 1] && at - begin < len)
        begin--;
    if (at - begin < r->context_min || !take_text(k, i, c, at + r->gap, end))
        return false;
    k->context[i] = c->text + begin;
    k->p.bytes[i] = (int64_t)(at - begin);
    return true;
}

static int draw_pairs(struct maker *k, struct err *e)
{
    const struct hybrid_recipe *r = k->d->r;
    for (size_t i = 0; i < k->p.n; i++) {
        struct rng rng;
        int tries = 0;
        k->p.corpus[i] = (int64_t)(is_held(k, i) ? (i - k->p.n_train) % r->n_eval : i % r->n_data);
        rng_init(&rng, r->seed, i);
        while (!try_pair(k, i, corpus_of(k, i), &rng))
            if (++tries == TRIES)
                return err_set(e, ERR_INVALID, "pairs: the documents of %s are too short",
                               corpus_of(k, i)->name);
    }
    return 0;
}

static int allocate(struct maker *k, struct err *e)
{
    const struct hybrid_recipe *r = k->d->r;
    struct hybrid_pairs *p = &k->p;
    const int threads = pool_threads(k->d->pool);
    size_t n_delta, n_state;
    p->first = calloc(p->n + 1, sizeof *p->first);
    p->corpus = calloc(p->n, sizeof *p->corpus);
    p->bytes = calloc(p->n, sizeof *p->bytes);
    p->text = calloc(p->n, p->M * p->T);
    p->delta = mem_mul(p->n, p->n_theta, &n_delta) ? calloc(n_delta, sizeof *p->delta) : NULL;
    p->state = mem_mul(p->n, p->S, &n_state) ? calloc(n_state + 1, sizeof *p->state) : NULL;
    k->context = calloc(p->n, sizeof *k->context);
    k->own = calloc(p->n_theta, sizeof *k->own);
    k->start = calloc((r->n_data + 1) * p->n_theta, sizeof *k->start);
    k->target = calloc((size_t)threads, sizeof *k->target);
    k->loss = calloc((size_t)threads, sizeof *k->loss);
    k->rng = calloc((size_t)threads, sizeof *k->rng);
    if (!p->first || !p->corpus || !p->bytes || !p->text || !p->delta || !p->state || !k->context ||
        !k->own || !k->start || !k->target || !k->loss || !k->rng)
        return err_set(e, ERR_NOMEM, "pairs: out of memory");
    int rc = 0;
    for (int t = 0; t < threads && rc == 0; t++)
        rc = hybrid_target_init(&k->target[t], k->d->l, k->d->weights, r->rank, p->T, e);
    return rc;
}

static int maker_init(struct maker *k, const struct hybrid_data *d, struct err *e)
{
    const struct hybrid_recipe *r = d->r;
    struct hybrid_pairs *p = &k->p;
    k->d = d;
    p->n_train = r->pairs;
    p->n = r->pairs + r->eval_pairs;
    p->X = d->l->shape.n_embd + HYBRID_FEATURES;
    p->T = r->continuation;
    p->M = r->continuations;
    p->n_theta = rwkv_layout_theta(d->l, r->rank);
    p->S = r->states > 0 ? rwkv_layout_state(d->l) : 0;
    memcpy(p->fingerprint, rwkv_get_info(d->model)->fingerprint, 65);
    if (!r->n_data || !r->n_eval || d->l->shape.n_vocab != 256)
        return err_set(e, ERR_INVALID, "pairs: a byte model, data and eval are wanted");
    int rc = recipe_open_corpora(k->data, r->data, r->n_data, e);
    if (rc == 0)
        rc = recipe_open_corpora(k->eval, r->eval, r->n_eval, e);
    if (rc == 0)
        rc = allocate(k, e);
    if (rc < 0)
        return rc;
    rwkv_params_theta(d->l, d->weights, r->rank, k->own);
    for (size_t c = 0; c <= r->n_data; c++)
        memcpy(k->start + c * p->n_theta, k->own, p->n_theta * sizeof *k->own);
    return 0;
}

static void maker_fini(struct maker *k)
{
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&k->data[i]);
        corpus_close(&k->eval[i]);
    }
    for (int t = 0; k->target && t < pool_threads(k->d->pool); t++)
        hybrid_target_fini(&k->target[t]);
    free(k->target);
    free(k->loss);
    free(k->rng);
    free(k->context);
    free(k->own);
    free(k->start);
    hybrid_pairs_close(&k->p);
}

static int make_room(struct maker *k, size_t rows, struct err *e)
{
    if (rows <= k->cap)
        return 0;
    size_t cap = 2 * rows;
    float *more = realloc(k->p.rows, cap * k->p.X * sizeof *more);
    if (!more)
        return err_set(e, ERR_NOMEM, "pairs: out of memory");
    k->p.rows = more;
    k->cap = cap;
    return 0;
}

struct reader {
    struct rwkv_session *session;
    struct hybrid_pool pool;
    float *state, *hidden; /* hidden [ROWS, C] */
};

/* The state behind context i as one that text is begun from. */
static int keep_state(struct maker *k, struct reader *r, size_t i, struct err *e)
{
    struct hybrid_pairs *p = &k->p;
    int rc = bake_forget_last(rwkv_get_info(k->d->model), r->state, e);
    if (rc == 0 && !dtype_from_f32(DTYPE_F16, r->state, p->state + i * p->S, p->S))
        rc = err_set(e, ERR_NUMERIC, "pairs: state %zu", i);
    return rc;
}

/* The rows of pair i: separator and context through the model. */
static int read_context(struct maker *k, struct reader *r, size_t i, struct err *e)
{
    const struct rwkv_info *info = rwkv_get_info(k->d->model);
    const size_t n = (size_t)k->p.bytes[i] + 1;
    uint32_t tokens[ROWS];
    int rc = make_room(k, (size_t)k->p.first[i] + r->pool.max, e);
    hybrid_pool_clear(&r->pool);
    memset(r->state, 0, rwkv_state_floats(info) * sizeof *r->state);
    for (size_t at = 0; at < n && rc == 0; at += ROWS) {
        const size_t len = n - at < ROWS ? n - at : ROWS;
        for (size_t t = 0; t < len; t++)
            tokens[t] = at + t ? k->context[i][at + t - 1] : CORPUS_SEPARATOR;
        struct rwkv_seq q = {
            .tokens = tokens, .n_tokens = len, .state = r->state, .hidden = r->hidden};
        rc = rwkv_eval(r->session, &q, 1, e);
        for (size_t t = 0; t < len && rc == 0; t++)
            hybrid_pool_add(&r->pool, r->hidden + t * info->n_embd);
    }
    if (rc == 0)
        k->p.first[i + 1] =
            k->p.first[i] +
            (int64_t)hybrid_pool_rows(&r->pool, k->p.rows + k->p.first[i] * (int64_t)k->p.X);
    return rc < 0 || !k->p.S ? rc : keep_state(k, r, i, e);
}

static int read_contexts(struct maker *k, struct err *e)
{
    const struct hybrid_data *d = k->d;
    const struct rwkv_info *info = rwkv_get_info(d->model);
    struct reader r = {.session = rwkv_session_new(d->model, d->pool, ROWS, e)};
    if (!r.session)
        return e->code;
    r.state = rwkv_state_new(info);
    r.hidden = calloc(ROWS * info->n_embd, sizeof *r.hidden);
    int rc = hybrid_pool_init(&r.pool, info->n_embd, d->r->max_context, e);
    if (rc == 0 && (!r.state || !r.hidden))
        rc = err_set(e, ERR_NOMEM, "pairs: out of memory");
    for (size_t i = 0; i < k->p.n && rc == 0; i++) {
        rc = read_context(k, &r, i, e);
        if (rc == 0 && !d->proceed(d->ctx, i / 2, k->p.n))
            rc = err_set(e, ERR_CANCELLED, "pairs: stopped at context %zu of %zu", i, k->p.n);
    }
    hybrid_pool_fini(&r.pool);
    rwkv_session_free(r.session);
    free(r.state);
    free(r.hidden);
    return rc;
}

/* ---- targets ---- */

/* At a line or sentence start of text [begin, end), if that has more than T bytes; else all of it. */
static struct hybrid_window draw_window(const struct corpus *c, size_t begin, size_t end, size_t T,
                                        struct rng *rng)
{
    if (end - begin <= T)
        return (struct hybrid_window){c->text + begin, end - begin};
    size_t at = corpus_boundary(c->text, begin + rng_below(rng, end - begin - T), end);
    return (struct hybrid_window){c->text + (at + T > end ? end - T : at), T};
}

/* Windows anywhere in the corpus. */
static void corpus_windows(const struct maker *k, const struct corpus *from, struct rng *rng,
                           struct hybrid_window w[CORPUS_WINDOWS])
{
    for (size_t i = 0; i < CORPUS_WINDOWS; i++) {
        size_t doc = 0, at = rng_below(rng, from->n), last = from->n_docs - 1;
        while (doc < last) { /* the document around byte at */
            const size_t half = (doc + last + 1) / 2;
            if (from->doc[half] <= at)
                doc = half;
            else
                last = half - 1;
        }
        w[i] = draw_window(from, from->doc[doc], from->doc[doc + 1] - 1, k->p.T, rng);
    }
}

static void corpus_step(void *ctx, int part, int parts)
{
    struct maker *k = ctx;
    const struct hybrid_recipe *r = k->d->r;
    const size_t c = k->from + (size_t)part;
    struct hybrid_window w[CORPUS_WINDOWS];
    (void)parts;
    if (c >= k->to)
        return;
    corpus_windows(k, &k->data[c], &k->rng[part], w);
    const double falls = 0.5 + 0.5 * cos(M_PI * (double)k->step / (double)r->corpus_steps);
    hybrid_target_step(&k->target[part], w, CORPUS_WINDOWS, r->corpus_lr * falls);
}

/* The vectors of the corpora: CORPUS_WINDOWS windows a step, the rate falling; a corpus a thread. */
static int descend_corpora(struct maker *k, struct err *e)
{
    const struct hybrid_data *d = k->d;
    const size_t n = d->r->n_data, n_theta = k->p.n_theta, threads = (size_t)pool_threads(d->pool);
    for (k->from = 0; k->from < n; k->from = k->to) {
        k->to = n - k->from < threads ? n : k->from + threads;
        for (size_t c = k->from; c < k->to; c++) {
            rng_init(&k->rng[c - k->from], d->r->seed, ((uint64_t)1 << 40) + c);
            hybrid_target_begin(&k->target[c - k->from], k->own);
        }
        for (k->step = 0; k->step < d->r->corpus_steps; k->step++) {
            pool_run(d->pool, corpus_step, k);
            if (!d->proceed(d->ctx, k->p.n / 2, k->p.n))
                return err_set(e, ERR_CANCELLED, "pairs: stopped at a corpus' vectors");
        }
        for (size_t c = k->from; c < k->to; c++)
            memcpy(k->start + c * n_theta, k->target[c - k->from].theta,
                   n_theta * sizeof *k->start);
    }
    return 0;
}

/* Where the descent of a pair begins: at its corpus' vectors; at the model's own where a text held out
 * is of no corpus of the training's. */
static const float *start_of(const struct maker *k, size_t i)
{
    size_t c = 0;
    while (c < k->d->r->n_data && strcmp(k->data[c].name, corpus_of(k, i)->name))
        c++;
    return k->start + c * k->p.n_theta;
}

static void pair_step(void *ctx, int part, int parts)
{
    struct maker *k = ctx;
    const size_t i = k->from + (size_t)part;
    (void)parts;
    if (i >= k->to)
        return;
    const struct corpus *c = corpus_of(k, i);
    const size_t begin = (size_t)(k->context[i] - c->text);
    const size_t windows = (k->d->r->target_bytes + k->p.T - 1) / k->p.T;
    struct hybrid_window w[HYBRID_TARGET_WINDOWS];
    for (size_t j = 0; j < windows; j++)
        w[j] = draw_window(c, begin, begin + (size_t)k->p.bytes[i], k->p.T, &k->rng[part]);
    hybrid_target_step(&k->target[part], w, windows, k->d->r->target_lr);
}

static void end_pair(void *ctx, int part, int parts)
{
    struct maker *k = ctx;
    struct hybrid_target *t = &k->target[part];
    const size_t n = k->p.n_theta, i = k->from + (size_t)part;
    (void)parts;
    if (i >= k->to)
        return;
    for (size_t j = 0; j < n; j++)
        k->p.delta[i * n + j] = t->theta[j] - k->own[j];
    if (!is_held(k, i))
        return;
    const struct hybrid_window next = {k->p.text + i * k->p.M * k->p.T, k->p.T};
    k->loss[part][0] += hybrid_target_loss(t, k->own, next);
    k->loss[part][1] += hybrid_target_loss(t, start_of(k, i), next);
    k->loss[part][2] += hybrid_target_loss(t, t->theta, next);
}

/* The targets of pairs from .. to, a thread each. */
static int descend_round(struct maker *k, struct err *e)
{
    const struct hybrid_data *d = k->d;
    for (size_t i = k->from; i < k->to; i++) {
        rng_init(&k->rng[i - k->from], d->r->seed, ((uint64_t)1 << 41) + i);
        hybrid_target_begin(&k->target[i - k->from], start_of(k, i));
    }
    for (uint64_t s = 0; s <= d->r->target_steps; s++) {
        pool_run(d->pool, s < d->r->target_steps ? pair_step : end_pair, k);
        if (!d->proceed(d->ctx, (k->p.n + k->from) / 2, k->p.n))
            return err_set(e, ERR_CANCELLED, "pairs: stopped at target %zu of %zu", k->from,
                           k->p.n);
    }
    return 0;
}

static int descend_all(struct maker *k, struct err *e)
{
    const size_t threads = (size_t)pool_threads(k->d->pool);
    int rc = descend_corpora(k, e);
    for (k->from = 0; rc == 0 && k->from < k->p.n; k->from = k->to) {
        k->to = k->p.n - k->from < threads ? k->p.n : k->from + threads;
        rc = descend_round(k, e);
    }
    for (size_t i = 0; rc == 0 && i < k->p.n * k->p.n_theta; i++)
        if (!isfinite(k->p.delta[i]))
            rc = err_set(e, ERR_NUMERIC, "pairs: the target of pair %zu is not finite",
                         i / k->p.n_theta);
    return rc;
}

int hybrid_data_make(const struct hybrid_data *d, double loss[3], struct err *e)
{
    const struct hybrid_recipe *r = d->r;
    struct maker *k = calloc(1, sizeof *k);
    if (!k)
        return err_set(e, ERR_NOMEM, "pairs: out of memory");
    int rc = maker_init(k, d, e);
    if (rc == 0)
        rc = draw_pairs(k, e);
    if (rc == 0)
        rc = read_contexts(k, e);
    if (rc == 0)
        rc = descend_all(k, e);
    if (rc == 0)
        rc = write_pairs(&k->p, r->dataset, e);
    for (int i = 0; i < 3; i++) {
        loss[i] = 0;
        for (int t = 0; t < pool_threads(d->pool) && rc == 0; t++)
            loss[i] += k->loss[t][i] / (double)r->eval_pairs;
    }
    maker_fini(k);
    free(k);
    return rc;
}
