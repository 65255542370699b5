#include "engine/dit/params.h"

#include "engine/kernels/rng.h"
#include "engine/tensor/tensor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_FLOATS 16

static const struct entry {
    const char *name, *dims;
} globals[] =
    {
#define XX(id, name, dims) [DIT_P_##id] = {name, dims},
        DIT_GLOBAL_PARAMS(XX)
#undef XX
},
  blocks[] = {
#define XX(id, name, dims) [DIT_B_##id] = {name, dims},
      DIT_BLOCK_PARAMS(XX)
#undef XX
};

static size_t dim(const struct dit_shape *s, char d)
{
    switch (d) {
    case 'n':
        return s->n_token;
    case 'P':
        return s->per_token ? s->n_token : 1;
    case 'D':
        return s->token_dim;
    case 'C':
        return s->n_embd;
    case 'F':
        return s->n_mlp;
    case 'Y':
        return s->cond_dim;
    case 'X':
        return s->context_dim;
    case 'Q':
        return s->n_label + 1;
    case 'K':
        return DIT_FREQ;
    default:
        return (size_t)(d - '0') * s->n_embd;
    }
}

/* Appends a tensor and returns its offset. */
static size_t add(struct dit_layout *l, const char *name, const char *dims)
{
    struct dit_param *p = &l->param[l->n++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->count = 1;
    for (p->n_dims = 0; dims[p->n_dims]; p->n_dims++) {
        p->shape[p->n_dims] = dim(&l->shape, dims[p->n_dims]);
        p->count *= p->shape[p->n_dims];
    }
    p->offset = l->count;
    l->count += (p->count + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    l->n_params += p->count;
    return p->offset;
}

/* The limits keep every product of sizes far below 2^64. */
static int shape_check(const struct dit_shape *s, struct err *e)
{
    const struct {
        const char *name;
        size_t value, low, high;
    } sizes[] = {
        {"n_token", s->n_token, 1, 65536},         {"token_dim", s->token_dim, 1, 65536},
        {"n_embd", s->n_embd, 1, 16384},           {"n_head", s->n_head, 1, 1024},
        {"n_block", s->n_block, 1, 256},           {"n_mlp", s->n_mlp, 1, 65536},
        {"cond_dim", s->cond_dim, 0, 65536},       {"n_label", s->n_label, 0, 1 << 20},
        {"context_dim", s->context_dim, 0, 65536}, {"max_context", s->max_context, 0, 65536},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < sizes[i].low || sizes[i].value > sizes[i].high)
            return err_set(e, ERR_INVALID, "diffusion transformer: %s is %zu, want %zu to %zu",
                           sizes[i].name, sizes[i].value, sizes[i].low, sizes[i].high);
    if (s->n_embd % s->n_head)
        return err_set(e, ERR_INVALID, "diffusion transformer: %zu heads do not divide width %zu",
                       s->n_head, s->n_embd);
    if (!s->context_dim != !s->max_context)
        return err_set(e, ERR_INVALID,
                       "diffusion transformer: a context wants a width and a limit");
    return 0;
}

int dit_layout_init(struct dit_layout *l, const struct dit_shape *s, struct err *e)
{
    memset(l, 0, sizeof *l);
    int rc = shape_check(s, e);
    if (rc < 0)
        return rc;
    l->shape = *s;
    l->param = calloc(DIT_P_GLOBALS + s->n_block * DIT_B_COUNT, sizeof *l->param);
    l->block = calloc(s->n_block, sizeof *l->block);
    if (!l->param || !l->block) {
        dit_layout_fini(l);
        return err_set(e, ERR_NOMEM, "diffusion transformer: out of memory");
    }
    for (int p = 0; p < DIT_P_GLOBALS; p++) {
        bool text = p == DIT_P_Y0_W || p == DIT_P_Y0_B || p == DIT_P_Y2_W || p == DIT_P_Y2_B;
        l->global[p] = text && !s->cond_dim ? SIZE_MAX : add(l, globals[p].name, globals[p].dims);
    }
    for (size_t i = 0; i < s->n_block; i++)
        for (int p = 0; p < DIT_B_COUNT; p++) {
            char name[48];
            l->block[i][p] = SIZE_MAX;
            if (p >= DIT_B_CN_W && !s->context_dim)
                continue;
            snprintf(name, sizeof name, "blocks.%zu.%s", i, blocks[p].name);
            l->block[i][p] = add(l, name, blocks[p].dims);
        }
    return 0;
}

void dit_layout_fini(struct dit_layout *l)
{
    free(l->param);
    free(l->block);
    memset(l, 0, sizeof *l);
}

void dit_params_init(const struct dit_layout *l, float *flat, uint64_t seed)
{
    memset(flat, 0, l->count * sizeof *flat);
    for (size_t i = 0; i < l->n; i++) {
        const struct dit_param *p = &l->param[i];
        float *w = flat + p->offset;
        struct rng rng;
        rng_init(&rng, seed, i);
        bool embed = !strncmp(p->name, "t_embed", 7) || !strncmp(p->name, "label_embed", 11) ||
                     !strcmp(p->name, "x_proj.bias");
        if (strstr(p->name, "adaln") || !strncmp(p->name, "final", 5) ||
            strstr(p->name, "cross.proj") ||
            (strstr(p->name, "bias") && strcmp(p->name, "x_proj.bias")))
            continue;
        if (strstr(p->name, "cross.norm")) {
            for (size_t n = 0; n < p->count; n++)
                w[n] = 1;
            continue;
        }
        double out = (double)p->shape[p->n_dims - 2], in = (double)p->shape[p->n_dims - 1];
        double limit = sqrt(6 / (in + out));
        for (size_t n = 0; n < p->count; n++)
            w[n] = (float)(embed ? 0.02 * rng_normal(&rng) : limit * (2 * rng_uniform(&rng) - 1));
    }
}

void dit_params_tensors(const struct dit_layout *l, const float *flat, struct tensor *t)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct dit_param *p = &l->param[i];
        t[i] = (struct tensor){.name = p->name,
                               .dtype = DTYPE_F32,
                               .n_dims = p->n_dims,
                               .count = p->count,
                               .bytes = p->count * sizeof *flat,
                               .data = flat + p->offset};
        memcpy(t[i].shape, p->shape, sizeof p->shape);
    }
}

int dit_params_check(const struct dit_layout *l, const struct tensor_file *f, struct err *e)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct dit_param *p = &l->param[i];
        const struct tensor *t = tensor_file_find(f, p->name);
        if (!t)
            return err_set(e, ERR_FORMAT, "diffuser file: no tensor %s", p->name);
        if (t->n_dims != p->n_dims ||
            memcmp(t->shape, p->shape, (size_t)p->n_dims * sizeof *p->shape))
            return err_set(e, ERR_FORMAT, "diffuser file: tensor %s has %zu numbers, want %zu",
                           p->name, t->count, p->count);
    }
    return 0;
}

void dit_params_read(const struct dit_layout *l, float *flat, const struct tensor_file *f)
{
    memset(flat, 0, l->count * sizeof *flat);
    for (size_t i = 0; i < l->n; i++)
        tensor_to_f32(tensor_file_find(f, l->param[i].name), flat + l->param[i].offset);
}
