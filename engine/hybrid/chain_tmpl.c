/* See chain.h. Included with NN_REAL and G(name). */
#include "daemon/base/assert.h"
#include "daemon/base/mem.h"

#include <math.h>

typedef NN_REAL real;
typedef struct G(hybrid_net) net_type;
typedef struct G(hybrid_chain) chain;
typedef struct G(hybrid_sample) sample;

static real alpha_of(const net_type *net, size_t group)
{
    return 1 / (1 + (real)exp(-(double)net->params[net->dit->count + group]));
}

/* Where group q of layer i has head h: in z, in theta. */
#define AT_Z(i, q, h)     (((i)*H + (h)) * groups * N + (q)*N)
#define AT_THETA(i, q, h) (((i)*groups + (q)) * H * N + (h)*N)

void G(hybrid_mix_forward)(real *theta, const real *z, const net_type *net, double strength)
{
    const size_t N = net->shape.head_size, H = net->shape.n_embd / N;
    const size_t groups = hybrid_groups(net->dit, &net->shape);
    const real B = HYBRID_BOUND;
    for (size_t i = 0; i < net->shape.n_layer; i++)
        for (size_t q = 0; q < groups; q++) {
            const size_t group = i * groups + q;
            const real by = (real)strength * (1 - alpha_of(net, group)) * net->scale[group];
            for (size_t h = 0; h < H; h++)
                for (size_t j = 0; j < N; j++) {
                    const real x = z[AT_Z(i, q, h) + j];
                    theta[AT_THETA(i, q, h) + j] =
                        net->theta[AT_THETA(i, q, h) + j] + by * B * (real)tanh((double)(x / B));
                }
        }
}

void G(hybrid_mix_backward)(real *dz, real *dlogits, const real *dtheta, const real *z,
                            const net_type *net)
{
    const size_t N = net->shape.head_size, H = net->shape.n_embd / N;
    const size_t groups = hybrid_groups(net->dit, &net->shape);
    const real B = HYBRID_BOUND;
    for (size_t i = 0; i < net->shape.n_layer; i++)
        for (size_t q = 0; q < groups; q++) {
            const size_t group = i * groups + q;
            const real alpha = alpha_of(net, group), by = (1 - alpha) * net->scale[group];
            real sum = 0; /* of dtheta B tanh(z / B) */
            for (size_t h = 0; h < H; h++)
                for (size_t j = 0; j < N; j++) {
                    const real y = (real)tanh((double)(z[AT_Z(i, q, h) + j] / B));
                    const real d = dtheta[AT_THETA(i, q, h) + j];
                    dz[AT_Z(i, q, h) + j] += d * by * (1 - y * y);
                    sum += d * B * y;
                }
            dlogits[group] -= sum * net->scale[group] * alpha * (1 - alpha);
        }
}

/* R = 2 n D: the language model's sample, then the diffusion's. unread takes the gradients of the
 * parameters that are frozen. */
/* clang-format off */
#define CHAIN_ARRAYS(XX)                                                                           \
    XX(x, R) XX(out, R) XX(dout, R) XX(z, R / 2) XX(dz, R / 2)                                     \
    XX(context, 2 * s->max_context * s->context_dim) XX(theta, n_theta) XX(dtheta, n_theta)        \
    XX(weight, T) XX(unread, l->count) XX(state, rwkv_layout_state(l))
/* clang-format on */

struct G(hybrid_chain) {
    size_t nD, n_theta, rank; /* rank: of theta's low-rank additions */
    struct G(dit_work) * dit;
    struct G(rwkv_work) * rwkv;
    const struct rwkv_layout *l;
    size_t max_T, n_context[2];
    real *memory;
#define XX(name, size) real *name;
    CHAIN_ARRAYS(XX)
#undef XX
};

static size_t lay_out(chain *c, const struct rwkv_layout *l, const struct dit_shape *s, size_t T)
{
    const size_t R = 2 * s->n_token * s->token_dim, n_theta = c->n_theta;
    size_t used = 0;
#define XX(name, size)                                                                             \
    c->name = c->memory ? c->memory + used : NULL;                                                 \
    used += ((size) + 15) & ~(size_t)15;
    CHAIN_ARRAYS(XX)
#undef XX
    return used;
}

chain *G(hybrid_chain_new)(const struct rwkv_layout *l, const struct dit_layout *dit,
                           const struct G(nn) * op, size_t T)
{
    const struct state_shape shape = {l->shape.n_layer, l->shape.n_embd, l->shape.head_size};
    chain *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->l = l;
    c->rank = hybrid_rank(dit, &shape);
    c->n_theta = rwkv_layout_theta(l, c->rank);
    c->max_T = T;
    c->nD = dit->shape.n_token * dit->shape.token_dim;
    c->dit = G(dit_work_new)(dit, op, 2);
    c->rwkv = G(rwkv_work_new)(l, op, T);
    c->memory = mem_calloc_aligned(lay_out(c, l, &dit->shape, T), sizeof(real));
    if (!c->dit || !c->rwkv || !c->memory) {
        G(hybrid_chain_free)(c);
        return NULL;
    }
    lay_out(c, l, &dit->shape, T);
    return c;
}

void G(hybrid_chain_free)(chain *c)
{
    if (!c)
        return;
    G(dit_work_free)(c->dit);
    G(rwkv_work_free)(c->rwkv);
    free(c->memory);
    free(c);
}

/* The transformer on the samples that are wanted; returns their number. */
static size_t predict(chain *c, const net_type *net, const sample *s)
{
    static const uint32_t none[2] = {0, 0};
    const struct dit_shape *d = &net->dit->shape;
    const size_t nX = d->max_context * d->context_dim;
    double t[2];
    size_t S = 0;
    c->n_context[0] = c->n_context[1] = s->n_context;
    if (s->T) {
        memcpy(c->x, s->x, c->nD * sizeof(real));
        t[S++] = s->last->t;
    }
    if (s->target) {
        const real a = (real)sqrt(s->at->alpha_bar), b = (real)sqrt(1 - s->at->alpha_bar);
        for (size_t i = 0; i < c->nD; i++)
            c->x[S * c->nD + i] = a * s->target[i] + b * s->noise[i];
        t[S++] = s->at->t;
    }
    for (size_t k = 0; k < S; k++) {
        memcpy(c->context + k * nX, s->context, s->n_context * d->context_dim * sizeof(real));
        memset(c->context + k * nX + s->n_context * d->context_dim, 0,
               (nX - s->n_context * d->context_dim) * sizeof(real));
    }
    const struct G(dit_input) in = {
        .S = S, .x = c->x, .t = t, .label = none, .context = c->context, .n_context = c->n_context};
    if (S)
        G(dit_forward)(c->dit, net->params, &in, c->out);
    return S;
}

/* The model over the continuation, and back to dout and the logits of alpha. */
static double language(chain *c, const net_type *net, const real *weights, const sample *s,
                       real *dparams)
{
    const real a = (real)sqrt(s->last->alpha_bar), b = (real)sqrt(1 - s->last->alpha_bar);
    for (size_t i = 0; i < c->nD; i++)
        c->z[i] = a * c->x[i] - b * c->out[i];
    G(hybrid_mix_forward)(c->theta, c->z, net, 1);
    for (size_t i = 0; i < s->T; i++)
        c->weight[i] = 1;
    G(rwkv_work_set_theta)(c->rwkv, c->rank, c->theta, c->dtheta);
    if (s->state) /* forward leaves the last one in its place */
        memcpy(c->state, s->state, rwkv_layout_state(c->l) * sizeof(real));
    double loss = G(rwkv_forward)(c->rwkv, weights, s->tokens, s->tokens + 1, c->weight, s->T,
                                  s->state ? c->state : NULL, NULL, NULL);
    if (!dparams)
        return loss;
    for (size_t i = 0; i < s->T; i++) /* backward reads the weights again */
        c->weight[i] = (real)s->weight[0];
    memset(c->dtheta, 0, c->n_theta * sizeof(real));
    memset(c->dz, 0, c->nD * sizeof(real));
    G(rwkv_backward)(c->rwkv, weights, c->unread, false, NULL, NULL);
    G(hybrid_mix_backward)(c->dz, dparams + net->dit->count, c->dtheta, c->z, net);
    for (size_t i = 0; i < c->nD; i++) /* z = a x - b out */
        c->dout[i] = -b * c->dz[i];
    return loss;
}

/* out against v* = a noise - b target, at place k of the batch. */
static double diffusion(chain *c, const sample *s, size_t k)
{
    const real a = (real)sqrt(s->at->alpha_bar), b = (real)sqrt(1 - s->at->alpha_bar);
    const real *out = c->out + k * c->nD;
    const real by = (real)(2 * s->weight[1]);
    double sum = 0;
    for (size_t i = 0; i < c->nD; i++) {
        const real d = out[i] - (a * s->noise[i] - b * s->target[i]);
        sum += (double)d * (double)d;
        c->dout[k * c->nD + i] = by * d;
    }
    return sum;
}

void G(hybrid_chain_run)(chain *c, const net_type *net, const real *weights, const sample *s,
                         real *dparams, double loss[2])
{
    ASSERT(s->T <= c->max_T && s->n_context <= net->dit->shape.max_context);
    loss[0] = loss[1] = 0;
    if (!predict(c, net, s))
        return;
    if (s->T)
        loss[0] = language(c, net, weights, s, dparams);
    if (s->target)
        loss[1] = diffusion(c, s, s->T > 0);
    if (dparams)
        G(dit_backward)(c->dit, net->params, dparams, c->dout, NULL, NULL);
}
