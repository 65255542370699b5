#include "engine/rwkv/params.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdio.h>

#define DIM_LIMIT    ((size_t)1 << 20)
#define ALIGN_FLOATS 16
#define LOW_SEED     7 /* of A of the low-rank additions: hybrids are trained with it */

static const struct layer_param {
    const char *name, *dims;
} layer_params[] = {
#define XX(id, name, dims) [RWKV_P_##id] = {name, dims},
    RWKV_LAYER_PARAMS(XX)
#undef XX
};

static size_t rank_of(double scale, size_t C)
{
    double r = 32 * nearbyint(scale * sqrt((double)C) / 32); /* half to even, as Python's round */
    return r < 32 ? 32 : (size_t)r;
}

void rwkv_default_ranks(struct rwkv_shape *s)
{
    s->rank_w = s->rank_a = rank_of(2.5, s->n_embd);
    s->rank_v = rank_of(1.7, s->n_embd);
    s->rank_g = rank_of(5, s->n_embd);
}

static size_t dim(const struct rwkv_shape *s, char d)
{
    switch (d) {
    case 'C':
        return s->n_embd;
    case 'N':
        return s->head_size;
    case 'H':
        return s->n_embd / s->head_size;
    case 'F':
        return s->n_ffn;
    case 'V':
        return s->n_vocab;
    case 'w':
        return s->rank_w;
    case 'a':
        return s->rank_a;
    case 'v':
        return s->rank_v;
    case 'g':
        return s->rank_g;
    default:
        return 1;
    }
}

static enum rwkv_group group_of(const char *name, size_t rank)
{
    if (strstr(name, "att.w0"))
        return RWKV_GROUP_W0;
    return rank >= 2 && strstr(name, ".weight") ? RWKV_GROUP_DECAY : RWKV_GROUP_PLAIN;
}

/* Appends a tensor and returns its offset. */
static size_t add(struct rwkv_layout *l, const char *name, const char *dims)
{
    struct rwkv_param *p = &l->param[l->n++];
    size_t rank = 0;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->count = 1;
    for (p->n_dims = 0; dims[p->n_dims]; p->n_dims++) {
        p->shape[p->n_dims] = dim(&l->shape, dims[p->n_dims]);
        p->count *= p->shape[p->n_dims];
        rank += p->shape[p->n_dims] > 1;
    }
    p->group = group_of(name, rank);
    p->offset = l->count;
    l->count += (p->count + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    l->n_params += p->count;
    return p->offset;
}

static int shape_check(const struct rwkv_shape *s, struct err *e)
{
    const struct {
        const char *name;
        size_t value, limit;
    } sizes[] = {
        {"n_layer", s->n_layer, 512},       {"n_embd", s->n_embd, DIM_LIMIT},
        {"head_size", s->head_size, 128},   {"n_ffn", s->n_ffn, DIM_LIMIT},
        {"n_vocab", s->n_vocab, DIM_LIMIT}, {"rank_w", s->rank_w, DIM_LIMIT},
        {"rank_a", s->rank_a, DIM_LIMIT},   {"rank_v", s->rank_v, DIM_LIMIT},
        {"rank_g", s->rank_g, DIM_LIMIT},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!sizes[i].value || sizes[i].value > sizes[i].limit)
            return err_set(e, ERR_INVALID, "model shape: %s is %zu, want 1 to %zu", sizes[i].name,
                           sizes[i].value, sizes[i].limit);
    if (s->head_size % 16 || s->n_embd % s->head_size)
        return err_set(
            e, ERR_INVALID,
            "model shape: head size %zu must be a multiple of 16 that divides the width %zu",
            s->head_size, s->n_embd);
    return 0;
}

int rwkv_layout_init(struct rwkv_layout *l, const struct rwkv_shape *s, struct err *e)
{
    memset(l, 0, sizeof *l);
    int rc = shape_check(s, e);
    if (rc < 0)
        return rc;
    l->shape = *s;
    l->n_head = s->n_embd / s->head_size;
    l->param = calloc(s->n_layer * RWKV_P_COUNT + 4, sizeof *l->param);
    l->layer = calloc(s->n_layer, sizeof *l->layer);
    if (!l->param || !l->layer) {
        rwkv_layout_fini(l);
        return err_set(e, ERR_NOMEM, "model layout: out of memory");
    }
    l->emb = add(l, "emb.weight", "VC");
    for (size_t i = 0; i < s->n_layer; i++)
        for (int p = 0; p < RWKV_P_COUNT; p++) {
            char name[48];
            int ln0 = p == RWKV_P_LN0_W || p == RWKV_P_LN0_B;
            int vres = p == RWKV_P_V0 || p == RWKV_P_V1 || p == RWKV_P_V2;
            l->layer[i][p] = SIZE_MAX;
            if ((ln0 && i > 0) || (vres && i == 0))
                continue;
            snprintf(name, sizeof name, "blocks.%zu.%s", i, layer_params[p].name);
            l->layer[i][p] = add(l, name, layer_params[p].dims);
        }
    l->ln_out_w = add(l, "ln_out.weight", "C");
    l->ln_out_b = add(l, "ln_out.bias", "C");
    l->head = add(l, "head.weight", "VC");
    return 0;
}

void rwkv_layout_fini(struct rwkv_layout *l)
{
    free(l->param);
    free(l->layer);
    memset(l, 0, sizeof *l);
}

const struct rwkv_param *rwkv_layout_find(const struct rwkv_layout *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->param[i].name, name))
            return &l->param[i];
    return NULL;
}

/* Dimension i of a tensor from its end (0 = last), or 0. */
static size_t dim_of(const struct tensor_file *f, const char *name, int from_end)
{
    const struct tensor *t = tensor_file_find(f, name);
    return t && t->n_dims > from_end ? t->shape[t->n_dims - 1 - from_end] : 0;
}

void rwkv_theta_own_low(float *theta, size_t layer, size_t C, size_t rank)
{
    const double by = sqrt(3.0 / (double)C);
    for (int q = 0; q < RWKV_LOW; q++) {
        float *a = theta + rwkv_theta_low(rank, (enum rwkv_low)q) * C, *b = a + rank * C;
        for (size_t j = 0; j < rank; j++) {
            struct rng rng;
            rng_init(&rng, LOW_SEED, (layer * RWKV_LOW + (size_t)q) * RWKV_MAX_RANK + j);
            for (size_t c = 0; c < C; c++)
                a[j * C + c] = (float)(by * (2 * rng_uniform(&rng) - 1));
        }
        memset(b, 0, rank * C * sizeof *b);
    }
}

void rwkv_params_theta(const struct rwkv_layout *l, const float *flat, size_t rank, float *theta)
{
    static const int id[RWKV_THETA] = {RWKV_P_W0,  RWKV_P_A0,  RWKV_P_V0,
                                       RWKV_P_K_K, RWKV_P_K_A, RWKV_P_R_K};
    const size_t C = l->shape.n_embd;
    memset(theta, 0, rwkv_layout_theta(l, rank) * sizeof *theta);
    for (size_t i = 0; i < l->shape.n_layer; i++, theta += rwkv_theta_groups(rank) * C) {
        for (size_t q = 0; q < RWKV_THETA; q++)
            if (l->layer[i][id[q]] != SIZE_MAX)
                memcpy(theta + q * C, flat + l->layer[i][id[q]], C * sizeof *theta);
        rwkv_theta_own_low(theta, i, C, rank);
    }
}

int rwkv_shape_read(struct rwkv_shape *s, const struct tensor_file *f, struct err *e)
{
    char name[48];
    memset(s, 0, sizeof *s);
    s->n_vocab = dim_of(f, "emb.weight", 1);
    s->n_embd = dim_of(f, "emb.weight", 0);
    s->head_size = dim_of(f, "blocks.0.att.r_k", 0);
    s->n_ffn = dim_of(f, "blocks.0.ffn.key.weight", 1);
    s->rank_w = dim_of(f, "blocks.0.att.w1", 0);
    s->rank_a = dim_of(f, "blocks.0.att.a1", 0);
    s->rank_g = dim_of(f, "blocks.0.att.g1", 0);
    s->rank_v = dim_of(f, "blocks.1.att.v1", 0);
    for (;; s->n_layer++) {
        snprintf(name, sizeof name, "blocks.%zu.ln1.weight", s->n_layer);
        if (!tensor_file_find(f, name))
            break;
    }
    if (s->n_layer == 1)
        s->rank_v = 1; /* no layer has the pair */
    return shape_check(s, e);
}

/* Whether a tensor has the parameter's shape, dimensions of 1 aside. */
static bool same_shape(const struct tensor *t, const struct rwkv_param *p)
{
    int i = 0;
    for (int k = 0; k < p->n_dims; k++) {
        if (p->shape[k] == 1)
            continue;
        while (i < t->n_dims && t->shape[i] == 1)
            i++;
        if (i == t->n_dims || t->shape[i++] != p->shape[k])
            return false;
    }
    while (i < t->n_dims && t->shape[i] == 1)
        i++;
    return i == t->n_dims;
}

int rwkv_params_check(const struct rwkv_layout *l, const struct tensor_file *f, struct err *e)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct rwkv_param *p = &l->param[i];
        const struct tensor *t = tensor_file_find(f, p->name);
        if (!t)
            return err_set(e, ERR_FORMAT, "model file: no tensor %s", p->name);
        if (t->count != p->count || !same_shape(t, p))
            return err_set(e, ERR_FORMAT,
                           "model file: tensor %s has %zu elements or a shape that does not fit, "
                           "want %zu in the reference's order",
                           p->name, t->count, p->count);
    }
    return 0;
}

int rwkv_params_read(const struct rwkv_layout *l, float *flat, const struct tensor_file *f,
                     struct err *e)
{
    int rc = rwkv_params_check(l, f, e);
    if (rc < 0)
        return rc;
    memset(flat, 0, l->count * sizeof *flat);
    for (size_t i = 0; i < l->n; i++)
        tensor_to_f32(tensor_file_find(f, l->param[i].name), flat + l->param[i].offset);
    return 0;
}

int rwkv_params_write(const struct rwkv_layout *l, const float *flat, const char *path, int bf16,
                      struct err *e)
{
    int rc = 0;
    struct tensor *t = calloc(l->n, sizeof *t);
    uint16_t *half = bf16 ? calloc(l->count, sizeof *half) : NULL;
    if (!t || (bf16 && !half)) {
        rc = err_set(e, ERR_NOMEM, "model file: out of memory");
        goto out;
    }
    for (size_t i = 0; i < l->n; i++) {
        const struct rwkv_param *p = &l->param[i];
        t[i] = (struct tensor){.name = p->name,
                               .dtype = bf16 ? DTYPE_BF16 : DTYPE_F32,
                               .n_dims = p->n_dims,
                               .count = p->count,
                               .bytes = p->count * (bf16 ? 2 : 4),
                               .data = flat + p->offset};
        memcpy(t[i].shape, p->shape, sizeof p->shape);
        if (bf16) {
            dtype_from_f32(DTYPE_BF16, flat + p->offset, half + p->offset, p->count);
            t[i].data = half + p->offset;
        }
    }
    rc = safetensors_write(path, t, l->n, NULL, 0, e);
out:
    free(half);
    free(t);
    return rc;
}
