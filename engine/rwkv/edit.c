#include "engine/rwkv/edit.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <string.h>

const char *rwkv_part_name(enum rwkv_part p)
{
    static const char *const names[] = {"att_shift", "wkv", "ffn_shift"};
    return names[p];
}

size_t rwkv_block_count(const struct rwkv_info *info)
{
    return info->n_layer * (info->n_head + 2);
}

struct rwkv_block rwkv_block(const struct rwkv_info *info, size_t i)
{
    size_t C = info->n_embd, N = info->head_size, H = info->n_head, k = i % (H + 2);
    struct rwkv_block b = {.layer = i / (H + 2), .n = C};
    b.first = b.layer * (2 * C + C * N);
    if (k == 0) {
        b.part = RWKV_ATT_SHIFT;
    } else if (k <= H) {
        b.part = RWKV_WKV;
        b.head = k - 1;
        b.first += C + b.head * N * N;
        b.n = N * N;
    } else {
        b.part = RWKV_FFN_SHIFT;
        b.first += C + C * N;
    }
    return b;
}

bool rwkv_selected(const struct rwkv_select *s, const struct rwkv_block *b)
{
    return s->parts[b->part] && (!s->layers || s->layers[b->layer]) &&
           (b->part != RWKV_WKV || !s->heads || s->heads[b->head]);
}

static double norm_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static double dot_of(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

/* x <- p x + q y */
static void combine(float *x, double p, const float *y, double q, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(p * (double)x[i] + q * (double)y[i]);
}

static void scale(float *x, double by, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(by * (double)x[i]);
}

static void lerp(float *x, const float *y, double t, size_t n)
{
    if (t == 1)
        memcpy(x, y, n * sizeof *x);
    else if (t != 0)
        combine(x, 1 - t, y, t, n);
}

/* sin((1-t) a) / sin a x + sin(t a) / sin a y, a the angle between x and y. */
static void slerp(float *x, const float *y, double t, size_t n)
{
    double norms = norm_of(x, n) * norm_of(y, n);
    double cosine = norms > 0 ? fmax(-1, fmin(1, dot_of(x, y, n) / norms)) : 1;
    double angle = acos(cosine), sine = sin(angle);
    if (t == 0 || t == 1 || sine < 1e-6)
        lerp(x, y, t, n);
    else
        combine(x, sin((1 - t) * angle) / sine, y, sin(t * angle) / sine, n);
}

static double mean_at(const float *const *states, size_t n, size_t at)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)states[i][at];
    return n ? sum / (double)n : 0;
}

static void add(const struct rwkv_edit *op, float *x, const struct rwkv_block *b)
{
    for (size_t i = b->first; op->amount != 0 && i < b->first + b->n; i++) {
        double change = mean_at(op->with, op->n_with, i) - mean_at(op->minus, op->n_minus, i);
        x[i] = (float)((double)x[i] + op->amount * change);
    }
}

static void mean(const struct rwkv_edit *op, float *x, const struct rwkv_block *b)
{
    for (size_t i = b->first; i < b->first + b->n; i++) {
        double sum = (double)x[i];
        for (size_t k = 0; k < op->n_with; k++)
            sum += (double)op->with[k][i];
        x[i] = (float)(sum / (double)(op->n_with + 1));
    }
}

static void add_noise(const struct rwkv_edit *op, float *x, size_t n, uint64_t stream)
{
    double by = op->amount * norm_of(x, n) / sqrt((double)n);
    struct rng rng;
    rng_init(&rng, op->seed, stream);
    for (size_t i = 0; by > 0 && i < n; i++)
        x[i] = (float)((double)x[i] + by * rng_normal(&rng));
}

static void apply(const struct rwkv_edit *op, float *state, const struct rwkv_block *b,
                  size_t index)
{
    float *x = state + b->first;
    double norm;
    switch (op->kind) {
    case RWKV_EDIT_LERP:
        lerp(x, op->with[0] + b->first, op->amount, b->n);
        break;
    case RWKV_EDIT_SLERP:
        slerp(x, op->with[0] + b->first, op->amount, b->n);
        break;
    case RWKV_EDIT_ADD:
        add(op, state, b);
        break;
    case RWKV_EDIT_SCALE:
        scale(x, op->amount, b->n);
        break;
    case RWKV_EDIT_MEAN:
        mean(op, state, b);
        break;
    case RWKV_EDIT_CLAMP_NORM:
        norm = norm_of(x, b->n);
        if (norm > op->amount)
            scale(x, op->amount / norm, b->n);
        break;
    case RWKV_EDIT_NOISE:
        add_noise(op, x, b->n, index);
        break;
    case RWKV_EDIT_ZERO:
        memset(x, 0, b->n * sizeof *x);
        break;
    case RWKV_EDIT_COPY:
        memcpy(x, op->with[0] + b->first, b->n * sizeof *x);
        break;
    }
}

static int check(const struct rwkv_edit *op, struct err *e)
{
    bool one =
        op->kind == RWKV_EDIT_LERP || op->kind == RWKV_EDIT_SLERP || op->kind == RWKV_EDIT_COPY;
    bool magnitude = op->kind == RWKV_EDIT_CLAMP_NORM || op->kind == RWKV_EDIT_NOISE;
    if (!isfinite(op->amount) || (magnitude && op->amount < 0))
        return err_set(e, ERR_INVALID, "an edit by %g", op->amount);
    if (one ? op->n_with != 1 : op->kind == RWKV_EDIT_ADD && op->n_with + op->n_minus == 0)
        return err_set(e, ERR_INVALID, "an edit with %zu other states", op->n_with);
    return 0;
}

int rwkv_edit_apply(const struct rwkv_info *info, const struct rwkv_edit *op, float *x,
                    struct err *e)
{
    int rc = check(op, e);
    for (size_t i = 0; rc == 0 && i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        if (!rwkv_selected(&op->select, &b))
            continue;
        double before = op->normalize ? norm_of(x + b.first, b.n) : 0;
        apply(op, x, &b, i);
        double after = norm_of(x + b.first, b.n);
        if (op->normalize && after > 0 && after != before)
            scale(x + b.first, before / after, b.n);
        for (size_t j = b.first; j < b.first + b.n; j++)
            if (!isfinite(x[j]))
                return err_set(e, ERR_NUMERIC, "the edit leaves layer %zu, %s, head %zu not finite",
                               b.layer, rwkv_part_name(b.part), b.head);
    }
    return rc;
}

struct rwkv_difference rwkv_compare(const float *a, const float *b, size_t n)
{
    struct rwkv_difference d = {.norm_a = norm_of(a, n), .norm_b = norm_of(b, n)};
    double apart = 0, norms = d.norm_a * d.norm_b;
    for (size_t i = 0; i < n; i++)
        apart += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    if (norms > 0)
        d.cosine = fmax(-1, fmin(1, dot_of(a, b, n) / norms));
    else
        d.cosine = d.norm_a == d.norm_b ? 1 : 0;
    d.relative_l2 = apart > 0 ? sqrt(apart) / d.norm_a : 0;
    return d;
}
