#include "engine/rwkv/source.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER(f)  offsetof(struct rwkv_layer, f)
#define MODEL(f)  offsetof(struct rwkv_model, f)
#define VEC(n, g, f)                                                                               \
    {                                                                                              \
        .name = n, .gguf = g, .kind = SPEC_VECTOR, .cols = 'C', .fused = -1, .field = LAYER(f)     \
    }
#define MIX(n, i)                                                                                  \
    {                                                                                              \
        .name = n, .gguf = "time_mix_lerp_fused.weight", .kind = SPEC_VECTOR, .cols = 'C',         \
        .fused = i, .field = LAYER(mix[i])                                                         \
    }
#define MAT(n, g, r, c, f)                                                                         \
    {                                                                                              \
        .name = n, .gguf = g, .kind = SPEC_MATRIX, .rows = r, .cols = c, .fused = -1,              \
        .field = LAYER(f)                                                                          \
    }
#define LORA(x, i, first)                                                                          \
    {                                                                                              \
        .name = "att." #x "1", .gguf = "time_mix_" #x "1.weight", .kind = SPEC_DOWN, .rows = 'C',  \
        .cols = #x[0], .fused = -1, .not_first = first, .field = LAYER(down[i])                    \
    },                                                                                             \
    {                                                                                              \
        .name = "att." #x "2", .gguf = "time_mix_" #x "2.weight", .kind = SPEC_UP, .rows = #x[0],  \
        .cols = 'C', .fused = -1, .not_first = first, .field = LAYER(up[i])                        \
    }
#define GLOBAL(n, g, k, r, f)                                                                      \
    {                                                                                              \
        .name = n, .gguf = g, .kind = k, .rows = r, .cols = 'C', .global = true, .fused = -1,      \
        .field = MODEL(f)                                                                          \
    }

static const struct rwkv_spec before[] = {
    GLOBAL("emb.weight", "token_embd.weight", SPEC_EMBEDDING, 'V', emb),
    GLOBAL("blocks.0.ln0.weight", "token_embd_norm.weight", SPEC_VECTOR, 0, ln0_w),
    GLOBAL("blocks.0.ln0.bias", "token_embd_norm.bias", SPEC_VECTOR, 0, ln0_b),
};
static const struct rwkv_spec layer_specs[] = {
    VEC("ln1.weight", "attn_norm.weight", ln1_w),
    VEC("ln1.bias", "attn_norm.bias", ln1_b),
    VEC("ln2.weight", "attn_norm_2.weight", ln2_w),
    VEC("ln2.bias", "attn_norm_2.bias", ln2_b),
    MIX("att.x_r", MIX_R),
    MIX("att.x_w", MIX_W),
    MIX("att.x_k", MIX_K),
    MIX("att.x_v", MIX_V),
    MIX("att.x_a", MIX_A),
    MIX("att.x_g", MIX_G),
    VEC("att.w0", "time_mix_w0.weight", w0),
    LORA(w, LORA_W, false),
    VEC("att.a0", "time_mix_a0.weight", a0),
    LORA(a, LORA_A, false),
    {.name = "att.v0", .gguf = "time_mix_v0.weight", .kind = SPEC_VECTOR, .cols = 'C', .fused = -1,
     .not_first = true, .field = LAYER(v0)},
    LORA(v, LORA_V, true),
    LORA(g, LORA_G, false),
    VEC("att.k_k", "time_mix_k_k.weight", k_k),
    VEC("att.k_a", "time_mix_k_a.weight", k_a),
    {.name = "att.r_k", .gguf = "time_mix_r_k.weight", .kind = SPEC_VECTOR, .rows = 'H', .cols = 'N',
     .fused = -1, .field = LAYER(r_k)},
    MAT("att.receptance.weight", "time_mix_receptance.weight", 'C', 'C', receptance),
    MAT("att.key.weight", "time_mix_key.weight", 'C', 'C', key),
    MAT("att.value.weight", "time_mix_value.weight", 'C', 'C', value),
    MAT("att.output.weight", "time_mix_output.weight", 'C', 'C', output),
    VEC("att.ln_x.weight", "time_mix_ln.weight", ln_x_w),
    VEC("att.ln_x.bias", "time_mix_ln.bias", ln_x_b),
    VEC("ffn.x_k", "channel_mix_lerp_k.weight", ffn_mix),
    MAT("ffn.key.weight", "channel_mix_key.weight", 'F', 'C', ffn_key),
    MAT("ffn.value.weight", "channel_mix_value.weight", 'C', 'F', ffn_value),
};
static const struct rwkv_spec after[] = {
    GLOBAL("ln_out.weight", "output_norm.weight", SPEC_VECTOR, 0, ln_out_w),
    GLOBAL("ln_out.bias", "output_norm.bias", SPEC_VECTOR, 0, ln_out_b),
    GLOBAL("head.weight", "output.weight", SPEC_MATRIX, 'V', head),
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

struct reader {
    const struct tensor_file *f;
    bool gguf;
    bool lora_by_rows; /* low-rank matrices are in the order of products: GGUF, Ai00 */
    struct rwkv_info *info;
    struct err *e;
};

/* ---- shapes ----------------------------------------------------------------------------------- */

static void shape_text(const struct tensor *t, char text[96])
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < t->n_dims && at < 80; i++)
        at += (size_t)snprintf(text + at, 96 - at, "%s%zu", i ? ", " : "", t->shape[i]);
}

static int wrong_shape(struct reader *r, const struct tensor *t, const char *wanted)
{
    char found[96];
    shape_text(t, found);
    return err_set(r->e, ERR_FORMAT, "tensor %.80s: shape [%s], want %s", t->name, found, wanted);
}

/* The shape as rows and columns: dimensions of 1 beyond two are dropped, a vector is one row. */
static bool shape_2d(const struct tensor *t, size_t *rows, size_t *cols)
{
    size_t dims[2] = {1, 1}, n = 0;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 1 && t->n_dims > 2)
            continue;
        if (n == 2)
            return false;
        dims[n++] = t->shape[i];
    }
    *rows = n == 2 ? dims[0] : 1;
    *cols = n == 2 ? dims[1] : dims[0];
    return true;
}

static bool is_vector(const struct tensor *t)
{
    int wide = 0;
    for (int i = 0; i < t->n_dims; i++)
        wide += t->shape[i] != 1;
    return wide <= 1;
}

/* Vectors and low-rank matrices are read in pieces that need not be whole quantised blocks; no
 * program quantises the former, and the latter at most by blocks of 32. */
static bool type_allowed(enum rwkv_spec_kind kind, enum dtype t)
{
    if (t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_F64)
        return true;
    size_t block = dtype_block_len(t);
    return block > 1 && kind != SPEC_VECTOR &&
           (block == 32 || kind == SPEC_MATRIX || kind == SPEC_EMBEDDING);
}

/* ---- names ------------------------------------------------------------------------------------ */

/* The tensor's name in this file. */
static void file_name(const struct reader *r, const struct rwkv_spec *s, size_t layer, char name[64])
{
    const char *base = r->gguf ? s->gguf : s->name;
    if (s->global)
        snprintf(name, 64, "%s", base);
    else
        snprintf(name, 64, "%s.%zu.%s", r->gguf ? "blk" : "blocks", layer, base);
}

static const struct tensor *find(struct reader *r, const struct rwkv_spec *s, size_t layer)
{
    char name[64];
    file_name(r, s, layer, name);
    const struct tensor *t = tensor_file_find(r->f, name);
    if (!t)
        err_set(r->e, ERR_FORMAT, "tensor %s: not in the file", name);
    else if (!type_allowed(s->kind, t->dtype)) {
        err_set(r->e, ERR_FORMAT, "tensor %s: type %s, want F32, F16, BF16%s", name,
                dtype_name(t->dtype), s->kind == SPEC_VECTOR ? "" : " or a quantised type");
        t = NULL;
    }
    return t;
}

static const struct rwkv_spec *spec_named(const char *name)
{
    for (size_t i = 0; i < COUNT(layer_specs); i++)
        if (!strcmp(layer_specs[i].name, name))
            return &layer_specs[i];
    return NULL;
}

/* ---- sizes ------------------------------------------------------------------------------------ */

/* The layer that a tensor's name begins with, or SIZE_MAX. */
static size_t layer_of_name(const struct reader *r, const char *name)
{
    const char *prefix = r->gguf ? "blk." : "blocks.";
    size_t n = strlen(prefix), layer = 0;
    if (strncmp(name, prefix, n) != 0)
        return SIZE_MAX;
    for (name += n; *name >= '0' && *name <= '9' && layer < 1000000; name++)
        layer = 10 * layer + (size_t)(*name - '0');
    return *name == '.' ? layer : SIZE_MAX;
}

/* Layers 0, 1, ... as long as each has its first tensor; none may follow a gap. */
static int count_layers(struct reader *r)
{
    char name[64];
    size_t n = 0;
    for (;; n++) {
        file_name(r, &layer_specs[0], n, name);
        if (!tensor_file_find(r->f, name))
            break;
    }
    bool more = n == 0;
    for (size_t i = 0; i < tensor_file_count(r->f) && !more; i++) {
        size_t layer = layer_of_name(r, tensor_file_get(r->f, i)->name);
        more = layer != SIZE_MAX && layer >= n;
    }
    r->info->n_layer = n;
    return more ? err_set(r->e, ERR_FORMAT, "tensor %s: not in the file", name) : 0;
}

static int read_head_size(struct reader *r)
{
    const struct tensor *t = find(r, spec_named("att.r_k"), 0);
    size_t rows = 0, cols = 0;
    uint64_t n = 0;
    if (!t)
        return r->e->code;
    if (r->gguf && tensor_file_meta_u64(r->f, "rwkv7.wkv.head_size", &n) && n <= 128)
        cols = (size_t)n;
    else if (r->gguf)
        return err_set(r->e, ERR_FORMAT, "key rwkv7.wkv.head_size: %s, want 32, 64 or 128",
                       n ? "too large" : "missing");
    else if (!shape_2d(t, &rows, &cols))
        return wrong_shape(r, t, "[H, N]");
    if ((cols != 32 && cols != 64 && cols != 128) || r->info->n_embd % cols)
        return err_set(r->e, ERR_FORMAT, "head size %zu with n_embd %zu: want 32, 64 or 128, a divisor",
                       cols, r->info->n_embd);
    r->info->head_size = cols;
    r->info->n_head = r->info->n_embd / cols;
    return 0;
}

/* Tells BlinkDL's [C, D] from [D, C] by the first low-rank matrix that is not square, and by the name
 * of the file (Ai00's end in .st) if all are. */
static int read_lora_order(struct reader *r, const char *path)
{
    static const char *const names[] = {"att.w1", "att.a1", "att.g1"};
    size_t len = strlen(path);
    r->lora_by_rows = r->gguf || (len > 3 && !strcmp(path + len - 3, ".st"));
    for (size_t i = 0; i < COUNT(names) && !r->gguf; i++) {
        size_t rows, cols, C = r->info->n_embd;
        const struct tensor *t = find(r, spec_named(names[i]), 0);
        if (!t)
            return r->e->code;
        if (!shape_2d(t, &rows, &cols) || (rows != C && cols != C))
            return wrong_shape(r, t, "[n_embd, rank]");
        if (rows != cols) {
            r->lora_by_rows = cols == C;
            return 0;
        }
    }
    return 0;
}

static int read_rank(struct reader *r, const char *name, size_t layer, size_t *rank)
{
    size_t rows, cols;
    const struct tensor *t = find(r, spec_named(name), layer);
    if (!t)
        return r->e->code;
    if (!shape_2d(t, &rows, &cols) || rows == 0 || cols == 0)
        return wrong_shape(r, t, "[n_embd, rank]");
    *rank = r->lora_by_rows ? rows : cols;
    return 0;
}

/* What a GGUF says about itself must be what is computed here. */
static int check_gguf(struct reader *r)
{
    size_t len = 0;
    double eps;
    const char *arch = tensor_file_meta_str(r->f, "general.architecture", &len);
    if (!arch || len != 5 || memcmp(arch, "rwkv7", 5) != 0)
        return err_set(r->e, ERR_UNSUPPORTED, "general.architecture is %.*s, want rwkv7",
                       arch ? (int)(len < 40 ? len : 40) : 7, arch ? arch : "missing");
    if (tensor_file_meta_f64(r->f, "rwkv7.attention.layer_norm_epsilon", &eps) &&
        fabs(eps - 1e-5) > 1e-9)
        return err_set(r->e, ERR_UNSUPPORTED, "layer_norm_epsilon is %g, want 1e-5", eps);
    return 0;
}

static int read_sizes(struct reader *r, const char *path)
{
    struct rwkv_info *info = r->info;
    const struct tensor *emb = find(r, &before[0], 0), *key;
    if (!emb)
        return r->e->code;
    if (!shape_2d(emb, &info->n_vocab, &info->n_embd) || !info->n_vocab || !info->n_embd ||
        info->n_vocab > UINT32_MAX)
        return wrong_shape(r, emb, "[vocabulary, n_embd]");
    if (count_layers(r) < 0 || read_head_size(r) < 0 || read_lora_order(r, path) < 0)
        return r->e->code;
    size_t cols;
    if (!(key = find(r, spec_named("ffn.key.weight"), 0)))
        return r->e->code;
    if (!shape_2d(key, &info->n_ffn, &cols) || !info->n_ffn)
        return wrong_shape(r, key, "[n_ffn, n_embd]");
    if (read_rank(r, "att.w1", 0, &info->rank_w) < 0 ||
        read_rank(r, "att.a1", 0, &info->rank_a) < 0 ||
        read_rank(r, "att.g1", 0, &info->rank_g) < 0 ||
        (info->n_layer > 1 && read_rank(r, "att.v1", 1, &info->rank_v) < 0))
        return r->e->code;
    return 0;
}

static size_t dimension(const struct rwkv_info *i, char c)
{
    switch (c) {
    case 'C':
        return i->n_embd;
    case 'F':
        return i->n_ffn;
    case 'V':
        return i->n_vocab;
    case 'H':
        return i->n_head;
    case 'N':
        return i->head_size;
    case 'w':
        return i->rank_w;
    case 'a':
        return i->rank_a;
    case 'v':
        return i->rank_v;
    case 'g':
        return i->rank_g;
    default:
        return 0;
    }
}

/* ---- one tensor ------------------------------------------------------------------------------- */

static int check_shape(struct reader *r, const struct rwkv_spec *s, struct rwkv_source *src)
{
    char want[64];
    size_t rows, cols, fused = s->fused >= 0 && r->gguf ? N_MIX : 0;
    if (s->kind == SPEC_VECTOR) {
        size_t n = src->rows ? src->rows * src->cols : src->cols;
        if (fused && src->t->count == fused * n)
            return 0;
        bool flat = is_vector(src->t) && src->t->count == n;
        bool square = src->rows && shape_2d(src->t, &rows, &cols) && rows == src->rows &&
                      cols == src->cols;
        if (!fused && (flat || square))
            return 0;
        snprintf(want, sizeof want, fused ? "6 x [%zu]" : "[%zu]", n);
        return wrong_shape(r, src->t, want);
    }
    size_t want_rows = src->transposed ? src->cols : src->rows;
    size_t want_cols = src->transposed ? src->rows : src->cols;
    if (shape_2d(src->t, &rows, &cols) && rows == want_rows && cols == want_cols)
        return 0;
    snprintf(want, sizeof want, "[%zu, %zu]", want_rows, want_cols);
    return wrong_shape(r, src->t, want);
}

static int add_source(struct reader *r, struct rwkv_sources *l, const struct rwkv_spec *s, size_t layer)
{
    if (s->not_first && layer == 0)
        return 0;
    struct rwkv_source *src = &l->sources[l->n];
    src->t = find(r, s, layer);
    if (!src->t)
        return r->e->code;
    if (s->global)
        snprintf(src->name, sizeof src->name, "%s", s->name);
    else
        snprintf(src->name, sizeof src->name, "blocks.%zu.%s", layer, s->name);
    src->rows = dimension(r->info, s->rows);
    src->cols = dimension(r->info, s->cols);
    src->transposed = (s->kind == SPEC_DOWN || s->kind == SPEC_UP) && r->lora_by_rows;
    if (s->fused >= 0 && r->gguf)
        src->first = (size_t)s->fused * src->cols;
    l->specs[l->n] = s;
    l->layer_of[l->n] = layer;
    l->n++;
    return check_shape(r, s, src);
}

int rwkv__sources_read(struct rwkv_sources *l, const struct tensor_file *f, const char *path,
                     struct rwkv_info *info, struct err *e)
{
    struct reader r = {.f = f, .gguf = tensor_file_kind(f) == TENSOR_FILE_GGUF, .info = info, .e = e};
    if ((r.gguf && check_gguf(&r) < 0) || read_sizes(&r, path) < 0)
        return e->code;
    size_t most = COUNT(before) + info->n_layer * COUNT(layer_specs) + COUNT(after);
    l->sources = calloc(most, sizeof *l->sources);
    l->specs = calloc(most, sizeof *l->specs);
    l->layer_of = calloc(most, sizeof *l->layer_of);
    if (!l->sources || !l->specs || !l->layer_of)
        return err_set(e, ERR_NOMEM, "no memory for the names of %zu tensors", most);
    for (size_t i = 0; i < COUNT(before); i++)
        if (add_source(&r, l, &before[i], 0) < 0)
            return e->code;
    for (size_t layer = 0; layer < info->n_layer; layer++)
        for (size_t i = 0; i < COUNT(layer_specs); i++)
            if (add_source(&r, l, &layer_specs[i], layer) < 0)
                return e->code;
    for (size_t i = 0; i < COUNT(after); i++)
        if (add_source(&r, l, &after[i], 0) < 0)
            return e->code;
    info->has_time_state = tensor_file_find(f, "blocks.0.att.time_state") != NULL;
    return 0;
}

void rwkv__sources_fini(struct rwkv_sources *l)
{
    free(l->sources);
    free(l->specs);
    free(l->layer_of);
}
