#include "engine/train/hybrid_trainer.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"
#include "engine/tensor/dtype.h"

#include <math.h>
#include <string.h>

struct hybrid_bench {
    struct hybrid_chain_f32 *chain;
    struct hybrid_sampling sampling;
    double *x;                     /* [n] */
    float *start, *target, *noise; /* [n] */
    float *state;                  /* [S] */
    uint32_t *tokens;              /* [T + 1] */
    double loss[2];
    double eval[HYBRID_EVALS], diffusion;
};

/* Root mean square of each group's deltas over the training pairs; 0 stays 0. */
static void find_scales(struct hybrid_trainer *t)
{
    const size_t C = t->net->info.shape.n_embd, groups = t->p->n_theta / C;
    for (size_t g = 0; g < groups; g++) {
        double sum = 0;
        for (size_t i = 0; i < t->p->n_train; i++)
            for (size_t c = 0; c < C; c++) {
                double d = (double)t->p->delta[i * t->p->n_theta + g * C + c];
                sum += d * d;
            }
        t->net->scale[g] = (float)sqrt(sum / (double)(t->p->n_train * C));
    }
}

/* Mean 0 and variance 1 for each number of the training pairs' rows. */
static void find_normaliser(struct hybrid_trainer *t)
{
    const size_t X = t->p->X, n = (size_t)t->p->first[t->p->n_train];
    for (size_t x = 0; x < X; x++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)t->p->rows[i * X + x];
        const double mean = n ? sum / (double)n : 0;
        for (size_t i = 0; i < n; i++) {
            double d = (double)t->p->rows[i * X + x] - mean;
            squares += d * d;
        }
        const double scale = n ? sqrt(squares / (double)n) : 0;
        t->net->context_mean[x] = (float)mean;
        t->net->context_scale[x] = scale > 1e-8 ? (float)scale : 1;
    }
}

static bool bench_init(struct hybrid_trainer *t, struct hybrid_bench *b, struct err *e)
{
    b->chain = hybrid_chain_new_f32(t->l, &t->net->layout, &t->op, t->p->T);
    b->x = calloc(t->n, sizeof *b->x);
    b->start = mem_calloc_aligned(3 * t->n, sizeof *b->start);
    b->state = calloc(t->p->S + 1, sizeof *b->state);
    b->tokens = calloc(t->p->T + 1, sizeof *b->tokens);
    if (!b->chain || !b->x || !b->start || !b->state || !b->tokens)
        return false;
    b->target = b->start + t->n;
    b->noise = b->target + t->n;
    return hybrid_sampling_init(&b->sampling, t->net, t->r->sampling_steps, &t->op, e) == 0;
}

int hybrid_trainer_init(struct hybrid_trainer *t, const struct hybrid_setup *s, struct err *e)
{
    struct hybrid *net = s->net;
    *t = (struct hybrid_trainer){.r = s->r,
                                 .p = s->p,
                                 .net = net,
                                 .l = s->l,
                                 .weights = s->weights,
                                 .op = *nn_f32_for(CPU_AUTO),
                                 .pool = s->pool,
                                 .between = s->between,
                                 .ctx = s->ctx,
                                 .threads = pool_threads(s->pool),
                                 .n = net->layout.shape.n_token * net->layout.shape.token_dim};
    if (s->r->bf16)
        nn_bf16_products(&t->op);
    const size_t count = hybrid_count(&net->layout, &net->info.shape);
    const size_t groups = net->info.shape.n_layer * hybrid_get_groups(net), X = t->p->X;
    const size_t n_rows = (size_t)t->p->first[t->p->n] * X;
    net->params = mem_calloc_aligned(count, sizeof *net->params);
    net->scale = calloc(groups, sizeof(float));
    net->context_mean = calloc(X, sizeof(float));
    net->context_scale = calloc(X, sizeof(float));
    t->no_scale = calloc(groups, sizeof(float));
    t->theta = calloc(t->p->n_theta, sizeof(float));
    t->rows = malloc(n_rows * sizeof(float) + 1);
    t->bench = calloc((size_t)t->threads, sizeof *t->bench);
    bool ok = net->params && net->scale && net->context_mean && net->context_scale && t->no_scale &&
              t->theta && t->rows && t->bench;
    ok = ok && ema_init(&t->w, count, net->params, t->threads, e) == 0;
    for (int k = 0; ok && k < t->threads; k++)
        ok = bench_init(t, &t->bench[k], e);
    if (!ok)
        return e->code ? e->code : err_set(e, ERR_NOMEM, "training: out of memory");
    rwkv_params_theta(t->l, t->weights, net->info.rank, t->theta);
    find_scales(t);
    find_normaliser(t);
    memcpy(t->rows, t->p->rows, n_rows * sizeof(float));
    hybrid_normalise(net, t->rows, n_rows / X);
    dit_params_init(&net->layout, t->w.params, t->r->seed);
    for (size_t g = 0; g < groups; g++)
        t->w.params[net->layout.count + g] = (float)log(t->r->alpha / (1 - t->r->alpha));
    memcpy(net->params, t->w.params, t->w.count * sizeof(float));
    return 0;
}

void hybrid_trainer_fini(struct hybrid_trainer *t)
{
    for (int k = 0; k < t->threads; k++) {
        if (t->bench) {
            hybrid_chain_free_f32(t->bench[k].chain);
            hybrid_sampling_fini(&t->bench[k].sampling);
            free(t->bench[k].x);
            free(t->bench[k].start);
            free(t->bench[k].state);
            free(t->bench[k].tokens);
        }
    }
    void *all[] = {t->theta, t->no_scale, t->rows, t->bench};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    ema_fini(&t->w);
    memset(t, 0, sizeof *t);
}

/* What a sample is made of. */
struct choice {
    size_t pair, context; /* whose target; whose rows, or SIZE_MAX: none */
    size_t text;          /* which of the pair's continuations */
    bool from_state;      /* begun at the pair's state, not at zero */
    const float *params;
    struct rng rng;
};

/* Fills b for a choice: text, target, noises, and the beginning of the last step of sampling. */
static struct hybrid_sample_f32 prepare(const struct hybrid_trainer *t, struct hybrid_bench *b,
                                        struct choice *c)
{
    const struct hybrid_pairs *p = t->p;
    const size_t N = t->net->info.shape.head_size, C = t->net->info.shape.n_embd, H = C / N;
    const size_t G = hybrid_get_groups(t->net);
    const float *delta = p->delta + c->pair * p->n_theta;
    const uint8_t *text = p->text + (c->pair * p->M + c->text) * p->T;
    const size_t at = rng_below(&c->rng, DIT_TIMESTEPS), X = p->X;
    b->tokens[0] = CORPUS_SEPARATOR;
    for (size_t k = 0; k < p->T; k++)
        b->tokens[k + 1] = text[k];
    for (size_t k = 0; k < p->n_theta; k++) { /* from [L, G, H, N] to [L, H, G, N] */
        const size_t group = k / C, h = k % C / N, i = group / G, q = group % G;
        const float scale = t->net->scale[group];
        b->target[((i * H + h) * G + q) * N + k % N] = scale > 0 ? delta[k] / scale : 0;
    }
    for (size_t k = 0; k < t->n; k++) {
        b->noise[k] = (float)rng_normal(&c->rng);
        b->x[k] = rng_normal(&c->rng);
    }
    if (c->from_state)
        dtype_to_f32(DTYPE_F16, p->state + c->pair * p->S, b->state, p->S);
    const bool none = c->context == SIZE_MAX;
    const size_t first = none ? 0 : (size_t)p->first[c->context];
    const size_t n = none ? 0 : (size_t)p->first[c->context + 1] - first;
    hybrid_sampling_run(&b->sampling, c->params, t->rows + first * X, n, b->x, false);
    for (size_t k = 0; k < t->n; k++)
        b->start[k] = (float)b->x[k];
    return (struct hybrid_sample_f32){.context = t->rows + first * X,
                                      .n_context = n,
                                      .x = b->start,
                                      .last = &b->sampling.steps.step[0],
                                      .tokens = b->tokens,
                                      .T = p->T,
                                      .state = c->from_state ? b->state : NULL,
                                      .target = b->target,
                                      .noise = b->noise,
                                      .at = &t->net->schedule.step[at]};
}

static struct hybrid_net_f32 net_of(const struct hybrid_trainer *t, const float *params,
                                    const float *scale)
{
    return (struct hybrid_net_f32){.shape = t->net->info.shape,
                                   .dit = &t->net->layout,
                                   .params = params,
                                   .theta = t->theta,
                                   .scale = scale};
}

struct step_job {
    struct hybrid_trainer *t;
    uint64_t step;
};

static void gradient_part(void *ctx, int part, int parts)
{
    const struct step_job *j = ctx;
    struct hybrid_trainer *t = j->t;
    struct hybrid_bench *b = &t->bench[part];
    const struct hybrid_net_f32 net = net_of(t, t->w.params, t->net->scale);
    const double batch = (double)t->r->batch;
    size_t lo, hi;
    memset(t->w.grad[part], 0, t->w.count * sizeof(float));
    b->loss[0] = b->loss[1] = 0;
    pool_slice(t->r->batch, 1, part, parts, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        struct choice c = {.params = t->w.params};
        double loss[2];
        rng_init(&c.rng, t->r->seed, ((j->step + 1) << 20) + i);
        c.pair = rng_below(&c.rng, t->p->n_train);
        c.text = rng_below(&c.rng, t->p->M);
        c.context = rng_uniform(&c.rng) < t->r->context_dropout ? SIZE_MAX : c.pair;
        c.from_state = t->r->states > 0 && rng_uniform(&c.rng) < t->r->states;
        struct hybrid_sample_f32 s = prepare(t, b, &c);
        s.weight[0] = 1 / (batch * (double)t->p->T);
        s.weight[1] = t->r->lambda / (batch * (double)t->n);
        hybrid_chain_run_f32(b->chain, &net, t->weights, &s, t->w.grad[part], loss);
        b->loss[0] += loss[0] / (batch * (double)t->p->T);
        b->loss[1] += loss[1] / (batch * (double)t->n);
    }
    ema_sum_part(&t->w, t->pool, part, parts);
}

void hybrid_trainer_step(struct hybrid_trainer *t, uint64_t step, double lr, double loss[2],
                         double *norm)
{
    struct step_job j = {t, step};
    pool_run(t->pool, gradient_part, &j);
    loss[0] = loss[1] = 0;
    for (int k = 0; k < t->threads; k++) {
        loss[0] += t->bench[k].loss[0];
        loss[1] += t->bench[k].loss[1];
    }
    *norm = ema_norm(&t->w, &t->op);
    if (!isfinite(loss[0]) || !isfinite(loss[1]) || !isfinite(*norm))
        return;
    const struct ema_options o = {&t->op, &t->r->adamw, t->r->ema};
    ema_step(&t->w, &o, t->pool, lr, step, *norm);
}

/* ---- evaluation ---- */

/* Another held-out pair, of another corpus if there is one. */
static size_t stranger(const struct hybrid_pairs *p, size_t i)
{
    const size_t n = p->n - p->n_train;
    for (size_t k = 1; k < n; k++) {
        size_t j = p->n_train + (i - p->n_train + k) % n;
        if (p->corpus[j] != p->corpus[i])
            return j;
    }
    return i;
}

static void eval_part(void *ctx, int part, int parts)
{
    struct hybrid_trainer *t = ctx;
    struct hybrid_bench *b = &t->bench[part];
    (void)parts;
    const size_t i = t->eval_at + (size_t)part;
    if (i >= t->p->n)
        return;
    const size_t context[HYBRID_EVALS] = {SIZE_MAX, i, stranger(t->p, i), SIZE_MAX, SIZE_MAX, i};
    for (int k = 0; k < (t->p->S ? HYBRID_EVALS : HYBRID_STATE); k++) {
        const bool own = k == HYBRID_PLAIN || k == HYBRID_STATE;
        const struct hybrid_net_f32 net =
            net_of(t, t->net->params, own ? t->no_scale : t->net->scale);
        struct choice c = {i, context[k], 0, k >= HYBRID_STATE, t->net->params, {0}};
        double loss[2];
        rng_init(&c.rng, t->r->seed, i); /* below the steps' streams */
        struct hybrid_sample_f32 s = prepare(t, b, &c);
        if (k != HYBRID_OWN)
            s.target = NULL;
        hybrid_chain_run_f32(b->chain, &net, t->weights, &s, NULL, loss);
        b->eval[k] += loss[0];
        b->diffusion += loss[1];
    }
}

void hybrid_trainer_evaluate(struct hybrid_trainer *t, double bits[HYBRID_EVALS], double *diffusion)
{
    const double n = (double)(t->p->n - t->p->n_train);
    for (int k = 0; k < t->threads; k++) {
        memset(t->bench[k].eval, 0, sizeof t->bench[k].eval);
        t->bench[k].diffusion = 0;
    }
    for (t->eval_at = t->p->n_train; t->eval_at < t->p->n; t->eval_at += (size_t)t->threads) {
        pool_run(t->pool, eval_part, t);
        t->between(t->ctx);
    }
    *diffusion = 0;
    for (int k = 0; k < HYBRID_EVALS; k++) {
        bits[k] = 0;
        for (int p = 0; p < t->threads; p++)
            bits[k] += t->bench[p].eval[k] / (n * (double)t->p->T * 0.69314718055994531);
    }
    for (int p = 0; p < t->threads; p++)
        *diffusion += t->bench[p].diffusion / (n * (double)t->n);
}
