/* See grad.h. Equations by step number are those of one block as RWKV-LM's train_temp computes it;
 * each backward function quotes what it inverts. Included with NN_REAL and G(name). */
#include "daemon/base/assert.h"
#include "daemon/base/mem.h"

typedef NN_REAL real;
typedef struct G(nn) nn_ops;
typedef struct G(rwkv_work) work;

#define LN_EPS  ((real)1e-5)
#define LNX_EPS ((real)64e-5) /* whatever the head size */

/* What each layer keeps for its backward, with its size. */
/* clang-format off */
#define LAYER_ARRAYS(XX)                                                                           \
    XX(x, T * C) XX(z, T * C) XX(mean1, T) XX(rstd1, T)                                              \
    XX(r, T * C) XX(k, T * C) XX(v, T * C)                                                            \
    XX(hw, T * s->rank_w) XX(sw, T * C) XX(w, T * C)                                                  \
    XX(ha, T * s->rank_a) XX(a, T * C)                                                               \
    XX(hv, T * s->rank_v) XX(sv, T * C) XX(vv, T * C)                                                 \
    XX(hg, T * s->rank_g) XX(g, T * C)                                                               \
    XX(kk, T * C) XX(kk_rnorm, T * H) XX(kf, T * C)                                                   \
    XX(sa, T * C) XX(S_cache, NN_WKV7_CACHE(T, H, N)) XX(y, T * C)                                   \
    XX(meanx, T * H) XX(rstdx, T * H) XX(o, T * C)                                                    \
    XX(x2, T * C) XX(z2, T * C) XX(mean2, T) XX(rstd2, T) XX(h, T * F)
/* clang-format on */

/* What a whole pass shares: kept around the layers, then scratch of forward, then of backward. */
/* clang-format off */
#define WORK_ARRAYS(XX)                                                                            \
    XX(e, T * C) XX(mean0, T) XX(rstd0, T) XX(xout, T * C) XX(zout, T * C) XX(mean_out, T)            \
    XX(rstd_out, T) XX(probs, T * s->n_vocab) XX(ce, T) XX(state0, n_state)                         \
    XX(xq, T * C) XX(wide, T * F) XX(wkv, NN_WKV7_SCRATCH(N)) XX(S, H * N * N)                         \
    XX(dlogits, T * s->n_vocab) XX(dx, T * C) XX(dz, T * C) XX(dxq, T * C) XX(dwide, T * F)             \
    XX(dstate, n_state) XX(dv_first, T * C) XX(dr, T * C) XX(dw, T * C) XX(dk, T * C) XX(dv, T * C)     \
    XX(dvv, T * C) XX(dkk, T * C) XX(da, T * C) XX(dg, T * C) XX(dkf, T * C) XX(dy, T * C) XX(dt, T * C)  \
    XX(dlow, T * low) XX(dlow2, T * low)
/* clang-format on */

struct layer {
#define XX(name, size) real *name;
    LAYER_ARRAYS(XX)
#undef XX
};

struct G(rwkv_work) {
    const struct rwkv_layout *l;
    const nn_ops *op;
    size_t max_T, bytes;
    size_t T; /* of the last forward */
    const uint32_t *tokens, *targets;
    const real *weight;
    const real *theta; /* instead of the parameters' vectors; NULL: those */
    real *dtheta;
    size_t rank;         /* of its low-rank additions */
    struct layer *layer; /* [L] */
    real *memory;
#define XX(name, size) real *name;
    WORK_ARRAYS(XX)
#undef XX
};

/* Hands out the next array, or only counts while memory is NULL. */
static real *carve(real *memory, size_t *used, size_t n)
{
    real *p = memory ? memory + *used : NULL;
    *used += (n + 15) & ~(size_t)15;
    return p;
}

static size_t lay_out(work *w)
{
    const struct rwkv_shape *s = &w->l->shape;
    const size_t T = w->max_T, C = s->n_embd, F = s->n_ffn, N = s->head_size, H = w->l->n_head;
    const size_t n_state = rwkv_layout_state(w->l);
    size_t low = s->rank_w > RWKV_MAX_RANK ? s->rank_w : RWKV_MAX_RANK, used = 0;
    low = s->rank_a > low ? s->rank_a : low;
    low = s->rank_v > low ? s->rank_v : low;
    low = s->rank_g > low ? s->rank_g : low;
#define XX(name, size) w->name = carve(w->memory, &used, size);
    WORK_ARRAYS(XX)
#undef XX
    for (size_t i = 0; i < s->n_layer; i++) {
        struct layer *y = &w->layer[i];
#define XX(name, size) y->name = carve(w->memory, &used, size);
        LAYER_ARRAYS(XX)
#undef XX
    }
    return used;
}

size_t G(rwkv_work_plan)(const struct rwkv_layout *l, size_t T)
{
    work w = {.l = l, .max_T = T, .layer = calloc(l->shape.n_layer, sizeof *w.layer)};
    size_t n = w.layer ? lay_out(&w) : 0;
    free(w.layer);
    return n * sizeof(real);
}

work *G(rwkv_work_new)(const struct rwkv_layout *l, const nn_ops *op, size_t T)
{
    work *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->l = l;
    w->op = op;
    w->max_T = T;
    w->layer = calloc(l->shape.n_layer, sizeof *w->layer);
    if (w->layer) {
        size_t n = lay_out(w);
        w->bytes = n * sizeof(real);
        w->memory = mem_calloc_large(n, sizeof(real));
    }
    if (!w->memory) {
        G(rwkv_work_free)(w);
        return NULL;
    }
    lay_out(w);
    return w;
}

void G(rwkv_work_free)(work *w)
{
    if (!w)
        return;
    free(w->layer);
    free(w->memory);
    free(w);
}

size_t G(rwkv_work_bytes)(const work *w)
{
    return w->bytes;
}

void G(rwkv_work_set_theta)(work *w, size_t rank, const real *theta, real *dtheta)
{
    w->rank = rank;
    w->theta = theta;
    w->dtheta = dtheta;
}

static real *zero(real *x, size_t n)
{
    memset(x, 0, n * sizeof *x);
    return x;
}

/* Everything a layer's functions need: sizes, offsets, weights, kept arrays, states. */
struct view {
    work *w;
    const nn_ops *op;
    struct layer *y;
    const size_t *at;              /* offsets of the layer's parameters */
    const real *p;                 /* parameters */
    real *dp;                      /* their gradients (backward) */
    const real *theta[RWKV_THETA]; /* [C] each */
    real *dtheta[RWKV_THETA];
    const real *low[RWKV_LOW]; /* A [rank, C], behind it B's columns [rank, C]; NULL: none */
    real *dlow[RWKV_LOW];
    bool matrices;
    size_t i, T, C, F, N, H, TC;
    const struct rwkv_shape *s;
    real *att0, *wkv0, *ffn0; /* the layer's part of the initial state (forward) */
    real *datt0, *dwkv0, *dffn0;
};
#define P(id)   (v->p + v->at[RWKV_P_##id])
#define DP(id)  (v->dp + v->at[RWKV_P_##id])
#define DM(id)  (v->matrices ? DP(id) : NULL)
#define TH(id)  (v->theta[RWKV_##id])
#define DTH(id) (v->dtheta[RWKV_##id])

static void find_theta(struct view *v)
{
    static const int id[RWKV_THETA] = {RWKV_P_W0,  RWKV_P_A0,  RWKV_P_V0,
                                       RWKV_P_K_K, RWKV_P_K_A, RWKV_P_R_K};
    const work *w = v->w;
    const size_t first = v->i * rwkv_theta_groups(w->rank) * v->C;
    for (size_t q = 0; q < RWKV_THETA; q++) {
        const size_t at = first + q * v->C, own = v->at[id[q]];
        if (own == SIZE_MAX) /* layer 0's v0 */
            continue;
        v->theta[q] = w->theta ? w->theta + at : v->p + own;
        if (v->dp)
            v->dtheta[q] = w->theta ? w->dtheta + at : v->dp + own;
    }
    for (size_t q = 0; w->rank && q < RWKV_LOW; q++) {
        const size_t at = first + rwkv_theta_low(w->rank, (enum rwkv_low)q) * v->C;
        v->low[q] = w->theta + at;
        v->dlow[q] = v->dp ? w->dtheta + at : NULL;
    }
}

static struct view view_of(work *w, size_t i, const real *p, real *dp)
{
    const struct rwkv_shape *s = &w->l->shape;
    size_t C = s->n_embd, CN = C * s->head_size, at = i * (2 * C + CN);
    /* clang-format off */
    struct view v = {.w = w, .op = w->op, .y = &w->layer[i], .at = w->l->layer[i], .p = p,
                         .dp = dp, .i = i, .T = w->T, .C = C, .F = s->n_ffn, .N = s->head_size,
                         .H = w->l->n_head, .TC = w->T * C, .s = s, .att0 = w->state0 + at,
                         .wkv0 = w->state0 + at + C, .ffn0 = w->state0 + at + C + CN,
                         .datt0 = w->dstate + at, .dwkv0 = w->dstate + at + C,
                         .dffn0 = w->dstate + at + C + CN};
    /* clang-format on */
    find_theta(&v);
    return v;
}

/* The token-shift mix of one of r w k v a g, into the shared buffer. */
static const real *mix(const struct view *v, const real *mu)
{
    v->op->shift_forward(v->w->xq, v->y->z, v->att0, mu, v->T, v->C);
    return v->w->xq;
}

/* out += B (A x), the low-rank addition to q. */
static void low_forward(const struct view *v, real *out, const real *x, enum rwkv_low q)
{
    const size_t T = v->T, C = v->C, rank = v->w->rank;
    const real *A = v->low[q];
    real *h = v->w->dlow, *add = v->w->dt; /* the backward's, free here */
    if (!A)
        return;
    v->op->linear_forward(h, x, A, T, C, rank, 0);
    v->op->project_forward(add, h, A + rank * C, T, rank, C);
    for (size_t n = 0; n < v->TC; n++)
        out[n] += add[n];
}

/* Adds to w->dxq and the gradients of A and B; h = A x is computed again. */
static void low_backward(const struct view *v, const real *dout, const real *x, enum rwkv_low q)
{
    const size_t T = v->T, C = v->C, rank = v->w->rank;
    const real *A = v->low[q];
    real *dA = v->dlow[q], *h = v->w->dlow, *dh = v->w->dlow2;
    if (!A)
        return;
    v->op->linear_forward(h, x, A, T, C, rank, 0);
    v->op->project_backward(dh, dA + rank * C, dout, h, A + rank * C, T, rank, C, 0);
    v->op->linear_backward(v->w->dxq, dA, dh, x, A, T, C, rank, 1);
}

/* Decay, in-context rate, gate and value-residual pairs. */
static void pairs_forward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct rwkv_shape *s = v->s;
    struct layer *y = v->y;
    size_t T = v->T, C = v->C;
    /* sw = sigmoid(w0 + tanh(x_w w1) w2), w = exp(-e^(-1/2) sw) */
    op->project_forward(y->hw, mix(v, P(X_W)), P(W1), T, C, s->rank_w);
    op->tanh_forward(y->hw, y->hw, T * s->rank_w);
    op->project_forward(y->sw, y->hw, P(W2), T, s->rank_w, C);
    op->sigmoid_forward(y->sw, y->sw, TH(W0), T, C);
    op->decay_forward(y->w, y->sw, v->TC);
    /* a = sigmoid(a0 + (x_a a1) a2) */
    op->project_forward(y->ha, mix(v, P(X_A)), P(A1), T, C, s->rank_a);
    op->project_forward(y->a, y->ha, P(A2), T, s->rank_a, C);
    op->sigmoid_forward(y->a, y->a, TH(A0), T, C);
    /* g = sigmoid(x_g g1) g2 */
    op->project_forward(y->hg, mix(v, P(X_G)), P(G1), T, C, s->rank_g);
    op->sigmoid_forward(y->hg, y->hg, NULL, T, s->rank_g);
    op->project_forward(y->g, y->hg, P(G2), T, s->rank_g, C);
    /* v = Wv x_v, then towards layer 0's v by sigmoid(v0 + (x_v v1) v2) */
    const real *xv = mix(v, P(X_V));
    op->linear_forward(y->v, xv, P(VAL), T, C, C, 0);
    low_forward(v, y->v, xv, RWKV_LOW_V);
    if (v->i == 0)
        return;
    op->project_forward(y->hv, xv, P(V1), T, C, s->rank_v);
    op->project_forward(y->sv, y->hv, P(V2), T, s->rank_v, C);
    op->sigmoid_forward(y->sv, y->sv, TH(V0), T, C);
    op->vres_forward(y->vv, y->v, v->w->layer[0].v, y->sv, v->TC);
}

static void att_forward(const struct view *v)
{
    const nn_ops *op = v->op;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, H = v->H, N = v->N;
    op->norm_forward(y->z, y->mean1, y->rstd1, y->x, P(LN1_W), P(LN1_B), T, 1, C, LN_EPS);
    op->linear_forward(y->r, mix(v, P(X_R)), P(REC), T, C, C, 0);
    low_forward(v, y->r, w->xq, RWKV_LOW_R);
    op->linear_forward(y->k, mix(v, P(X_K)), P(KEY), T, C, C, 0);
    low_forward(v, y->k, w->xq, RWKV_LOW_K);
    pairs_forward(v);
    const real *vv = v->i ? y->vv : y->v;
    op->kk_forward(y->kk, y->kk_rnorm, y->k, TH(K_K), T, H, N);
    op->kmod_forward(y->kf, y->k, y->a, TH(K_A), T, C);
    memcpy(w->S, v->wkv0, C * N * sizeof(real));
    op->wkv7_forward(y->y, y->sa, y->S_cache, w->S, y->r, y->w, y->kf, vv, y->kk, y->a, T, H, N,
                     w->wkv);
    op->norm_forward(y->o, y->meanx, y->rstdx, y->y, P(LNX_W), P(LNX_B), T, H, N, LNX_EPS);
    op->bonus_forward(y->o, y->r, y->kf, vv, TH(R_K), T, H, N);
    op->mul_forward(w->xq, y->o, y->g, v->TC);
    memcpy(y->x2, y->x, v->TC * sizeof(real));
    op->linear_forward(y->x2, w->xq, P(OUT), T, C, C, 1);
}

/* out = x2 + relu(Wkey mix(LN2(x2)))^2 Wvalue^T */
static void ffn_forward(const struct view *v, real *out)
{
    const nn_ops *op = v->op;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, F = v->F;
    op->norm_forward(y->z2, y->mean2, y->rstd2, y->x2, P(LN2_W), P(LN2_B), T, 1, C, LN_EPS);
    op->shift_forward(w->xq, y->z2, v->ffn0, P(FX_K), T, C);
    op->linear_forward(y->h, w->xq, P(FKEY), T, C, F, 0);
    op->relu2_forward(w->wide, y->h, T * F);
    memcpy(out, y->x2, v->TC * sizeof(real));
    op->linear_forward(out, w->wide, P(FVAL), T, F, C, 1);
}

/* The final state of a layer: the last rows of z and z2, and S. */
static void keep_state(const struct view *v, real *state)
{
    size_t C = v->C, CN = C * v->N, last = (v->T - 1) * C;
    real *to = state + v->i * (2 * C + CN);
    memcpy(to, v->y->z + last, C * sizeof *to);
    memcpy(to + C, v->w->S, CN * sizeof *to);
    memcpy(to + C + CN, v->y->z2 + last, C * sizeof *to);
}

double G(rwkv_forward)(work *w, const real *params, const uint32_t *tokens, const uint32_t *targets,
                       const real *weight, size_t T, real *state, real *ce, real *logits)
{
    const struct rwkv_layout *l = w->l;
    const nn_ops *op = w->op;
    const size_t L = l->shape.n_layer, C = l->shape.n_embd, V = l->shape.n_vocab;
    ASSERT(T > 0 && T <= w->max_T);
    w->T = T;
    w->tokens = tokens;
    w->targets = targets;
    w->weight = weight;
    if (state)
        memcpy(w->state0, state, rwkv_layout_state(l) * sizeof *state);
    else
        zero(w->state0, rwkv_layout_state(l));
    op->embed_forward(w->e, params + l->emb, tokens, T, C);
    op->norm_forward(w->layer[0].x, w->mean0, w->rstd0, w->e, params + l->layer[0][RWKV_P_LN0_W],
                     params + l->layer[0][RWKV_P_LN0_B], T, 1, C, LN_EPS);
    for (size_t i = 0; i < L; i++) {
        struct view v = view_of(w, i, params, NULL);
        att_forward(&v);
        ffn_forward(&v, i + 1 < L ? w->layer[i + 1].x : w->xout);
        if (state)
            keep_state(&v, state);
    }
    op->norm_forward(w->zout, w->mean_out, w->rstd_out, w->xout, params + l->ln_out_w,
                     params + l->ln_out_b, T, 1, C, LN_EPS);
    op->linear_forward(w->probs, w->zout, params + l->head, T, C, V, 0);
    if (logits)
        memcpy(logits, w->probs, T * V * sizeof *logits);
    op->xent_forward(w->ce, w->probs, w->probs, targets, T, V);
    if (ce)
        memcpy(ce, w->ce, T * sizeof *ce);
    double loss = 0;
    for (size_t t = 0; t < T; t++)
        loss += (double)weight[t] * (double)w->ce[t];
    return loss;
}

/* w->dx: gradient of the block's output, to that of x2 (the residual passes it through). */
static void ffn_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, F = v->F;
    op->relu2_forward(w->wide, y->h, T * F);
    op->linear_backward(w->dwide, DM(FVAL), w->dx, w->wide, P(FVAL), T, F, C, 0);
    op->relu2_backward(w->wide, w->dwide, y->h, T * F);
    op->shift_forward(w->xq, y->z2, v->ffn0, P(FX_K), T, C);
    op->linear_backward(w->dxq, DM(FKEY), w->wide, w->xq, P(FKEY), T, C, F, 0);
    zero(w->dz, v->TC - C); /* the last row: the gradient of the final shift vector */
    memcpy(w->dz + v->TC - C, v->dffn0, C * sizeof(real));
    op->shift_backward(w->dz, zero(v->dffn0, C), DP(FX_K), w->dxq, y->z2, v->ffn0, P(FX_K), T, C);
    op->norm_backward(w->dx, DP(LN2_W), DP(LN2_B), w->dz, y->x2, y->mean2, y->rstd2, P(LN2_W), T, 1,
                      C);
}

/* From w->dx to the inputs of the recurrence: dr dw dkf dvv dkk da, and dg; the state's gradient
 * moves to the sequence's start. */
static void wkv_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, H = v->H, N = v->N, TC = v->TC;
    const real *vv = v->i ? y->vv : y->v;
    op->mul_forward(w->xq, y->o, y->g, TC);
    op->linear_backward(w->dxq, DM(OUT), w->dx, w->xq, P(OUT), T, C, C, 0);
    op->mul_backward(w->dt, w->dg, w->dxq, y->o, y->g, TC);
    op->norm_backward(zero(w->dy, TC), DP(LNX_W), DP(LNX_B), w->dt, y->y, y->meanx, y->rstdx,
                      P(LNX_W), T, H, N);
    op->wkv7_backward(w->dr, w->dw, w->dkf, w->dvv, w->dkk, w->da, v->dwkv0, w->dy, y->sa,
                      y->S_cache, y->r, y->w, y->kf, vv, y->kk, y->a, T, H, N, w->wkv);
    op->bonus_backward(w->dr, w->dkf, w->dvv, DTH(R_K), w->dt, y->r, y->kf, vv, TH(R_K), T, H, N);
}

/* One mix: dz, its weight and the initial shift vector from w->dxq. */
static void mix_backward(const struct view *v, int id)
{
    v->op->shift_backward(v->w->dz, v->datt0, v->dp + v->at[id], v->w->dxq, v->y->z, v->att0,
                          v->p + v->at[id], v->T, v->C);
}

static void pairs_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct rwkv_shape *s = v->s;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, TC = v->TC;
    /* w = exp(-e^(-1/2) sw), sw = sigmoid(w0 + tanh(x_w w1) w2) */
    op->decay_backward(w->dt, w->dw, y->w, TC);
    op->sigmoid_backward(w->dy, DTH(W0), w->dt, y->sw, T, C);
    op->project_backward(w->dlow, DM(W2), w->dy, y->hw, P(W2), T, s->rank_w, C, 0);
    op->tanh_backward(w->dlow2, w->dlow, y->hw, T * s->rank_w);
    op->project_backward(w->dxq, DM(W1), w->dlow2, mix(v, P(X_W)), P(W1), T, C, s->rank_w, 0);
    mix_backward(v, RWKV_P_X_W);
    /* a = sigmoid(a0 + (x_a a1) a2) */
    op->sigmoid_backward(w->dy, DTH(A0), w->da, y->a, T, C);
    op->project_backward(w->dlow, DM(A2), w->dy, y->ha, P(A2), T, s->rank_a, C, 0);
    op->project_backward(w->dxq, DM(A1), w->dlow, mix(v, P(X_A)), P(A1), T, C, s->rank_a, 0);
    mix_backward(v, RWKV_P_X_A);
    /* g = sigmoid(x_g g1) g2 */
    op->project_backward(w->dlow, DM(G2), w->dg, y->hg, P(G2), T, s->rank_g, C, 0);
    op->sigmoid_backward(w->dlow2, NULL, w->dlow, y->hg, T, s->rank_g);
    op->project_backward(w->dxq, DM(G1), w->dlow2, mix(v, P(X_G)), P(G1), T, C, s->rank_g, 0);
    mix_backward(v, RWKV_P_X_G);
}

/* v = Wv x_v; vv = v + (v_first - v) sigmoid(v0 + (x_v v1) v2). Layer 0's v gathers every layer's
 * gradient in dv_first. */
static void value_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct rwkv_shape *s = v->s;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, TC = v->TC;
    const real *xv = mix(v, P(X_V)), *dv = v->i ? w->dv : w->dv_first;
    if (v->i) {
        op->vres_backward(w->dv, w->dv_first, w->dt, w->dvv, y->v, w->layer[0].v, y->sv, TC);
        op->sigmoid_backward(w->dy, DTH(V0), w->dt, y->sv, T, C);
    } else {
        for (size_t n = 0; n < TC; n++)
            w->dv_first[n] += w->dvv[n];
    }
    op->linear_backward(w->dxq, DM(VAL), dv, xv, P(VAL), T, C, C, 0);
    low_backward(v, dv, xv, RWKV_LOW_V);
    if (v->i) {
        op->project_backward(w->dlow, DM(V2), w->dy, y->hv, P(V2), T, s->rank_v, C, 0);
        op->project_backward(w->dxq, DM(V1), w->dlow, xv, P(V1), T, C, s->rank_v, 1);
    }
    mix_backward(v, RWKV_P_X_V);
}

static void att_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    struct layer *y = v->y;
    work *w = v->w;
    size_t T = v->T, C = v->C, TC = v->TC;
    wkv_backward(v);
    zero(w->dz, TC - C);
    memcpy(w->dz + TC - C, v->datt0, C * sizeof(real));
    zero(v->datt0, C);
    /* kf = k (1 + (a - 1) k_a), kk = normalised k k_k */
    op->kmod_backward(w->dk, w->da, DTH(K_A), w->dkf, y->k, y->a, TH(K_A), T, C);
    op->kk_backward(w->dk, DTH(K_K), w->dkk, y->kk, y->kk_rnorm, y->k, TH(K_K), T, v->H, v->N);
    pairs_backward(v);
    value_backward(v);
    op->linear_backward(w->dxq, DM(REC), w->dr, mix(v, P(X_R)), P(REC), T, C, C, 0);
    low_backward(v, w->dr, w->xq, RWKV_LOW_R);
    mix_backward(v, RWKV_P_X_R);
    op->linear_backward(w->dxq, DM(KEY), w->dk, mix(v, P(X_K)), P(KEY), T, C, C, 0);
    low_backward(v, w->dk, w->xq, RWKV_LOW_K);
    mix_backward(v, RWKV_P_X_K);
    op->norm_backward(w->dx, DP(LN1_W), DP(LN1_B), w->dz, y->x, y->mean1, y->rstd1, P(LN1_W), T, 1,
                      C);
}

void G(rwkv_backward)(work *w, const real *params, real *dparams, bool matrices, real *dstate,
                      real *dlogits)
{
    const struct rwkv_layout *l = w->l;
    const nn_ops *op = w->op;
    const size_t T = w->T, L = l->shape.n_layer, C = l->shape.n_embd, V = l->shape.n_vocab;
    if (dstate)
        memcpy(w->dstate, dstate, rwkv_layout_state(l) * sizeof *dstate);
    else
        zero(w->dstate, rwkv_layout_state(l));
    op->xent_backward(w->dlogits, w->probs, w->targets, w->weight, T, V);
    if (dlogits)
        memcpy(dlogits, w->dlogits, T * V * sizeof *dlogits);
    op->linear_backward(w->dz, matrices ? dparams + l->head : NULL, w->dlogits, w->zout,
                        params + l->head, T, C, V, 0);
    op->norm_backward(zero(w->dx, T * C), dparams + l->ln_out_w, dparams + l->ln_out_b, w->dz,
                      w->xout, w->mean_out, w->rstd_out, params + l->ln_out_w, T, 1, C);
    zero(w->dv_first, T * C);
    for (size_t i = L; i-- > 0;) {
        struct view v = view_of(w, i, params, dparams);
        v.matrices = matrices;
        ffn_backward(&v);
        att_backward(&v);
    }
    op->norm_backward(zero(w->dxq, T * C), dparams + l->layer[0][RWKV_P_LN0_W],
                      dparams + l->layer[0][RWKV_P_LN0_B], w->dx, w->e, w->mean0, w->rstd0,
                      params + l->layer[0][RWKV_P_LN0_W], T, 1, C);
    if (matrices)
        op->embed_backward(dparams + l->emb, w->dxq, w->tokens, T, C);
    if (dstate)
        memcpy(dstate, w->dstate, rwkv_layout_state(l) * sizeof *dstate);
}
