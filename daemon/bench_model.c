#include "daemon/bench_model.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"
#include "engine/tensor/write.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct bench_shape shapes[] = {{"12x768", 12, 768}, {"24x1024", 24, 1024}};
enum { MAX_LAYER = 24, MAX_C = 1024, N = 64, V = 65536 };
enum { RANK_W = 64, RANK_A = 64, RANK_V = 32, RANK_G = 128 };
enum { MAX_TENSORS = 6 + MAX_LAYER * 32, TOKEN_LEN = 16 };

struct maker {
    size_t n_layer, C, F; /* F = 4C */
    struct tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][96];
    size_t n;
    enum dtype type; /* of the large matrices */
    struct rng rng;
    struct err *e;
};

/* ---- tensors ---------------------------------------------------------------------------------- */

/* Uniform numbers of the given mean and width. */
static void fill_row(struct rng *r, float *x, size_t n, float mean, float width)
{
    for (size_t i = 0; i < n; i++)
        x[i] = mean + width * ((float)rng_u32(r) * 0x1p-31f - 1);
}

static int add(struct maker *m, const char *name, enum dtype type, size_t rows, size_t cols, float mean,
               float width)
{
    struct tensor *t = &m->tensors[m->n];
    size_t row_bytes, bytes;
    float row[4 * MAX_C];
    if (m->e->code)
        return m->e->code;
    if (!dtype_bytes(type, cols, &row_bytes) || !mem_mul(rows, row_bytes, &bytes))
        return err_set(m->e, ERR_INVALID, "%s cannot be held as %s", name, dtype_name(type));
    uint8_t *data = malloc(bytes);
    if (!data)
        return err_set(m->e, ERR_NOMEM, "no memory for a model to measure with");
    for (size_t i = 0; i < rows; i++) {
        fill_row(&m->rng, row, cols, mean, width);
        dtype_from_f32(type, row, data + i * row_bytes, cols);
    }
    snprintf(m->names[m->n], sizeof m->names[0], "%s", name);
    *t = (struct tensor){.name = m->names[m->n], .dtype = type, .n_dims = rows > 1 ? 2 : 1,
                         .shape = {rows > 1 ? rows : cols, cols}, .count = rows * cols, .bytes = bytes,
                         .data = data};
    m->n++;
    return 0;
}

static void vector(struct maker *m, size_t layer, const char *name, float mean, float width)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
    add(m, full, DTYPE_F32, 1, m->C, mean, width);
}

/* Outputs about as large as inputs: variance 1 / cols. */
static void matrix(struct maker *m, size_t layer, const char *name, enum dtype type, size_t rows,
                   size_t cols)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
    add(m, full, type, rows, cols, 0, sqrtf(3.0f / (float)cols));
}

static void lora(struct maker *m, size_t layer, char letter, size_t rank)
{
    char name[32];
    snprintf(name, sizeof name, "time_mix_%c1.weight", letter);
    matrix(m, layer, name, DTYPE_F32, rank, m->C);
    snprintf(name, sizeof name, "time_mix_%c2.weight", letter);
    matrix(m, layer, name, DTYPE_F32, m->C, rank);
}

static void make_layer(struct maker *m, size_t i)
{
    static const char *const norms[] = {"attn_norm", "attn_norm_2", "time_mix_ln"};
    static const char *const square[] = {"time_mix_receptance.weight", "time_mix_key.weight",
                                         "time_mix_value.weight", "time_mix_output.weight"};
    const size_t C = m->C, F = m->F;
    char name[64];
    for (size_t k = 0; k < 3; k++) {
        snprintf(name, sizeof name, "%s.weight", norms[k]);
        vector(m, i, name, 1, 0.1f);
        snprintf(name, sizeof name, "%s.bias", norms[k]);
        vector(m, i, name, 0, 0.1f);
    }
    snprintf(name, sizeof name, "blk.%zu.time_mix_lerp_fused.weight", i);
    if (add(m, name, DTYPE_F32, 6, C, 0.5f, 0.5f) == 0) {
        struct tensor *t = &m->tensors[m->n - 1];
        t->n_dims = 4;
        t->shape[0] = 6, t->shape[1] = 1, t->shape[2] = 1, t->shape[3] = C;
    }
    vector(m, i, "time_mix_w0.weight", -3, 3);
    vector(m, i, "time_mix_a0.weight", 0, 0.5f);
    vector(m, i, "time_mix_v0.weight", 0.7f, 0.3f);
    vector(m, i, "time_mix_k_k.weight", 0.8f, 0.1f);
    vector(m, i, "time_mix_k_a.weight", 1, 0.1f);
    vector(m, i, "time_mix_r_k.weight", 0, 0.1f);
    lora(m, i, 'w', RANK_W);
    lora(m, i, 'a', RANK_A);
    lora(m, i, 'v', i ? RANK_V : RANK_A); /* layer 0's is a dummy of the shape that llama.cpp expects */
    lora(m, i, 'g', RANK_G);
    for (size_t k = 0; k < 4; k++)
        matrix(m, i, square[k], m->type, C, C);
    vector(m, i, "channel_mix_lerp_k.weight", 0.5f, 0.5f);
    matrix(m, i, "channel_mix_key.weight", m->type, F, C);
    matrix(m, i, "channel_mix_value.weight", m->type, C, F);
}

static void make_tensors(struct maker *m)
{
    const size_t C = m->C;
    add(m, "token_embd.weight", m->type, V, C, 0, 1);
    add(m, "token_embd_norm.weight", DTYPE_F32, 1, C, 1, 0.1f);
    add(m, "token_embd_norm.bias", DTYPE_F32, 1, C, 0, 0.1f);
    for (size_t i = 0; i < m->n_layer; i++)
        make_layer(m, i);
    add(m, "output_norm.weight", DTYPE_F32, 1, C, 1, 0.1f);
    add(m, "output_norm.bias", DTYPE_F32, 1, C, 0, 0.1f);
    add(m, "output.weight", m->type, V, C, 0, sqrtf(3.0f / (float)C));
}

/* ---- file ------------------------------------------------------------------------------------- */

/* A vocabulary in the form of the World one: end of text, the bytes, then words that nothing means. */
static void name_tokens(char (*text)[TOKEN_LEN], const char **list)
{
    for (unsigned i = 0; i < V; i++) {
        if (i == 0)
            snprintf(text[i], TOKEN_LEN, "<s>");
        else if (i <= 256)
            snprintf(text[i], TOKEN_LEN, "\\x%02x", i - 1);
        else
            snprintf(text[i], TOKEN_LEN, "token%u", i);
        list[i] = text[i];
    }
}

#define U32(k, v)                                                                                  \
    {                                                                                              \
        .key = k, .type = TENSOR_META_U32, .u32 = v                                                \
    }
#define STR(k, v)                                                                                  \
    {                                                                                              \
        .key = k, .type = TENSOR_META_STR, .str = v                                                \
    }

static int write_file(struct maker *m, const char *path, const char *const *tokens)
{
    char name[64];
    snprintf(name, sizeof name, "random weights, %zu x %zu", m->n_layer, m->C);
    const struct tensor_meta meta[] = {
        STR("general.architecture", "rwkv7"),
        STR("general.name", name),
        U32("rwkv7.context_length", 1048576),
        U32("rwkv7.embedding_length", (uint32_t)m->C),
        U32("rwkv7.block_count", (uint32_t)m->n_layer),
        U32("rwkv7.feed_forward_length", (uint32_t)m->F),
        U32("rwkv7.attention.head_count", 0),
        U32("rwkv7.wkv.head_size", N),
        U32("rwkv7.attention.decay_lora_rank", RANK_W),
        U32("rwkv7.attention.iclr_lora_rank", RANK_A),
        U32("rwkv7.attention.value_residual_mix_lora_rank", RANK_V),
        U32("rwkv7.attention.gate_lora_rank", RANK_G),
        {.key = "rwkv7.attention.layer_norm_epsilon", .type = TENSOR_META_F32, .f32 = 1e-5f},
        STR("tokenizer.ggml.model", "rwkv"),
        {.key = "tokenizer.ggml.tokens", .type = TENSOR_META_STR_ARRAY, .strs = tokens, .n = V},
    };
    return gguf_write(path, m->tensors, m->n, meta, sizeof meta / sizeof *meta, m->e);
}

static int make_model(const struct bench_shape *s, enum dtype type, const char *path, struct err *e)
{
    struct maker *m = calloc(1, sizeof *m);
    char(*text)[TOKEN_LEN] = calloc(V, sizeof *text);
    const char **list = calloc(V, sizeof *list);
    int rc;
    if (!m || !text || !list) {
        rc = err_set(e, ERR_NOMEM, "no memory for a model to measure with");
        goto out;
    }
    m->n_layer = s->n_layer;
    m->C = s->n_embd;
    m->F = 4 * s->n_embd;
    m->type = type;
    m->e = e;
    e->code = 0;
    rng_init(&m->rng, 7, 0);
    make_tensors(m);
    name_tokens(text, list);
    rc = e->code ? e->code : write_file(m, path, list);
    for (size_t i = 0; i < m->n; i++)
        free((void *)(uintptr_t)m->tensors[i].data);
out:
    free(list);
    free(text);
    free(m);
    return rc;
}

const struct bench_shape *bench_shape(const char *name)
{
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        if (!strcmp(name, shapes[k].name))
            return &shapes[k];
    return NULL;
}

int bench_model_path(const struct bench_shape *shape, enum dtype type, char *path, size_t size,
                     struct err *e)
{
    const char *tmp = getenv("TMPDIR"), *dir = access("build", W_OK) == 0 ? "build" : tmp ? tmp : P_tmpdir;
    char name[16];
    snprintf(name, sizeof name, "%s", dtype_name(type));
    for (char *p = name; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    if ((size_t)snprintf(path, size, "%s/bench-%s-%s.gguf", dir, shape->name, name) >= size)
        return err_set(e, ERR_INVALID, "the path of the temporary folder is too long");
    return access(path, R_OK) == 0 ? 0 : make_model(shape, type, path, e);
}
