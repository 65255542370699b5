/* See denoiser.h. Each backward function quotes what it inverts. Included with NN_REAL and
 * G(name). */
#include "daemon/base/assert.h"
#include "daemon/base/mem.h"

typedef NN_REAL real;
typedef struct G(nn) nn_ops;
typedef struct G(dit_work) work;
typedef struct G(dit_input) input;

#define LN_EPS ((real)1e-6)

/* What each block keeps for its backward, with its size; R = S n rows, K = S M of the context, X: 1
 * with a context, else 0. */
/* clang-format off */
#define BLOCK_ARRAYS(XX)                                                                           \
    XX(x, R * C) XX(mod, S * 6 * C) XX(mean1, R) XX(rstd1, R) XX(h1, R * C) XX(qkv, R * 3 * C)     \
    XX(probs, S * s->n_head * s->n_token * s->n_token) XX(att, R * C) XX(y1, R * C)                \
    XX(x2, R * C) XX(mean2, R) XX(rstd2, R) XX(h2, R * C) XX(u, R * F) XX(y2, R * C)               \
    XX(xc, X * R * C) XX(meanc, X * R) XX(rstdc, X * R) XX(hc, X * R * C) XX(q, X * R * C)         \
    XX(kv, K * 2 * C) XX(probsc, R * s->n_head * s->max_context) XX(attc, X * R * C)
/* What a whole pass shares: kept around the blocks, then scratch of forward, then of backward. */
#define WORK_ARRAYS(XX)                                                                            \
    XX(freq, S * DIT_FREQ) XX(t0, S * C) XX(t0s, S * C) XX(y0, S * C) XX(y0s, S * C) XX(y, S * C)  \
    XX(c, S * C) XX(cs, S * C) XX(xout, R * C) XX(fmod, S * 2 * C) XX(fmean, R) XX(frstd, R)       \
    XX(fh, R * C) XX(cond, S * s->cond_dim) XX(wide, R * F)                                        \
    XX(dwide, R * F) XX(dx, R * C) XX(dh, R * C) XX(dy, R * C) XX(dqkv, R * 3 * C)                 \
    XX(dmod, S * 6 * C) XX(dcs, S * C) XX(dc, S * C) XX(dt, S * C)                                 \
    XX(dkv, K * 2 * C) XX(square, s->n_token * widest)
/* clang-format on */

struct block {
#define XX(name, size) real *name;
    BLOCK_ARRAYS(XX)
#undef XX
};

struct G(dit_work) {
    const struct dit_layout *l;
    const nn_ops *op;
    size_t max_S, bytes;
    bool forward;        /* alone: the blocks share the arrays of the first */
    input in;            /* of the last forward */
    struct block *block; /* [L] */
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
    const struct dit_shape *s = &w->l->shape;
    const size_t S = w->max_S, R = S * s->n_token, C = s->n_embd, F = s->n_mlp;
    const size_t X = s->context_dim > 0, K = S * s->max_context;
    const size_t widest = s->n_token > s->max_context ? s->n_token : s->max_context;
    size_t used = 0;
#define XX(name, size) w->name = carve(w->memory, &used, size);
    WORK_ARRAYS(XX)
#undef XX
    for (size_t i = 0; i < s->n_block; i++) {
        struct block *b = &w->block[i];
        if (i && w->forward) {
            *b = w->block[0];
            continue;
        }
#define XX(name, size) b->name = carve(w->memory, &used, size);
        BLOCK_ARRAYS(XX)
#undef XX
    }
    return used;
}

size_t G(dit_work_plan)(const struct dit_layout *l, size_t S)
{
    work w = {.l = l, .max_S = S, .block = calloc(l->shape.n_block, sizeof *w.block)};
    size_t n = w.block ? lay_out(&w) : 0;
    free(w.block);
    return n * sizeof(real);
}

static work *make(const struct dit_layout *l, const nn_ops *op, size_t S, bool forward)
{
    work *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->l = l;
    w->op = op;
    w->max_S = S;
    w->forward = forward;
    w->block = calloc(l->shape.n_block, sizeof *w->block);
    if (w->block) {
        size_t n = lay_out(w);
        w->bytes = n * sizeof(real);
        w->memory = mem_calloc_large(n, sizeof(real));
    }
    if (!w->memory) {
        G(dit_work_free)(w);
        return NULL;
    }
    lay_out(w);
    return w;
}

work *G(dit_work_new)(const struct dit_layout *l, const nn_ops *op, size_t S)
{
    return make(l, op, S, false);
}

work *G(dit_work_new_forward)(const struct dit_layout *l, const nn_ops *op, size_t S)
{
    return make(l, op, S, true);
}

void G(dit_work_free)(work *w)
{
    if (!w)
        return;
    free(w->block);
    free(w->memory);
    free(w);
}

size_t G(dit_work_bytes)(const work *w)
{
    return w->bytes;
}

static real *zero(real *x, size_t n)
{
    memset(x, 0, n * sizeof *x);
    return x;
}

/* Everything the parts need: sizes, offsets, weights, kept arrays. */
struct view {
    work *w;
    const nn_ops *op;
    struct block *b;
    const size_t *at; /* offsets of the block's parameters */
    const real *p;
    real *dp; /* backward */
    size_t S, n, R, C, F, D, P;
};
#define GP(id)  (v->p + v->w->l->global[DIT_P_##id])
#define DGP(id) (v->dp + v->w->l->global[DIT_P_##id])
#define BP(id)  (v->p + v->at[DIT_B_##id])
#define DBP(id) (v->dp + v->at[DIT_B_##id])

static struct view view_of(work *w, const real *p, real *dp)
{
    const struct dit_shape *s = &w->l->shape;
    size_t S = w->in.S;
    return (struct view){.w = w,
                         .op = w->op,
                         .p = p,
                         .dp = dp,
                         .S = S,
                         .n = s->n_token,
                         .R = S * s->n_token,
                         .C = s->n_embd,
                         .F = s->n_mlp,
                         .D = s->token_dim,
                         .P = s->per_token ? s->n_token : 1};
}

static void at_block(struct view *v, size_t i)
{
    v->b = &v->w->block[i];
    v->at = v->w->l->block[i];
}

/* out [T, O] = x W^T + b. */
static void affine(const struct view *v, real *out, const real *x, const real *W, const real *b,
                   const size_t TIO[3])
{
    v->op->linear_forward(out, x, W, TIO[0], TIO[1], TIO[2], 0);
    v->op->bias_forward(out, b, TIO[0], TIO[2]);
}

/* dx is written, not added to; NULL: not wanted. */
static void affine_backward(const struct view *v, real *dx, real *dW, real *db, const real *dout,
                            const real *x, const real *W, const size_t TIO[3])
{
    v->op->linear_backward(dx, dW, dout, x, W, TIO[0], TIO[1], TIO[2], 0);
    v->op->bias_backward(db, dout, TIO[0], TIO[2]);
}
#define TIO(T, I, O) ((const size_t[3]){T, I, O})

/* Whether a sample's condition is a vector. */
static bool is_text(const work *w, size_t s)
{
    return w->l->shape.cond_dim && w->in.label[s] == DIT_LABEL_TEXT;
}

/* y: an embedding as given; or W2 silu(W0 cond) for a vector; or a row of the table. */
static const real *condition(const struct view *v)
{
    work *w = v->w;
    const size_t S = v->S, C = v->C, Y = w->l->shape.cond_dim;
    if (w->in.y)
        return w->in.y;
    if (Y) {
        for (size_t s = 0; s < S; s++)
            if (is_text(w, s))
                memcpy(w->cond + s * Y, w->in.cond + s * Y, Y * sizeof(real));
            else
                zero(w->cond + s * Y, Y);
        affine(v, w->y0, w->cond, GP(Y0_W), GP(Y0_B), TIO(S, Y, C));
        v->op->silu_forward(w->y0s, w->y0, S * C);
        affine(v, w->y, w->y0s, GP(Y2_W), GP(Y2_B), TIO(S, C, C));
    }
    for (size_t s = 0; s < S; s++)
        if (!is_text(w, s))
            memcpy(w->y + s * C, GP(LABEL) + w->in.label[s] * C, C * sizeof(real));
    return w->y;
}

/* c = W2 silu(W0 sinusoid(t)) + y, and cs = silu(c), which every modulation reads. */
static void embed(const struct view *v)
{
    work *w = v->w;
    const size_t S = v->S, C = v->C;
    for (size_t s = 0; s < S; s++) {
        double f[DIT_FREQ];
        dit_timestep(f, w->in.t[s], DIT_FREQ);
        for (size_t i = 0; i < DIT_FREQ; i++)
            w->freq[s * DIT_FREQ + i] = (real)f[i];
    }
    affine(v, w->t0, w->freq, GP(T0_W), GP(T0_B), TIO(S, DIT_FREQ, C));
    v->op->silu_forward(w->t0s, w->t0, S * C);
    affine(v, w->c, w->t0s, GP(T2_W), GP(T2_B), TIO(S, C, C));
    const real *y = condition(v);
    for (size_t i = 0; i < S * C; i++)
        w->c[i] += y[i];
    v->op->silu_forward(w->cs, w->c, S * C);
}

/* The modulation's parts: shift, scale, gate of the attention, then of the MLP. */
#define SHIFT(k) (b->mod + (3 * (k)) * v->C)
#define SCALE(k) (b->mod + (3 * (k) + 1) * v->C)
#define GATE(k)  (b->mod + (3 * (k) + 2) * v->C)
#define D_MOD(j) (w->dmod + (j)*v->C)

/* x2 = xc + Wp cross_attention(Wq h, Wkv context),  h = norm(xc); xc is x2 as it was. */
static void cross_forward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct block *b = v->b;
    const struct dit_shape *s = &v->w->l->shape;
    const size_t R = v->R, C = v->C, H = s->n_head, M = s->max_context, X = s->context_dim;
    memcpy(b->xc, b->x2, R * C * sizeof(real));
    op->norm_forward(b->hc, b->meanc, b->rstdc, b->xc, BP(CN_W), BP(CN_B), R, 1, C, LN_EPS);
    affine(v, b->q, b->hc, BP(CQ_W), BP(CQ_B), TIO(R, C, C));
    affine(v, b->kv, v->w->in.context, BP(CKV_W), BP(CKV_B), TIO(v->S * M, X, 2 * C));
    op->cross_forward(b->attc, b->probsc, b->q, b->kv, v->w->in.n_context, v->S, v->n, M, H, C / H);
    op->linear_forward(b->x2, b->attc, BP(CPROJ_W), R, C, C, 1);
    op->bias_forward(b->x2, BP(CPROJ_B), R, C);
}

static void cross_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct block *b = v->b;
    const struct dit_shape *s = &v->w->l->shape;
    work *w = v->w;
    const size_t R = v->R, C = v->C, H = s->n_head, M = s->max_context, X = s->context_dim;
    affine_backward(v, w->dh, DBP(CPROJ_W), DBP(CPROJ_B), w->dx, b->attc, BP(CPROJ_W),
                    TIO(R, C, C));
    op->cross_backward(zero(w->dy, R * C), zero(w->dkv, v->S * M * 2 * C), w->dh, b->probsc, b->q,
                       b->kv, w->in.n_context, v->S, v->n, M, H, C / H, w->square);
    affine_backward(v, NULL, DBP(CKV_W), DBP(CKV_B), w->dkv, w->in.context, BP(CKV_W),
                    TIO(v->S * M, X, 2 * C));
    affine_backward(v, w->dh, DBP(CQ_W), DBP(CQ_B), w->dy, b->hc, BP(CQ_W), TIO(R, C, C));
    op->norm_backward(w->dx, DBP(CN_W), DBP(CN_B), w->dh, b->xc, b->meanc, b->rstdc, BP(CN_W), R, 1,
                      C);
}

/* out may be the block's x. */
static void block_forward(const struct view *v, real *out)
{
    const nn_ops *op = v->op;
    const struct block *b = v->b;
    work *w = v->w;
    const size_t S = v->S, n = v->n, R = v->R, C = v->C, F = v->F, H = w->l->shape.n_head;
    affine(v, b->mod, w->cs, BP(MOD_W), BP(MOD_B), TIO(S, C, 6 * C));
    op->adaln_forward(b->h1, b->mean1, b->rstd1, b->x, SHIFT(0), SCALE(0), S, n, C, 6 * C, LN_EPS);
    affine(v, b->qkv, b->h1, BP(QKV_W), BP(QKV_B), TIO(R, C, 3 * C));
    op->attention_forward(b->att, b->probs, b->qkv, S, n, H, C / H);
    affine(v, b->y1, b->att, BP(PROJ_W), BP(PROJ_B), TIO(R, C, C));
    memcpy(b->x2, b->x, R * C * sizeof(real));
    op->gate_forward(b->x2, b->y1, GATE(0), S, n, C, 6 * C);
    if (w->l->shape.context_dim)
        cross_forward(v);
    op->adaln_forward(b->h2, b->mean2, b->rstd2, b->x2, SHIFT(1), SCALE(1), S, n, C, 6 * C, LN_EPS);
    affine(v, b->u, b->h2, BP(FC1_W), BP(FC1_B), TIO(R, C, F));
    op->gelu_forward(w->wide, b->u, R * F);
    affine(v, b->y2, w->wide, BP(FC2_W), BP(FC2_B), TIO(R, F, C));
    memcpy(out, b->x2, R * C * sizeof(real));
    op->gate_forward(out, b->y2, GATE(1), S, n, C, 6 * C);
}

void G(dit_forward)(work *w, const real *params, const input *in, real *out)
{
    const nn_ops *op = w->op;
    const size_t L = w->l->shape.n_block;
    ASSERT(in->S > 0 && in->S <= w->max_S);
    w->in = *in;
    struct view view = view_of(w, params, NULL), *v = &view;
    const size_t S = v->S, n = v->n, C = v->C, G_ = v->R / v->P;
    embed(v);
    op->token_project_forward(w->block[0].x, in->x, GP(X_W), G_, v->P, v->D, C);
    op->bias_forward(w->block[0].x, GP(X_B), S, n * C);
    for (size_t i = 0; i < L; i++) {
        at_block(v, i);
        block_forward(v, i + 1 < L ? w->block[i + 1].x : w->xout);
    }
    affine(v, w->fmod, w->cs, GP(FMOD_W), GP(FMOD_B), TIO(S, C, 2 * C));
    op->adaln_forward(w->fh, w->fmean, w->frstd, w->xout, w->fmod, w->fmod + C, S, n, C, 2 * C,
                      LN_EPS);
    op->token_project_forward(out, w->fh, GP(OUT_W), G_, v->P, C, v->D);
    op->bias_forward(out, GP(OUT_B), S, n * v->D);
}

/* w->dx: gradient of the block's output, to that of its input (the residual passes it through). */
static void block_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    const struct block *b = v->b;
    work *w = v->w;
    const size_t S = v->S, n = v->n, R = v->R, C = v->C, F = v->F, H = w->l->shape.n_head;
    zero(w->dmod, S * 6 * C);
    /* out = x2 + gate y2,  y2 = W2 gelu(u),  u = W1 h2,  h2 = adaln(x2) */
    op->gate_backward(zero(w->dy, R * C), D_MOD(5), w->dx, b->y2, GATE(1), S, n, C, 6 * C);
    op->linear_backward(w->dwide, NULL, w->dy, NULL, BP(FC2_W), R, F, C, 0);
    op->gelu_backward(w->dwide, w->wide, b->u, R * F);
    affine_backward(v, NULL, DBP(FC2_W), DBP(FC2_B), w->dy, w->wide, BP(FC2_W), TIO(R, F, C));
    affine_backward(v, w->dh, DBP(FC1_W), DBP(FC1_B), w->dwide, b->h2, BP(FC1_W), TIO(R, C, F));
    op->adaln_backward(w->dx, D_MOD(3), D_MOD(4), w->dh, b->x2, b->mean2, b->rstd2, SCALE(1), S, n,
                       C, 6 * C);
    if (w->l->shape.context_dim)
        cross_backward(v);
    /* x2 = x + gate y1,  y1 = Wp attention(qkv),  qkv = Wqkv h1,  h1 = adaln(x) */
    op->gate_backward(zero(w->dy, R * C), D_MOD(2), w->dx, b->y1, GATE(0), S, n, C, 6 * C);
    affine_backward(v, w->dh, DBP(PROJ_W), DBP(PROJ_B), w->dy, b->att, BP(PROJ_W), TIO(R, C, C));
    op->attention_backward(zero(w->dqkv, R * 3 * C), w->dh, b->probs, b->qkv, S, n, H, C / H,
                           w->square);
    affine_backward(v, w->dh, DBP(QKV_W), DBP(QKV_B), w->dqkv, b->h1, BP(QKV_W), TIO(R, C, 3 * C));
    op->adaln_backward(w->dx, D_MOD(0), D_MOD(1), w->dh, b->x, b->mean1, b->rstd1, SCALE(0), S, n,
                       C, 6 * C);
    op->linear_backward(w->dcs, DBP(MOD_W), w->dmod, w->cs, BP(MOD_W), S, C, 6 * C, 1);
    op->bias_backward(DBP(MOD_B), w->dmod, S, 6 * C);
}

/* From dc = gradient of c to the embeddings of timestep and condition. */
static void embed_backward(const struct view *v)
{
    const nn_ops *op = v->op;
    work *w = v->w;
    const size_t S = v->S, C = v->C, Y = w->l->shape.cond_dim;
    affine_backward(v, w->dcs, DGP(T2_W), DGP(T2_B), w->dc, w->t0s, GP(T2_W), TIO(S, C, C));
    op->silu_backward(zero(w->dt, S * C), w->dcs, w->t0, S * C);
    affine_backward(v, NULL, DGP(T0_W), DGP(T0_B), w->dt, w->freq, GP(T0_W), TIO(S, DIT_FREQ, C));
    if (w->in.y)
        return;
    for (size_t s = 0; s < S; s++) {
        if (is_text(w, s))
            continue;
        real *to = DGP(LABEL) + w->in.label[s] * C;
        for (size_t i = 0; i < C; i++)
            to[i] += w->dc[s * C + i];
        zero(w->dc + s * C, C); /* the vector's path had no part in it */
    }
    if (!Y)
        return;
    affine_backward(v, w->dcs, DGP(Y2_W), DGP(Y2_B), w->dc, w->y0s, GP(Y2_W), TIO(S, C, C));
    op->silu_backward(zero(w->dt, S * C), w->dcs, w->y0, S * C);
    affine_backward(v, NULL, DGP(Y0_W), DGP(Y0_B), w->dt, w->cond, GP(Y0_W), TIO(S, Y, C));
}

void G(dit_backward)(work *w, const real *params, real *dparams, const real *dout, real *dx,
                     real *dy)
{
    const nn_ops *op = w->op;
    ASSERT(!w->forward);
    struct view view = view_of(w, params, dparams), *v = &view;
    const size_t S = v->S, n = v->n, R = v->R, C = v->C, D = v->D, G_ = R / v->P;
    op->token_project_backward(zero(w->dh, R * C), DGP(OUT_W), dout, w->fh, GP(OUT_W), G_, v->P, C,
                               D);
    op->bias_backward(DGP(OUT_B), dout, S, n * D);
    zero(w->dmod, S * 2 * C);
    op->adaln_backward(zero(w->dx, R * C), w->dmod, w->dmod + C, w->dh, w->xout, w->fmean, w->frstd,
                       w->fmod + C, S, n, C, 2 * C);
    affine_backward(v, w->dcs, DGP(FMOD_W), DGP(FMOD_B), w->dmod, w->cs, GP(FMOD_W),
                    TIO(S, C, 2 * C));
    for (size_t i = w->l->shape.n_block; i-- > 0;) {
        at_block(v, i);
        block_backward(v);
    }
    if (dx)
        zero(dx, R * D);
    op->token_project_backward(dx, DGP(X_W), w->dx, w->in.x, GP(X_W), G_, v->P, D, C);
    op->bias_backward(DGP(X_B), w->dx, S, n * C);
    op->silu_backward(zero(w->dc, S * C), w->dcs, w->c, S * C);
    if (dy)
        memcpy(dy, w->dc, S * C * sizeof(real));
    embed_backward(v);
}
