#include "engine/train/hybrid_data.h"

#include "daemon/base/mem.h"
#include "engine/hybrid/pooling.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "dreamstate-hybrid-pairs-1"
#define ROWS   64 /* tokens of one call while a context is read */
#define TRIES  1000

void hybrid_pairs_close(struct hybrid_pairs *p)
{
    void *all[] = {p->first, p->corpus, p->bytes, p->rows, p->delta, p->text};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    memset(p, 0, sizeof *p);
}

/* ---- the file ---- */

static int write_pairs(const struct hybrid_pairs *p, const char *path, struct err *e)
{
    const size_t rows = (size_t)p->first[p->n];
    char n_train[24];
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
        T("text", DTYPE_U8, p->text, p->n, p->T),
    };
#undef T
    snprintf(n_train, sizeof n_train, "%zu", p->n_train);
    const struct tensor_meta meta[] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = p->fingerprint},
        {.key = "n_train", .type = TENSOR_META_STR, .str = n_train},
    };
    return safetensors_write(path, t, sizeof t / sizeof *t, meta, 3, e);
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

static int check_pairs(struct hybrid_pairs *p, size_t shape[6][2], struct err *e)
{
    bool ok = shape[0][0] > 1 && shape[3][1] > HYBRID_FEATURES && shape[4][1] && shape[5][1];
    p->n = ok ? shape[0][0] - 1 : 0;
    p->X = shape[3][1];
    p->n_theta = shape[4][1];
    p->T = shape[5][1];
    ok = ok && shape[1][0] == p->n && shape[2][0] == p->n && shape[4][0] == p->n &&
         shape[5][0] == p->n && p->n_train <= p->n && p->first[0] == 0 &&
         p->first[p->n] == (int64_t)shape[3][0];
    for (size_t i = 0; ok && i < p->n; i++)
        ok = p->first[i] <= p->first[i + 1];
    return ok ? 0 : err_set(e, ERR_FORMAT, "pairs: the tensors do not fit each other");
}

int hybrid_pairs_open(struct hybrid_pairs *p, const char *path, struct err *e)
{
    struct tensor_file *f = NULL;
    size_t shape[6][2] = {{0}}, len = 0;
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
    if (rc == 0) {
        memcpy(p->fingerprint, print, 65);
        p->n_train = n_train ? strtoull(n_train, NULL, 10) : SIZE_MAX;
        bool ok = (p->first = copy(f, "first", DTYPE_I64, shape[0], e)) &&
                  (p->corpus = copy(f, "corpus", DTYPE_I64, shape[1], e)) &&
                  (p->bytes = copy(f, "bytes", DTYPE_I64, shape[2], e)) &&
                  (p->rows = copy(f, "rows", DTYPE_F32, shape[3], e)) &&
                  (p->delta = copy(f, "delta", DTYPE_F32, shape[4], e)) &&
                  (p->text = copy(f, "text", DTYPE_U8, shape[5], e));
        rc = ok ? check_pairs(p, shape, e) : e->code;
    }
    tensor_file_close(f);
    if (rc < 0)
        hybrid_pairs_close(p);
    return rc;
}

/* ---- making them ---- */

/* What a thread descends with. */
struct descent {
    struct rwkv_work_f32 *work;
    float *theta, *dtheta, *frozen, *weight;
    uint32_t *tokens;
    double before, after; /* of its pairs: nats a byte of the continuation */
};

struct maker {
    const struct hybrid_data *d;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct hybrid_pairs p;
    const uint8_t **context; /* [n]: first bytes; their lengths are p.bytes */
    float *own;              /* [n_theta] */
    struct descent *descent; /* [threads] */
    size_t from, to;         /* pairs of the present round */
    size_t cap;              /* rows there is room for */
};

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
    at = corpus_boundary(c, at, end);
    size_t begin = at;
    while (begin > 0 && c->text[begin - 1] && at - begin < len)
        begin--;
    if (at - begin < r->context_min || end - at < r->gap + r->continuation)
        return false;
    const size_t next = corpus_boundary(c, at + r->gap, end);
    if (end - next < r->continuation)
        return false;
    k->context[i] = c->text + begin;
    k->p.bytes[i] = (int64_t)(at - begin);
    memcpy(k->p.text + i * k->p.T, c->text + next, k->p.T);
    return true;
}

static int draw_pairs(struct maker *k, struct err *e)
{
    const struct hybrid_recipe *r = k->d->r;
    for (size_t i = 0; i < k->p.n; i++) {
        const bool held = i >= k->p.n_train;
        const size_t which = held ? (i - k->p.n_train) % r->n_eval : i % r->n_data;
        const struct corpus *c = held ? &k->eval[which] : &k->data[which];
        struct rng rng;
        int tries = 0;
        rng_init(&rng, r->seed, i);
        while (!try_pair(k, i, c, &rng))
            if (++tries == TRIES)
                return err_set(e, ERR_INVALID, "pairs: the documents of %s are too short", c->name);
        k->p.corpus[i] = (int64_t)which;
    }
    return 0;
}

static int maker_init(struct maker *k, const struct hybrid_data *d, struct err *e)
{
    const struct hybrid_recipe *r = d->r;
    struct hybrid_pairs *p = &k->p;
    const int threads = pool_threads(d->pool);
    k->d = d;
    p->n_train = r->pairs;
    p->n = r->pairs + r->eval_pairs;
    p->X = d->l->shape.n_embd + HYBRID_FEATURES;
    p->T = r->continuation;
    p->n_theta = rwkv_layout_theta(d->l);
    memcpy(p->fingerprint, rwkv_get_info(d->model)->fingerprint, 65);
    if (!r->n_data || !r->n_eval || d->l->shape.n_vocab != 256)
        return err_set(e, ERR_INVALID, "pairs: a byte model, data and eval are wanted");
    int rc = recipe_open_corpora(k->data, r->data, r->n_data, e);
    if (rc == 0)
        rc = recipe_open_corpora(k->eval, r->eval, r->n_eval, e);
    if (rc < 0)
        return rc;
    size_t n_delta;
    p->first = calloc(p->n + 1, sizeof *p->first);
    p->corpus = calloc(p->n, sizeof *p->corpus);
    p->bytes = calloc(p->n, sizeof *p->bytes);
    p->text = calloc(p->n, p->T);
    p->delta = mem_mul(p->n, p->n_theta, &n_delta) ? calloc(n_delta, sizeof *p->delta) : NULL;
    k->context = calloc(p->n, sizeof *k->context);
    k->own = calloc(p->n_theta, sizeof *k->own);
    k->descent = calloc((size_t)threads, sizeof *k->descent);
    bool ok = p->first && p->corpus && p->bytes && p->text && p->delta && k->context && k->own &&
              k->descent;
    const size_t T = r->target_bytes > p->T ? r->target_bytes : p->T;
    for (int t = 0; t < threads && ok; t++) {
        struct descent *s = &k->descent[t];
        s->work = rwkv_work_new_f32(d->l, nn_f32_for(CPU_AUTO), T);
        s->theta = calloc(2 * p->n_theta, sizeof *s->theta);
        s->frozen = calloc(d->l->count, sizeof *s->frozen);
        s->weight = calloc(T, sizeof *s->weight);
        s->tokens = calloc(T + 1, sizeof *s->tokens);
        ok = s->work && s->theta && s->frozen && s->weight && s->tokens;
        s->dtheta = ok ? s->theta + p->n_theta : NULL;
    }
    if (!ok)
        return err_set(e, ERR_NOMEM, "pairs: out of memory");
    rwkv_params_theta(d->l, d->weights, k->own);
    return 0;
}

static void maker_fini(struct maker *k)
{
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&k->data[i]);
        corpus_close(&k->eval[i]);
    }
    for (int t = 0; k->descent && t < pool_threads(k->d->pool); t++) {
        rwkv_work_free_f32(k->descent[t].work);
        free(k->descent[t].theta);
        free(k->descent[t].frozen);
        free(k->descent[t].weight);
        free(k->descent[t].tokens);
    }
    free(k->descent);
    free(k->context);
    free(k->own);
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
    return rc;
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

/* Mean cross entropy of n bytes behind the separator under s->theta; with its gradient in dtheta. */
static double text_loss(const struct maker *k, struct descent *s, const uint8_t *text, size_t n,
                        bool gradient)
{
    s->tokens[0] = CORPUS_SEPARATOR;
    for (size_t t = 0; t < n; t++) {
        s->tokens[t + 1] = text[t];
        s->weight[t] = 1 / (float)n;
    }
    rwkv_work_set_theta_f32(s->work, s->theta, s->dtheta);
    double loss = rwkv_forward_f32(s->work, k->d->weights, s->tokens, s->tokens + 1, s->weight, n,
                                   NULL, NULL, NULL);
    if (gradient) {
        memset(s->dtheta, 0, k->p.n_theta * sizeof *s->dtheta);
        memset(s->frozen, 0, k->d->l->count * sizeof *s->frozen);
        rwkv_backward_f32(s->work, k->d->weights, s->frozen, false, NULL, NULL);
    }
    return loss;
}

static double rms(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

static void descend(struct maker *k, struct descent *s, size_t i)
{
    const struct hybrid_recipe *r = k->d->r;
    const size_t C = k->d->l->shape.n_embd, n = k->p.n_theta, bytes = (size_t)k->p.bytes[i];
    const size_t len = bytes < r->target_bytes ? bytes : r->target_bytes;
    const uint8_t *next = k->p.text + i * k->p.T;
    memcpy(s->theta, k->own, n * sizeof *s->theta);
    s->before += text_loss(k, s, next, k->p.T, false);
    for (size_t step = 0; step < r->target_steps; step++) {
        text_loss(k, s, k->context[i] + bytes - len, len, true);
        for (size_t g = 0; g < n; g += C) {
            const double size = rms(s->dtheta + g, C);
            const float by = size > 0 ? (float)(r->target_lr * rms(k->own + g, C) / size) : 0;
            for (size_t c = 0; c < C; c++)
                s->theta[g + c] -= by * s->dtheta[g + c];
        }
    }
    for (size_t c = 0; c < n; c++) {
        k->p.delta[i * n + c] = s->theta[c] - k->own[c];
        s->theta[c] = k->own[c] + (float)(1 - r->alpha) * k->p.delta[i * n + c];
    }
    s->after += text_loss(k, s, next, k->p.T, false);
}

static void descend_part(void *ctx, int part, int parts)
{
    struct maker *k = ctx;
    for (size_t i = k->from + (size_t)part; i < k->to; i += (size_t)parts)
        descend(k, &k->descent[part], i);
}

static int descend_all(struct maker *k, struct err *e)
{
    const struct hybrid_data *d = k->d;
    const size_t round = 8 * (size_t)pool_threads(d->pool);
    for (k->from = 0; k->from < k->p.n; k->from = k->to) {
        k->to = k->p.n - k->from < round ? k->p.n : k->from + round;
        pool_run(d->pool, descend_part, k);
        if (!d->proceed(d->ctx, (k->p.n + k->to) / 2, k->p.n))
            return err_set(e, ERR_CANCELLED, "pairs: stopped at target %zu of %zu", k->to, k->p.n);
    }
    for (size_t i = 0; i < k->p.n * k->p.n_theta; i++)
        if (!isfinite(k->p.delta[i]))
            return err_set(e, ERR_NUMERIC, "pairs: the target of pair %zu is not finite",
                           i / k->p.n_theta);
    return 0;
}

int hybrid_data_make(const struct hybrid_data *d, double loss[2], struct err *e)
{
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
        rc = write_pairs(&k->p, d->r->dataset, e);
    loss[0] = loss[1] = 0;
    for (int t = 0; t < pool_threads(d->pool) && rc == 0; t++) {
        loss[0] += k->descent[t].before / (double)k->p.n;
        loss[1] += k->descent[t].after / (double)k->p.n;
    }
    maker_fini(k);
    free(k);
    return rc;
}
