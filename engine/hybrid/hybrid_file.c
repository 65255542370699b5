/* A hybrid as one safetensors file: the transformer's tensors in F16, and in F32 alpha's logits, the scales of deltas,
 * the normaliser of contexts; in the metadata what the shapes do not tell, and the rank of low-rank
 * additions where there are any. */
#include "engine/hybrid/net.h"

#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT "dreamstate-hybrid-1"

static struct tensor f32_tensor(const char *name, const float *data, size_t rows, size_t cols)
{
    return (struct tensor){.name = name,
                           .dtype = DTYPE_F32,
                           .n_dims = rows ? 2 : 1,
                           .shape = {rows ? rows : cols, rows ? cols : 0},
                           .count = (rows ? rows : 1) * cols,
                           .bytes = 4 * (rows ? rows : 1) * cols,
                           .data = data};
}

/* Makes n tensors of F32 ones of F16, in memory that is the caller's to free. NULL: ERR_NOMEM, or
 * ERR_NUMERIC, a number that F16 cannot hold. */
static uint16_t *halve(struct tensor *t, size_t n, struct err *e)
{
    size_t all = 0, used = 0;
    for (size_t i = 0; i < n; i++)
        all += t[i].count;
    uint16_t *half = malloc(all * sizeof *half);
    if (!half) {
        err_set(e, ERR_NOMEM, "hybrid: out of memory");
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const float *x = t[i].data;
        for (size_t k = 0; k < t[i].count; k++)
            if (!(fabsf(x[k]) <= 65504)) { /* the largest F16 */
                err_set(e, ERR_NUMERIC, "hybrid: a weight of %s is %g", t[i].name, (double)x[k]);
                free(half);
                return NULL;
            }
        dtype_from_f32(DTYPE_F16, x, half + used, t[i].count);
        t[i].dtype = DTYPE_F16;
        t[i].bytes = 2 * t[i].count;
        t[i].data = half + used;
        used += t[i].count;
    }
    return half;
}

int hybrid_write(const struct hybrid *h, const char *path, struct err *e)
{
    const struct hybrid_info *i = &h->info;
    const size_t n = h->layout.n, L = i->shape.n_layer, X = h->layout.shape.context_dim;
    const size_t groups = hybrid_get_groups(h);
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"n_layer", i->shape.n_layer},
        {"n_embd", i->shape.n_embd},
        {"head_size", i->shape.head_size},
        {"max_context", i->max_context},
        {"sampling_steps", i->sampling_steps},
        {"dit.n_embd", i->n_embd},
        {"dit.n_head", i->n_head},
        {"dit.n_block", i->n_block},
        {"dit.n_mlp", i->n_mlp},
        {"steps", i->steps},
        {"rank", i->rank}, /* the last: left out where it is 0 */
    };
    enum { N = sizeof numbers / sizeof *numbers };
    char text[N][24];
    struct tensor_meta meta[N + 2] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = i->fingerprint},
    };
    struct tensor *t = calloc(n + 4, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "hybrid: out of memory");
    for (size_t k = 0; k < N; k++) {
        snprintf(text[k], sizeof *text, "%llu", (unsigned long long)numbers[k].value);
        meta[k + 2] =
            (struct tensor_meta){.key = numbers[k].key, .type = TENSOR_META_STR, .str = text[k]};
    }
    dit_params_tensors(&h->layout, h->params, t);
    t[n] = f32_tensor("alpha", h->params + h->layout.count, L, groups);
    t[n + 1] = f32_tensor("scale", h->scale, L, groups);
    t[n + 2] = f32_tensor("context.mean", h->context_mean, 0, X);
    t[n + 3] = f32_tensor("context.scale", h->context_scale, 0, X);
    uint16_t *half = halve(t, n, e);
    int rc = half ? safetensors_write(path, t, n + 4, meta, N + 1 + (i->rank > 0), e) : e->code;
    free(half);
    free(t);
    return rc;
}

static int read_meta(struct hybrid *h, struct dit_shape *s, const struct tensor_file *f,
                     struct err *e)
{
    struct hybrid_info *i = &h->info;
    size_t len, steps;
    const struct {
        const char *key;
        size_t *to;
    } numbers[] = {
        {"n_layer", &i->shape.n_layer},
        {"n_embd", &i->shape.n_embd},
        {"head_size", &i->shape.head_size},
        {"max_context", &i->max_context},
        {"sampling_steps", &i->sampling_steps},
        {"dit.n_embd", &s->n_embd},
        {"dit.n_head", &s->n_head},
        {"dit.n_block", &s->n_block},
        {"dit.n_mlp", &s->n_mlp},
        {"steps", &steps},
        {"rank", &i->rank},
    };
    enum { N = sizeof numbers / sizeof *numbers };
    const char *format = tensor_file_meta_str(f, "format", &len);
    if (!format || strcmp(format, FORMAT))
        return err_set(e, ERR_FORMAT, "hybrid file: the format is not " FORMAT);
    const char *print = tensor_file_meta_str(f, "fingerprint", &len);
    if (!print || len != 64 || strlen(print) != 64)
        return err_set(e, ERR_FORMAT, "hybrid file: no fingerprint of a model");
    memcpy(i->fingerprint, print, 65);
    const size_t n = tensor_file_meta_str(f, "rank", &len) ? N : N - 1;
    for (size_t k = 0; k < n; k++) {
        const char *v = tensor_file_meta_str(f, numbers[k].key, &len);
        char *end = NULL;
        *numbers[k].to = v && *v >= '0' && *v <= '9' && len < 16 ? strtoull(v, &end, 10) : 0;
        if (!v || end != v + len)
            return err_set(e, ERR_FORMAT, "hybrid file: no number '%s'", numbers[k].key);
    }
    i->steps = steps;
    if (i->sampling_steps < 1 || i->sampling_steps > 100 || i->max_context % 2 || !s->n_head ||
        i->rank > RWKV_MAX_RANK)
        return err_set(e, ERR_FORMAT, "hybrid file: a number is outside its range");
    return state_shape_check(&i->shape, e);
}

/* [rows, cols], or [cols] with rows 0, all finite. */
static int read_tensor(float *to, const struct tensor_file *f, const char *name, size_t rows,
                       size_t cols, struct err *e)
{
    const struct tensor *t = tensor_file_find(f, name);
    const int dims = rows ? 2 : 1;
    if (!t || t->n_dims != dims || t->shape[0] != (rows ? rows : cols) ||
        (rows && t->shape[1] != cols))
        return err_set(e, ERR_FORMAT, "hybrid file: tensor %s is missing or of another shape",
                       name);
    tensor_to_f32(t, to);
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(to[i]))
            return err_set(e, ERR_FORMAT, "hybrid file: tensor %s is not finite", name);
    return 0;
}

static int read_weights(struct hybrid *h, const struct tensor_file *f, struct err *e)
{
    const size_t L = h->info.shape.n_layer, X = h->layout.shape.context_dim;
    const size_t groups = hybrid_get_groups(h);
    const size_t n = hybrid_count(&h->layout, &h->info.shape);
    h->params = mem_calloc_aligned(n, sizeof *h->params);
    h->scale = calloc(L * groups, sizeof *h->scale);
    h->context_mean = calloc(X, sizeof *h->context_mean);
    h->context_scale = calloc(X, sizeof *h->context_scale);
    if (!h->params || !h->scale || !h->context_mean || !h->context_scale)
        return err_set(e, ERR_NOMEM, "hybrid: out of memory");
    dit_params_read(&h->layout, h->params, f);
    for (size_t i = 0; i < h->layout.count; i++)
        if (!isfinite(h->params[i]))
            return err_set(e, ERR_FORMAT, "hybrid file: a weight is not finite");
    int rc = read_tensor(h->params + h->layout.count, f, "alpha", L, groups, e);
    if (rc == 0)
        rc = read_tensor(h->scale, f, "scale", L, groups, e);
    if (rc == 0)
        rc = read_tensor(h->context_mean, f, "context.mean", 0, X, e);
    if (rc == 0)
        rc = read_tensor(h->context_scale, f, "context.scale", 0, X, e);
    for (size_t i = 0; i < X && rc == 0; i++)
        if (!(h->context_scale[i] > 0))
            rc = err_set(e, ERR_FORMAT, "hybrid file: the contexts' normaliser is damaged");
    return rc;
}

static int open_file(const struct tensor_file *f, struct hybrid **out, struct err *e)
{
    struct hybrid *h = calloc(1, sizeof *h);
    struct dit_shape s = {0};
    int rc = h ? read_meta(h, &s, f, e) : err_set(e, ERR_NOMEM, "hybrid: out of memory");
    if (rc == 0)
        rc = hybrid_init(h, &s, e);
    if (rc == ERR_INVALID)
        rc = err_set(e, ERR_FORMAT, "hybrid file: its shape cannot be");
    if (rc == 0)
        rc = dit_params_check(&h->layout, f, e);
    if (rc == 0)
        rc = read_weights(h, f, e);
    if (rc < 0) {
        hybrid_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

int hybrid_open(const char *path, struct hybrid **out, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open(path, &f, e);
    if (rc == 0)
        rc = open_file(f, out, e);
    tensor_file_close(f);
    return rc;
}

int hybrid_open_memory(const void *bytes, size_t n, struct hybrid **out, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open_memory(bytes, n, &f, e);
    if (rc == 0)
        rc = open_file(f, out, e);
    tensor_file_close(f);
    return rc;
}
