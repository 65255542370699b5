/* Every canonical tensor (source.c) becomes one of the new file, but for the six mixes, which become one,
 * and layer 0's value residual, which nothing reads and llama.cpp wants: a copy of the rates'. First all
 * names, shapes and types, so that the header can be written; then band by band the rows. */
#include "engine/rwkv/gguf.h"

#include "daemon/base/mem.h"
#include "engine/rwkv/source.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BAND_BYTES = 4 << 20,
    CHUNK = 1024
}; /* rows brought at once; elements: whole blocks of all types */

/* A tensor of the new file: rows of `cols` elements. */
struct piece {
    const struct rwkv_source *s; /* the first of n_sources, one a row if there are more than one */
    size_t n_sources, rows, cols, row_bytes;
    bool gather; /* rows of the new file are columns of the old */
    char name[64];
};

struct maker {
    const struct tensor_file *f;
    const struct rwkv_gguf *o;
    struct rwkv_sources found;
    struct rwkv_info info;
    struct piece *pieces;
    struct tensor *tensors; /* [n], without data */
    size_t n;
    struct tensor_meta *meta;
    size_t n_meta;
    struct err *e;
};

/* ---- which tensors ---------------------------------------------------------------------------- */

static bool is_plain(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

static enum dtype type_of(const struct maker *m, const struct rwkv_spec *spec,
                          const struct rwkv_source *s)
{
    enum dtype t = m->o->type;
    switch (spec->kind) {
    case SPEC_VECTOR:
        return DTYPE_F32;
    case SPEC_DOWN:
    case SPEC_UP:
        return is_plain(s->t->dtype) ? s->t->dtype : DTYPE_F32;
    default:
        if (t == DTYPE_Q4_0 && spec->global && spec->kind == SPEC_MATRIX)
            t = DTYPE_Q8_0;
        return s->cols % dtype_block_len(t) ? DTYPE_F16 : t;
    }
}

/* "blk.N." and the name in a GGUF; `a` to `v` for the copies. */
static void name_piece(struct piece *p, const struct rwkv_spec *spec, size_t layer, bool copy)
{
    static const char rates[] = "time_mix_a";
    if (spec->global)
        snprintf(p->name, sizeof p->name, "%s", spec->gguf);
    else
        snprintf(p->name, sizeof p->name, "blk.%zu.%s", layer, spec->gguf);
    char *at = copy ? strstr(p->name, rates) : NULL;
    if (at)
        at[strlen(rates) - 1] = 'v';
}

static int add_piece(struct maker *m, size_t i, size_t n_sources, bool copy)
{
    const struct rwkv_spec *spec = m->found.specs[i];
    const struct rwkv_source *s = &m->found.sources[i];
    struct piece *p = &m->pieces[m->n];
    struct tensor *t = &m->tensors[m->n];
    bool lora = spec->kind == SPEC_DOWN || spec->kind == SPEC_UP;
    *p = (struct piece){.s = s, .n_sources = n_sources, .gather = lora && !s->transposed};
    p->rows = lora ? s->cols : spec->kind == SPEC_VECTOR ? n_sources : s->rows;
    p->cols = lora ? s->rows : spec->kind == SPEC_VECTOR ? rwkv__source_count(s) : s->cols;
    name_piece(p, spec, m->found.layer_of[i], copy);
    *t = (struct tensor){.name = p->name, .dtype = type_of(m, spec, s)};
    if (spec->kind != SPEC_VECTOR) {
        t->n_dims = 2;
        t->shape[0] = p->rows, t->shape[1] = p->cols;
    } else if (n_sources > 1) {
        t->n_dims = 4;
        t->shape[0] = p->rows, t->shape[1] = t->shape[2] = 1, t->shape[3] = p->cols;
    } else {
        t->n_dims = 1;
        t->shape[0] = p->cols;
    }
    if (!dtype_bytes(t->dtype, p->cols, &p->row_bytes) ||
        !mem_mul(p->rows, p->row_bytes, &t->bytes))
        return err_set(m->e, ERR_NOMEM, "tensor %s: too large", p->name);
    m->n++;
    return 0;
}

static int add_pieces(struct maker *m)
{
    size_t n = m->found.n;
    m->pieces = calloc(n + 3, sizeof *m->pieces);
    m->tensors = calloc(n + 3, sizeof *m->tensors);
    if (!m->pieces || !m->tensors)
        return err_set(m->e, ERR_NOMEM, "no memory for the names of %zu tensors", n);
    int rc = 0;
    for (size_t i = 0, mixed; rc == 0 && i < n; i += mixed) {
        const struct rwkv_spec *spec = m->found.specs[i];
        mixed = spec->fused == 0 ? N_MIX : 1; /* they stand one after another */
        rc = add_piece(m, i, mixed, false);
        if (rc == 0 && !spec->global && m->found.layer_of[i] == 0 &&
            !strncmp(spec->gguf, "time_mix_a", 10))
            rc = add_piece(m, i, 1, true);
    }
    return rc;
}

/* ---- what the file says of itself ------------------------------------------------------------- */

static void add_meta(struct maker *m, struct tensor_meta x)
{
    for (size_t i = 0; i < m->n_meta; i++)
        if (!strcmp(m->meta[i].key, x.key))
            return;
    m->meta[m->n_meta++] = x;
}

static void add_u32(struct maker *m, const char *key, size_t v)
{
    add_meta(m, (struct tensor_meta){.key = key, .type = TENSOR_META_U32, .u32 = (uint32_t)v});
}

/* llama.cpp's number of a kind of file. */
static uint32_t file_type(enum dtype t)
{
    return t == DTYPE_F32 ? 0 : t == DTYPE_F16 ? 1 : t == DTYPE_Q4_0 ? 2 : t == DTYPE_Q8_0 ? 7 : 32;
}

static void copy_meta(struct maker *m)
{
    static const char alignment[] = "general.alignment"; /* the writer's own */
    for (size_t i = 0; i < tensor_file_meta_count(m->f); i++) {
        struct tensor_meta x = {.key = tensor_file_meta_key(m->f, i), .type = TENSOR_META_RAW};
        x.raw = tensor_file_meta_raw(m->f, i, &x.n);
        if (x.raw && strcmp(x.key, alignment))
            add_meta(m, x);
    }
}

static int add_all_meta(struct maker *m)
{
    const struct rwkv_info *i = &m->info;
    m->meta = calloc(tensor_file_meta_count(m->f) + m->o->n_meta + 20, sizeof *m->meta);
    if (!m->meta)
        return err_set(m->e, ERR_NOMEM, "no memory for the metadata");
    add_u32(m, "general.file_type", file_type(m->o->type));
    if (dtype_block_len(m->o->type) > 1)
        add_u32(m, "general.quantization_version", 2);
    copy_meta(m);
    add_meta(m, (struct tensor_meta){
                    .key = "general.architecture", .type = TENSOR_META_STR, .str = "rwkv7"});
    add_meta(
        m, (struct tensor_meta){.key = "general.name", .type = TENSOR_META_STR, .str = m->o->name});
    add_u32(m, "rwkv7.context_length", 1048576);
    add_u32(m, "rwkv7.embedding_length", i->n_embd);
    add_u32(m, "rwkv7.block_count", i->n_layer);
    add_u32(m, "rwkv7.feed_forward_length", i->n_ffn);
    add_u32(m, "rwkv7.attention.head_count", 0);
    add_u32(m, "rwkv7.wkv.head_size", i->head_size);
    add_u32(m, "rwkv7.attention.decay_lora_rank", i->rank_w);
    add_u32(m, "rwkv7.attention.iclr_lora_rank", i->rank_a);
    add_u32(m, "rwkv7.attention.value_residual_mix_lora_rank", i->rank_v);
    add_u32(m, "rwkv7.attention.gate_lora_rank", i->rank_g);
    add_meta(m, (struct tensor_meta){.key = "rwkv7.attention.layer_norm_epsilon",
                                     .type = TENSOR_META_F32,
                                     .f32 = 1e-5f});
    for (size_t k = 0; k < m->o->n_meta; k++)
        add_meta(m, m->o->meta[k]);
    return 0;
}

/* ---- rows ------------------------------------------------------------------------------------- */

struct band {
    const struct piece *p;
    enum dtype type;
    size_t first, n; /* rows */
    uint8_t *out;    /* [n, p->row_bytes] */
    atomic_bool bad; /* some number is beyond the type */
};

/* Elements [at, at + n) of row o, n whole blocks. */
static void read_row(const struct piece *p, size_t o, size_t at, float *to, size_t n)
{
    const struct rwkv_source *s = p->n_sources > 1 ? &p->s[o] : p->s;
    if (p->gather)
        for (size_t i = 0; i < n; i++)
            rwkv__read_f32(s->t, (at + i) * p->rows + o, to + i, 1);
    else
        rwkv__read_f32(s->t, s->first + (p->n_sources > 1 ? 0 : o * p->cols) + at, to, n);
}

/* The largest magnitude that a type holds: of blocks, the largest scale times the largest integer. */
static float largest(enum dtype t)
{
    const float half = 65504;
    return t == DTYPE_F16    ? half
           : t == DTYPE_Q8_0 ? 127 * half
           : t == DTYPE_Q4_0 ? 8 * half
           : t == DTYPE_BF16 ? 0x1.fep127f
                             : FLT_MAX;
}

static void make_rows(void *ctx, int part, int parts)
{
    struct band *b = ctx;
    const struct piece *p = b->p;
    const float most = largest(b->type);
    float buf[CHUNK];
    size_t lo, hi;
    pool_slice(b->n, 1, part, parts, &lo, &hi);
    for (size_t o = lo; o < hi; o++) {
        uint8_t *to = b->out + o * p->row_bytes;
        for (size_t at = 0, n, bytes = 0; at < p->cols; at += n, to += bytes) {
            bool good = true;
            n = p->cols - at < CHUNK ? p->cols - at : CHUNK;
            read_row(p, b->first + o, at, buf, n);
            for (size_t i = 0; i < n; i++)
                good &= fabsf(buf[i]) <= most;
            if (!good)
                atomic_store(&b->bad, true);
            dtype_from_f32(b->type, buf, to, n);
            dtype_bytes(b->type, n, &bytes);
        }
    }
}

static int write_piece(struct maker *m, size_t i, struct gguf_out *w, uint8_t *band,
                       struct pool *pool)
{
    const struct piece *p = &m->pieces[i];
    const struct tensor *from = p->s->t;
    struct band b = {.p = p, .type = m->tensors[i].dtype, .out = band};
    if (b.type == from->dtype && !p->gather && p->n_sources == 1 && !p->s->first)
        return gguf_out_put(w, from->data, m->tensors[i].bytes, m->e);
    size_t rows = p->row_bytes < BAND_BYTES ? BAND_BYTES / p->row_bytes : 1;
    int rc = 0;
    for (; rc == 0 && b.first < p->rows; b.first += b.n) {
        b.n = p->rows - b.first < rows ? p->rows - b.first : rows;
        pool_run(pool, make_rows, &b);
        rc = atomic_load(&b.bad) ? err_set(m->e, ERR_NOT_FINITE,
                                           "tensor %s: a number that is not finite, or beyond %s",
                                           p->name, dtype_name(b.type))
                                 : gguf_out_put(w, band, b.n * p->row_bytes, m->e);
    }
    return rc;
}

static int write_all(struct maker *m, const char *path, struct pool *pool,
                     struct rwkv_gguf_sizes *sizes)
{
    struct gguf_out w;
    size_t band_bytes = BAND_BYTES;
    *sizes = (struct rwkv_gguf_sizes){.tensors = m->n};
    for (size_t i = 0; i < m->n; i++) {
        band_bytes = m->pieces[i].row_bytes > band_bytes ? m->pieces[i].row_bytes : band_bytes;
        sizes->to_bytes += m->tensors[i].bytes;
    }
    for (size_t i = 0; i < m->found.n; i++) {
        const struct rwkv_source *s = &m->found.sources[i];
        sizes->from_bytes +=
            rwkv__source_count(s) / dtype_block_len(s->t->dtype) * dtype_block_bytes(s->t->dtype);
    }
    uint8_t *band = malloc(band_bytes);
    if (!band)
        return err_set(m->e, ERR_NOMEM, "no memory for %zu bytes of rows", band_bytes);
    int rc = gguf_out_open(&w, path, m->tensors, m->n, m->meta, m->n_meta, m->e);
    for (size_t i = 0; rc == 0 && i < m->n; i++)
        rc = write_piece(m, i, &w, band, pool);
    rc = gguf_out_close(&w, rc, m->e);
    free(band);
    return rc;
}

int rwkv_gguf_write(const struct tensor_file *f, const char *f_path, const char *path,
                    const struct rwkv_gguf *o, struct pool *pool, struct rwkv_gguf_sizes *sizes,
                    struct err *e)
{
    struct err local = {0};
    struct maker m = {.f = f, .o = o, .e = e ? e : &local};
    int rc = is_plain(o->type) || o->type == DTYPE_Q8_0 || o->type == DTYPE_Q4_0
                 ? rwkv__sources_read(&m.found, f, f_path, &m.info, m.e)
                 : err_set(m.e, ERR_UNSUPPORTED,
                           "nothing here makes %s: want Q8_0, Q4_0, F16, BF16 or F32",
                           dtype_name(o->type));
    if (rc == 0)
        rc = add_pieces(&m);
    if (rc == 0)
        rc = add_all_meta(&m);
    if (rc == 0)
        rc = write_all(&m, path, pool, sizes);
    rwkv__sources_fini(&m.found);
    free(m.pieces);
    free(m.tensors);
    free(m.meta);
    return rc;
}
