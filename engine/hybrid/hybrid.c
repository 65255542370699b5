#include "engine/hybrid/net.h"

#include "daemon/base/mem.h"
#include "engine/hybrid/pooling.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROWS 64 /* tokens of one call while a context is read */

int hybrid_init(struct hybrid *h, const struct dit_shape *s, struct err *e)
{
    const struct state_shape *m = &h->info.shape;
    struct dit_shape d = *s;
    d.n_token = m->n_layer * state_shape_heads(m);
    d.token_dim = rwkv_theta_groups(h->info.rank) * m->head_size;
    d.context_dim = m->n_embd + HYBRID_FEATURES;
    d.max_context = h->info.max_context;
    d.per_token = true;
    int rc = dit_layout_init(&h->layout, &d, e);
    if (rc == 0)
        rc = dit_schedule_init(&h->schedule, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, e);
    if (rc < 0)
        return rc;
    h->info.n_embd = d.n_embd;
    h->info.n_head = d.n_head;
    h->info.n_block = d.n_block;
    h->info.n_mlp = d.n_mlp;
    h->info.n_params = h->layout.n_params + m->n_layer * hybrid_get_groups(h);
    h->info.weight_bytes = 4 * h->info.n_params;
    return 0;
}

void hybrid_fini(struct hybrid *h)
{
    dit_layout_fini(&h->layout);
    dit_schedule_fini(&h->schedule);
    free(h->params);
    free(h->scale);
    free(h->context_mean);
    free(h->context_scale);
    memset(h, 0, sizeof *h);
}

void hybrid_close(struct hybrid *h)
{
    if (h)
        hybrid_fini(h);
    free(h);
}

const struct hybrid_info *hybrid_get_info(const struct hybrid *h)
{
    return &h->info;
}

size_t hybrid_get_groups(const struct hybrid *h)
{
    return rwkv_theta_groups(h->info.rank);
}

void hybrid_group_name(size_t group, size_t rank, char name[24])
{
    static const char *const six[RWKV_THETA] = {"w0", "a0", "v0", "k_k", "k_a", "r_k"};
    static const char *const low[RWKV_LOW] = {"receptance", "key", "value"};
    if (group < RWKV_THETA) {
        snprintf(name, 24, "%s", six[group]);
        return;
    }
    const size_t at = (group - RWKV_THETA) % (2 * rank);
    snprintf(name, 24, "%s.%c.%u", low[(group - RWKV_THETA) / (2 * rank) % RWKV_LOW],
             at < rank ? 'a' : 'b', (unsigned)(at % rank));
}

double hybrid_alpha(const struct hybrid *h, size_t layer, size_t group)
{
    const float *logits = h->params + h->layout.count;
    return 1 / (1 + exp(-(double)logits[layer * hybrid_get_groups(h) + group]));
}

/* ---- sampling ---- */

int hybrid_sampling_init(struct hybrid_sampling *g, const struct hybrid *h, size_t steps,
                         const struct nn_f32 *op, struct err *e)
{
    const struct dit_solver_options ddim = {.prediction = DIT_PREDICT_V, .scheduler = DIT_DDIM};
    const struct dit_shape *s = &h->layout.shape;
    const size_t n = s->n_token * s->token_dim;
    size_t t[100];
    *g = (struct hybrid_sampling){.l = &h->layout};
    if (steps < 1 || steps > 100)
        return err_set_param(e, ERR_INVALID, "steps", "steps must be from 1 to 100");
    for (size_t i = 0; i < steps; i++)
        t[i] = (i + 1) * DIT_TIMESTEPS / steps - 1;
    int rc = dit_schedule_pick(&g->steps, &h->schedule, t, steps, e);
    if (rc == 0)
        rc = dit_solver_init(&g->solver, &g->steps, &ddim, n, e);
    if (rc < 0)
        return rc;
    g->work = dit_work_new_forward_f32(&h->layout, op, 1);
    g->in = mem_calloc_aligned(n, sizeof *g->in);
    g->out = mem_calloc_aligned(n, sizeof *g->out);
    g->context = mem_calloc_aligned(s->max_context * s->context_dim, sizeof *g->context);
    g->v = calloc(n, sizeof *g->v);
    return g->work && g->in && g->out && g->context && g->v
               ? 0
               : err_set(e, ERR_NOMEM, "hybrid: out of memory");
}

void hybrid_sampling_fini(struct hybrid_sampling *g)
{
    dit_schedule_fini(&g->steps);
    dit_solver_fini(&g->solver);
    dit_work_free_f32(g->work);
    free(g->in);
    free(g->out);
    free(g->context);
    free(g->v);
    memset(g, 0, sizeof *g);
}

void hybrid_sampling_run(struct hybrid_sampling *g, const float *params, const float *context,
                         size_t n, double *x, bool whole)
{
    static const uint32_t none = 0;
    const struct dit_shape *s = &g->l->shape;
    const size_t X = s->context_dim, all = s->n_token * s->token_dim;
    memcpy(g->context, context, n * X * sizeof *context);
    memset(g->context + n * X, 0, (s->max_context - n) * X * sizeof *context);
    g->solver.has_prev = false;
    for (size_t i = g->steps.n; i-- > (whole ? 0 : 1);) {
        for (size_t k = 0; k < all; k++)
            g->in[k] = (float)x[k];
        const struct dit_input_f32 in = {.S = 1,
                                         .x = g->in,
                                         .t = &g->steps.step[i].t,
                                         .label = &none,
                                         .context = g->context,
                                         .n_context = &n};
        dit_forward_f32(g->work, params, &in, g->out);
        for (size_t k = 0; k < all; k++)
            g->v[k] = (double)g->out[k];
        dit_solver_step(&g->solver, i, x, g->v, NULL);
    }
}

/* ---- contexts ---- */

struct hybrid_context {
    const struct rwkv_model *model;
    const struct rwkv_info *info;
    struct hybrid_pool pool;
    float *state, *hidden; /* of hybrid_context_feed; hidden [ROWS, C] */
};

void hybrid_context_free(struct hybrid_context *c)
{
    if (!c)
        return;
    hybrid_pool_fini(&c->pool);
    free(c->state);
    free(c->hidden);
    free(c);
}

struct hybrid_context *hybrid_context_new(const struct hybrid *h, const struct rwkv_model *m,
                                          struct err *e)
{
    const struct rwkv_info *i = rwkv_get_info(m);
    if (strcmp(i->fingerprint, h->info.fingerprint)) {
        err_set(e, ERR_INVALID, "the hybrid was trained for another model");
        return NULL;
    }
    struct hybrid_context *c = calloc(1, sizeof *c);
    if (!c) {
        err_set(e, ERR_NOMEM, "hybrid: out of memory");
        return NULL;
    }
    c->model = m;
    c->info = i;
    if (hybrid_pool_init(&c->pool, i->n_embd, h->info.max_context, e) == 0)
        return c;
    hybrid_context_free(c);
    return NULL;
}

void hybrid_context_add(struct hybrid_context *c, const float *hidden, size_t n)
{
    for (size_t t = 0; t < n; t++)
        hybrid_pool_add(&c->pool, hidden + t * c->info->n_embd);
}

int hybrid_context_feed(struct hybrid_context *c, struct rwkv_session *s, const uint32_t *tokens,
                        size_t n, struct err *e)
{
    int rc = 0;
    if (!c->state)
        c->state = rwkv_state_new(c->info);
    if (!c->hidden)
        c->hidden = calloc(ROWS * c->info->n_embd, sizeof *c->hidden);
    if (!c->state || !c->hidden)
        return err_set(e, ERR_NOMEM, "hybrid: out of memory");
    for (size_t at = 0; at < n && rc == 0; at += ROWS) {
        struct rwkv_seq q = {.tokens = tokens + at,
                             .n_tokens = n - at < ROWS ? n - at : ROWS,
                             .state = c->state,
                             .hidden = c->hidden};
        rc = rwkv_eval(s, &q, 1, e);
        if (rc == 0)
            hybrid_context_add(c, c->hidden, q.n_tokens);
    }
    return rc;
}

const float *hybrid_context_state(const struct hybrid_context *c)
{
    return c->state;
}

size_t hybrid_context_rows(const struct hybrid_context *c, float *out)
{
    return hybrid_pool_rows(&c->pool, out);
}

void hybrid_normalise(const struct hybrid *h, float *rows, size_t n)
{
    const size_t X = h->layout.shape.context_dim;
    for (size_t i = 0; i < n * X; i++)
        rows[i] = (rows[i] - h->context_mean[i % X]) / h->context_scale[i % X];
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* |B A|^2 over the channels: the sum over j and k of (A_j A_k) (B_j B_k), of rows A [r, C], columns B. */
static double low_squares(const float *a, size_t rank, size_t C)
{
    const float *b = a + rank * C;
    double sum = 0;
    for (size_t j = 0; j < rank; j++)
        for (size_t k = 0; k < rank; k++)
            sum += dot(a + j * C, a + k * C, C) * dot(b + j * C, b + k * C, C);
    return sum;
}

static void measure(const struct hybrid *h, const float *own, const float *theta, const float *z,
                    struct hybrid_norms *norms)
{
    const size_t C = h->info.shape.n_embd, L = h->info.shape.n_layer, rank = h->info.rank;
    const size_t groups = hybrid_get_groups(h);
    *norms = (struct hybrid_norms){0};
    for (size_t q = 0; q < RWKV_THETA; q++) {
        double change = 0, all = 0;
        for (size_t i = 0; i < L; i++)
            for (size_t c = 0; c < C; c++) {
                const size_t at = (i * groups + q) * C + c;
                const double x = (double)own[at], d = (double)theta[at] - x;
                change += d * d;
                all += x * x;
            }
        norms->change[q] = all > 0 ? sqrt(change / all) : sqrt(change);
    }
    for (size_t q = 0; q < RWKV_LOW; q++) {
        double all = 0;
        for (size_t i = 0; i < L; i++)
            all += low_squares(theta + (i * groups + rwkv_theta_low(rank, (enum rwkv_low)q)) * C,
                               rank, C);
        norms->low[q] = sqrt(all > 0 ? all : 0);
    }
    double largest = 0; /* written so: GCC 12 for ARM does not get through a loop of fmax */
    for (size_t i = 0; i < L * groups * C; i++)
        if (fabs((double)z[i]) > largest)
            largest = fabs((double)z[i]);
    norms->coordinate = largest;
}

/* What an adjustment reads, beside the hybrid and its options: vectors, rows [n, X] normalised. */
struct source {
    const float *own, *rows;
    size_t n;
};

static int adjust(const struct hybrid *h, const struct hybrid_options *o, const struct source *from,
                  float *theta, struct hybrid_norms *norms, struct err *e)
{
    const size_t all = h->layout.shape.n_token * h->layout.shape.token_dim;
    struct hybrid_sampling g = {0};
    double *x = calloc(all, sizeof *x);
    int rc = x ? hybrid_sampling_init(&g, h, o->steps ? o->steps : h->info.sampling_steps,
                                      nn_f32_for(CPU_AUTO), e)
               : err_set(e, ERR_NOMEM, "hybrid: out of memory");
    if (rc == 0) {
        const struct hybrid_net_f32 net = {h->info.shape, &h->layout, h->params, from->own,
                                           h->scale};
        dit_noise(x, all, o->seed, 0, 0);
        hybrid_sampling_run(&g, h->params, from->rows, from->n, x, true);
        for (size_t i = 0; i < all; i++)
            g.out[i] = (float)x[i];
        hybrid_mix_forward_f32(theta, g.out, &net, o->strength);
        measure(h, from->own, theta, g.out, norms);
        for (size_t i = 0; i < all && rc == 0; i++)
            if (!isfinite(theta[i]))
                rc = err_set(e, ERR_NUMERIC, "hybrid: a vector is not finite");
    }
    hybrid_sampling_fini(&g);
    free(x);
    return rc;
}

int hybrid_adjust(const struct hybrid *h, const struct hybrid_context *c,
                  const struct hybrid_options *o, float *theta, struct hybrid_norms *norms,
                  struct err *e)
{
    const struct dit_shape *s = &h->layout.shape;
    const size_t n_theta = rwkv_theta_floats(c->info, h->info.rank);
    *norms = (struct hybrid_norms){0};
    if (!(o->strength >= 0 && o->strength <= 4))
        return err_set_param(e, ERR_INVALID, "strength", "strength must be from 0 to 4");
    if (o->steps > 100)
        return err_set_param(e, ERR_INVALID, "steps", "steps must be from 1 to 100");
    rwkv_get_theta(c->model, h->info.rank, theta);
    if (o->strength == 0)
        return 0;
    float *own = malloc(n_theta * sizeof *own);
    float *rows = calloc(s->max_context * s->context_dim, sizeof *rows);
    int rc = own && rows ? 0 : err_set(e, ERR_NOMEM, "hybrid: out of memory");
    if (rc == 0) {
        memcpy(own, theta, n_theta * sizeof *own);
        const struct source from = {own, rows, hybrid_context_rows(c, rows)};
        hybrid_normalise(h, rows, from.n);
        rc = adjust(h, o, &from, theta, norms, e);
    }
    free(own);
    free(rows);
    return rc;
}

int hybrid_weaken(const struct rwkv_model *m, size_t rank, float *theta, double strength,
                  struct err *e)
{
    const size_t n = rwkv_theta_floats(rwkv_get_info(m), rank);
    float *own = strength < 1 ? malloc(n * sizeof *own) : NULL;
    if (strength >= 1)
        return 0;
    if (!own)
        return err_set(e, ERR_NOMEM, "hybrid: out of memory");
    rwkv_get_theta(m, rank, own);
    for (size_t i = 0; i < n; i++)
        theta[i] = (float)((double)own[i] + strength * ((double)theta[i] - (double)own[i]));
    free(own);
    return 0;
}
