/* From a tensor file to a model. First every canonical tensor is found and its shape checked
 * (source.c), then memory is taken for what is really there, then the matrices go into panels on the pool; the embedding
 * stays in the file. */
#include "engine/rwkv/source.h"

#include "daemon/base/mem.h"

#include <sys/mman.h>

enum { CHUNK = 1024 };       /* elements converted at once: whole blocks of every type */
enum { RELEASE = 2 << 20 }; /* bytes of the file that stay in memory behind what is converted */
#define LARGE_PAGE ((size_t)2 << 20)

/* A matrix to be made in memory, in panels. */
struct conversion {
    const struct rwkv_source *s;
    bool transpose; /* the file has the other order */
    struct mat *dst;
    size_t offset; /* in the model's weights */
};

struct loader {
    struct rwkv_model *m;
    struct rwkv_sources found;
    struct conversion *conv;
    size_t n_conv;
    size_t vector_floats; /* used of m->vectors */
};

/* Types that weights of any other can be brought to, and those that stay as they are stored. */
static bool is_made(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_Q8_0 ||
           t == DTYPE_Q4_0;
}
static bool is_held(enum dtype t)
{
    return is_made(t) || t == DTYPE_Q4_K || t == DTYPE_Q5_K || t == DTYPE_Q6_K;
}

/* ---- conversion on the pool ------------------------------------------------------------------- */

/* The file's [cols, rows] becomes [rows, cols]; only the small low-rank matrices of plain types. */
static void convert_transposed(const struct conversion *c, int part, int parts)
{
    size_t rows = c->dst->rows, cols = c->dst->cols, lo, hi;
    pool_slice(rows, 1, part, parts, &lo, &hi);
    for (size_t o = lo; o < hi; o++)
        for (size_t k = 0; k < cols; k++) {
            float x;
            uint8_t made[sizeof x];
            rwkv__read_f32(c->s->t, k * rows + o, &x, 1);
            dtype_from_f32(c->dst->type, &x, made, 1);
            mat_put_blocks(c->dst, o, k, made, 1);
        }
}

/* Rows into panels, each panel by one thread; the file's are given back some MB behind. */
static void convert_panels(const struct tensor_file *f, const struct conversion *c, int part, int parts)
{
    float buf[CHUNK];
    uint8_t made[CHUNK * sizeof(float)];
    const struct mat *dst = c->dst;
    const size_t src_bytes = c->s->t->bytes / dst->rows; /* of a row */
    size_t lo, hi, len = dtype_block_len(dst->type);
    pool_slice(dst->rows, MAT_PANEL_ROWS, part, parts, &lo, &hi);
    for (size_t o = lo, kept = lo; o < hi; o++) {
        for (size_t k = 0; k < dst->cols; k += CHUNK) {
            size_t n = dst->cols - k < CHUNK ? dst->cols - k : CHUNK;
            const uint8_t *blocks = (const uint8_t *)c->s->t->data + o * dst->row_bytes +
                                    k / len * dtype_block_bytes(dst->type);
            if (dst->type != c->s->t->dtype) {
                rwkv__read_f32(c->s->t, o * dst->cols + k, buf, n);
                dtype_from_f32(dst->type, buf, made, n);
                blocks = made;
            }
            mat_put_blocks(dst, o, k / len, blocks, n / len);
        }
        if (o + 1 == hi || (o + 1 - kept) * src_bytes >= RELEASE) {
            tensor_file_release(f, (const uint8_t *)c->s->t->data + kept * src_bytes,
                                (o + 1 - kept) * src_bytes);
            kept = o + 1;
        }
    }
}

static void convert_part(void *ctx, int part, int parts)
{
    const struct loader *l = ctx;
    for (size_t i = 0; i < l->n_conv; i++) {
        const struct conversion *c = &l->conv[i];
        if (c->transpose)
            convert_transposed(c, part, parts);
        else
            convert_panels(l->m->file, c, part, parts);
    }
}

/* ---- placing ---------------------------------------------------------------------------------- */

static int set_matrix(struct loader *l, const struct rwkv_source *s, const struct rwkv_spec *spec,
                      const struct rwkv_options *o, struct mat *dst, struct err *e)
{
    bool lora = spec->kind == SPEC_DOWN || spec->kind == SPEC_UP;
    /* Low-rank matrices are canonically [in, out]: a product by rows wants them the other way. */
    bool transpose = lora && !s->transposed;
    enum dtype type = s->t->dtype;
    if (!is_held(type) && spec->kind != SPEC_EMBEDDING)
        type = DTYPE_F32;
    if (spec->kind == SPEC_MATRIX && o->weights_type >= 0)
        type = (enum dtype)o->weights_type;
    if (transpose && dtype_block_len(type) > 1)
        type = DTYPE_F32;
    *dst = (struct mat){.type = type, .rows = lora ? s->cols : s->rows,
                        .cols = lora ? s->rows : s->cols, .data = s->t->data,
                        .panels = spec->kind != SPEC_EMBEDDING};
    if (!dtype_bytes(type, dst->cols, &dst->row_bytes))
        return err_set(e, ERR_UNSUPPORTED, "tensor %s: rows of %zu cannot be held as %s (whole blocks of %zu)",
                       s->name, dst->cols, dtype_name(type), dtype_block_len(type));
    if (spec->kind == SPEC_EMBEDDING)
        return 0;
    size_t bytes;
    if (!mem_mul(dst->rows + MAT_PANEL_ROWS, dst->row_bytes, &bytes) || bytes > SIZE_MAX - 64 ||
        !mem_add(l->m->weights_bytes, (mat_data_bytes(dst) + 63) / 64 * 64, &bytes))
        return err_set(e, ERR_NOMEM, "tensor %s: too large", s->name);
    l->conv[l->n_conv++] =
        (struct conversion){.s = s, .transpose = transpose, .dst = dst,
                            .offset = l->m->weights_bytes};
    l->m->weights_bytes = bytes;
    return 0;
}

static const float *set_vector(struct loader *l, const struct rwkv_source *s)
{
    float *v = l->m->vectors + l->vector_floats;
    rwkv__read_f32(s->t, s->first, v, rwkv__source_count(s));
    l->vector_floats += mat_pad(rwkv__source_count(s));
    return v;
}

static int place_all(struct loader *l, const struct rwkv_options *o, struct err *e)
{
    struct rwkv_model *m = l->m;
    for (size_t i = 0; i < l->found.n; i++) {
        const struct rwkv_source *s = &l->found.sources[i];
        const struct rwkv_spec *spec = l->found.specs[i];
        char *base = spec->global ? (char *)m : (char *)&m->layers[l->found.layer_of[i]];
        void *field = base + spec->field;
        if (spec->kind == SPEC_VECTOR)
            *(const float **)field = set_vector(l, s);
        else if (set_matrix(l, s, spec, o, field, e) < 0)
            return e->code;
    }
    return 0;
}

/* The matrices' memory begins at a large page's boundary; the mapping before it is wasted. */
static int convert_all(struct loader *l, struct pool *pool, struct err *e)
{
    struct rwkv_model *m = l->m;
    size_t bytes;
    if (!mem_add(m->weights_bytes, LARGE_PAGE, &bytes))
        return err_set(e, ERR_NOMEM, "weights of %zu MB", m->weights_bytes >> 20);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, ERR_NOMEM, "no memory for %zu MB of weights", m->weights_bytes >> 20);
    m->mapping = p;
    m->mapping_bytes = bytes;
    uint8_t *weights = m->mapping + (LARGE_PAGE - (uintptr_t)p % LARGE_PAGE) % LARGE_PAGE;
    madvise(weights, m->weights_bytes, MADV_HUGEPAGE); /* where the system has none: small ones */
    for (size_t i = 0; i < l->n_conv; i++)
        l->conv[i].dst->data = weights + l->conv[i].offset;
    pool_run(pool, convert_part, l);
    if (mprotect(p, bytes, PROT_READ) < 0)
        return err_set(e, ERR_INTERNAL, "cannot protect the weights");
    return 0;
}

static size_t mat_bytes(const struct mat *m)
{
    return m->rows * m->row_bytes;
}

/* What one token reads: every matrix but the embedding, and the vectors. */
static void count_bytes(struct loader *l)
{
    struct rwkv_model *m = l->m;
    struct rwkv_info *info = &m->info;
    size_t bytes = mat_bytes(&m->head) + l->vector_floats * sizeof(float);
    for (size_t i = 0; i < info->n_layer; i++) {
        const struct rwkv_layer *y = &m->layers[i];
        bytes += mat_bytes(&y->receptance) + mat_bytes(&y->key) + mat_bytes(&y->value) +
                 mat_bytes(&y->output) + mat_bytes(&y->ffn_key) + mat_bytes(&y->ffn_value);
        for (int j = 0; j < N_LORA; j++)
            bytes += mat_bytes(&y->down[j]) + mat_bytes(&y->up[j]);
    }
    info->weight_bytes = bytes;
    info->weights_type = m->layers[0].key.type;
    m->weights = 1;
    for (size_t i = 0; i < l->found.n; i++) {
        const struct rwkv_source *s = &l->found.sources[i];
        size_t count = rwkv__source_count(s);
        info->n_params += count;
        if (l->found.specs[i]->kind != SPEC_EMBEDDING)
            m->weights += count;
        info->file_weight_bytes +=
            count / dtype_block_len(s->t->dtype) * dtype_block_bytes(s->t->dtype);
    }
}

static int load(struct loader *l, const struct rwkv_options *o, struct pool *pool, struct err *e)
{
    struct rwkv_model *m = l->m;
    size_t floats = 0;
    for (size_t i = 0; i < l->found.n; i++)
        if (l->found.specs[i]->kind == SPEC_VECTOR)
            floats += mat_pad(rwkv__source_count(&l->found.sources[i]));
    m->layers = calloc(m->info.n_layer, sizeof *m->layers);
    m->vectors = mem_calloc_aligned(floats, sizeof *m->vectors);
    l->conv = calloc(l->found.n, sizeof *l->conv);
    if (!m->layers || !m->vectors || !l->conv)
        return err_set(e, ERR_NOMEM, "no memory for the model's tables");
    if (place_all(l, o, e) < 0 || convert_all(l, pool, e) < 0)
        return e->code;
    count_bytes(l);
    return rwkv__fingerprint(m->file, l->found.sources, l->found.n, pool, m->info.fingerprint, e);
}

int rwkv_open(const char *path, const struct rwkv_options *o, struct pool *pool,
              struct rwkv_model **out, struct err *e)
{
    struct err local = {0};
    struct loader l = {0};
    e = e ? e : &local;
    if (o->weights_type >= 0 && !is_made((enum dtype)o->weights_type))
        return err_set_param(e, ERR_INVALID, "weights_type",
                             "weights cannot be made %s: want F32, F16, BF16, Q8_0 or Q4_0",
                             o->weights_type < DTYPE_COUNT ? dtype_name((enum dtype)o->weights_type)
                                                           : "that");
    int rc = -1;
    l.m = mem_calloc_aligned(1, sizeof *l.m);
    if (!l.m)
        return err_set(e, ERR_NOMEM, "no memory for a model");
    kern_init(&l.m->kern, o->cpu);
    if ((rc = tensor_file_open(path, &l.m->file, e)) < 0 ||
        (rc = rwkv__sources_read(&l.found, l.m->file, path, &l.m->info, e)) < 0 ||
        (rc = load(&l, o, pool, e)) < 0)
        goto out;
    *out = l.m;
    l.m = NULL;
out:
    rwkv__sources_fini(&l.found);
    free(l.conv);
    rwkv_close(l.m);
    return rc;
}

void rwkv_close(struct rwkv_model *m)
{
    if (!m)
        return;
    if (m->mapping)
        munmap(m->mapping, m->mapping_bytes);
    tensor_file_close(m->file);
    free(m->vectors);
    free(m->layers);
    free(m);
}

const struct rwkv_info *rwkv_get_info(const struct rwkv_model *m)
{
    return &m->info;
}

const struct kern *rwkv_get_kern(const struct rwkv_model *m)
{
    return &m->kern;
}

const struct tensor_file *rwkv_get_file(const struct rwkv_model *m)
{
    return m->file;
}
