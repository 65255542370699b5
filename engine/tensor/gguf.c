/* Reader of GGUF, versions 2 and 3, little-endian (the format that ggml's gguf.md describes):
 *
 *     "GGUF" | version u32 | tensors u64 | entries u64 | entries | tensor descriptions | padding |
 * data entry:       key string | type u32 | value        string: length u64, bytes description:
 * name string | n_dims u32 | dims u64 [n_dims], fastest first | type u32 | offset u64
 *
 * Offsets count from the data, which begins at a multiple of general.alignment (32 if absent).
 * Holes are allowed (padding), overlaps are not. */
#include "engine/tensor/file.h"

#include <inttypes.h>

enum value_type {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STR,
    V_ARRAY,
    V_U64,
    V_I64,
    V_F64,
    V_COUNT
};
/* bytes of a value; 0: it has its own length */
static const uint8_t value_bytes[V_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* ggml's numbers of the types that are read here. */
static const struct {
    uint32_t id;
    enum dtype dtype;
} type_ids[] = {
    {0, DTYPE_F32},   {1, DTYPE_F16},   {2, DTYPE_Q4_0},  {3, DTYPE_Q4_1},  {6, DTYPE_Q5_0},
    {7, DTYPE_Q5_1},  {8, DTYPE_Q8_0},  {10, DTYPE_Q2_K}, {11, DTYPE_Q3_K}, {12, DTYPE_Q4_K},
    {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K}, {24, DTYPE_I8},   {25, DTYPE_I16},  {26, DTYPE_I32},
    {27, DTYPE_I64},  {28, DTYPE_F64},  {30, DTYPE_BF16},
};
#define N_TYPE_IDS (sizeof type_ids / sizeof type_ids[0])

bool gguf__type_id(enum dtype t, uint32_t *id)
{
    for (size_t i = 0; i < N_TYPE_IDS; i++)
        if (type_ids[i].dtype == t) {
            *id = type_ids[i].id;
            return true;
        }
    return false;
}

static bool dtype_of_id(uint32_t id, enum dtype *t)
{
    for (size_t i = 0; i < N_TYPE_IDS; i++)
        if (type_ids[i].id == id) {
            *t = type_ids[i].dtype;
            return true;
        }
    return false;
}

struct reader {
    struct tensor_file *f;
    size_t at; /* <= f->n */
};

/* The next n bytes, or NULL past the end. */
static const uint8_t *next(struct reader *r, uint64_t n)
{
    if (n > r->f->n - r->at)
        return NULL;
    const uint8_t *p = r->f->bytes + r->at;
    r->at += (size_t)n;
    return p;
}

static bool next_u32(struct reader *r, uint32_t *v)
{
    const uint8_t *p = next(r, 4);
    *v = p ? load_u32(p) : 0;
    return p != NULL;
}

static bool next_u64(struct reader *r, uint64_t *v)
{
    const uint8_t *p = next(r, 8);
    *v = p ? load_u64(p) : 0;
    return p != NULL;
}

static int cut_short(const struct reader *r, const char *what, struct err *e)
{
    return err_set(e, ERR_FORMAT, "the GGUF file ends within %s: %zu bytes, of which %zu were read",
                   what, r->f->n, r->at);
}

/* A string of the file, copied with a NUL. */
static int next_str(struct reader *r, const char *what, struct tensor_str *out, struct err *e)
{
    uint64_t len;
    const uint8_t *p = next_u64(r, &len) ? next(r, len) : NULL;
    if (!p)
        return cut_short(r, what, e);
    *out = (struct tensor_str){tensor__strndup(r->f, (const char *)p, (size_t)len), (size_t)len};
    return out->s ? 0 : err_set(e, ERR_NOMEM, "no memory for %s", what);
}

/* The array's elements are 8 bytes of file or more, so the list is no more than twice the file. */
static int read_strings(struct reader *r, uint64_t n, struct tensor_file_meta *m, struct err *e)
{
    if (n > (r->f->n - r->at) / 8)
        return err_set(e, ERR_FORMAT,
                       "a GGUF array claims %" PRIu64 " strings, %zu bytes of the file are left", n,
                       r->f->n - r->at);
    struct tensor_str *s = tensor__alloc(r->f, (size_t)n * sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "no memory for an array of %" PRIu64 " strings", n);
    for (size_t i = 0; i < n; i++) {
        int rc = next_str(r, "an array of strings", &s[i], e);
        if (rc < 0)
            return rc;
    }
    m->type = META_STR_ARRAY;
    m->strs = s;
    m->n_strs = (size_t)n;
    return 0;
}

static int read_array(struct reader *r, struct tensor_file_meta *m, struct err *e)
{
    uint32_t type;
    uint64_t n;
    if (!next_u32(r, &type) || !next_u64(r, &n))
        return cut_short(r, "an array", e);
    if (type == V_STR)
        return read_strings(r, n, m, e);
    if (type >= V_COUNT || !value_bytes[type])
        return err_set(e, ERR_FORMAT,
                       "a GGUF array has elements of type %u, want 0 to 12 without 9", type);
    if (n > (r->f->n - r->at) / value_bytes[type])
        return err_set(e, ERR_FORMAT,
                       "a GGUF array claims %" PRIu64 " elements, %zu bytes of the file are left",
                       n, r->f->n - r->at);
    next(r, n * value_bytes[type]);
    return 0;
}

/* A negative integer keeps META_OTHER: it is neither a u64 nor a f64. */
static void set_integer(struct tensor_file_meta *m, int64_t v)
{
    if (v >= 0) {
        m->type = META_U64;
        m->u64 = (uint64_t)v;
    }
}

static void set_number(struct tensor_file_meta *m, enum value_type type, const uint8_t *p)
{
    float f;
    switch (type) {
    case V_U8:
    case V_BOOL:
        set_integer(m, p[0]);
        break;
    case V_I8:
        set_integer(m, (int8_t)p[0]);
        break;
    case V_U16:
        set_integer(m, load_u16(p));
        break;
    case V_I16:
        set_integer(m, (int16_t)load_u16(p));
        break;
    case V_U32:
        set_integer(m, load_u32(p));
        break;
    case V_I32:
        set_integer(m, (int32_t)load_u32(p));
        break;
    case V_I64:
        set_integer(m, (int64_t)load_u64(p));
        break;
    case V_U64:
        m->type = META_U64;
        m->u64 = load_u64(p);
        break;
    case V_F32:
        memcpy(&f, p, sizeof f);
        m->type = META_F64;
        m->f64 = (double)f;
        break;
    default:
        memcpy(&m->f64, p, sizeof m->f64);
        m->type = META_F64;
    }
}

static int read_entry(struct reader *r, struct err *e)
{
    struct tensor_file_meta m = {.type = META_OTHER};
    struct tensor_str key;
    uint32_t type;
    int rc = next_str(r, "a metadata key", &key, e);
    if (rc < 0)
        return rc;
    if (!key.len || strlen(key.s) != key.len)
        return err_set(e, ERR_FORMAT, "a GGUF metadata key is empty or holds a NUL");
    m.key = key.s;
    m.raw = r->f->bytes + r->at;
    if (!next_u32(r, &type))
        return cut_short(r, "the metadata", e);
    char shown[TENSOR_SHOWN];
    if (type >= V_COUNT)
        rc = err_set(e, ERR_FORMAT, "its type is %u, want 0 to 12", type);
    else if (type == V_ARRAY)
        rc = read_array(r, &m, e);
    else if (type == V_STR) {
        m.type = META_STR;
        rc = next_str(r, "a metadata string", &m.str, e);
    } else {
        const uint8_t *p = next(r, value_bytes[type]);
        if (p)
            set_number(&m, type, p);
        else
            rc = cut_short(r, "the metadata", e);
    }
    if (rc < 0 && e)
        err_prefix(e, "metadata key %s", tensor__show(shown, key.s, key.len));
    m.n_raw = (size_t)(r->f->bytes + r->at - m.raw);
    return rc < 0 ? rc : tensor__add_meta(r->f, &m, e);
}

/* t->data is left at the start of the file; offset is checked later, when the data's start is
 * known. */
static int read_description(struct reader *r, uint64_t *offset, struct err *e)
{
    char shown[TENSOR_SHOWN];
    struct tensor t = {.data = r->f->bytes};
    struct tensor_str name;
    uint32_t n_dims, type;
    uint64_t dim;
    int rc = next_str(r, "the name of a tensor", &name, e);
    if (rc == 0)
        rc = tensor__check_name(name.s, name.len, e);
    if (rc < 0)
        return rc;
    t.name = name.s;
    tensor__show(shown, name.s, name.len);
    if (!next_u32(r, &n_dims))
        return cut_short(r, "the description of a tensor", e);
    if (n_dims > TENSOR_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "tensor %s: %u dimensions, want at most %d", shown, n_dims,
                       TENSOR_MAX_DIMS);
    t.n_dims = (int)n_dims;
    for (int i = t.n_dims - 1; i >= 0; i--) {
        if (!next_u64(r, &dim))
            return cut_short(r, "the description of a tensor", e);
        t.shape[i] = (size_t)dim;
    }
    if (!next_u32(r, &type) || !next_u64(r, offset))
        return cut_short(r, "the description of a tensor", e);
    if (!dtype_of_id(type, &t.dtype))
        return err_set(
            e, ERR_FORMAT,
            "tensor %s: ggml type %u is not supported, want F32, F16, BF16, F64, an I type, Q4_0 "
            "to Q8_0 or Q2_K to Q6_K",
            shown, type);
    rc = tensor__measure(&t, e);
    return rc < 0 ? rc : tensor__add(r->f, &t, e);
}

struct span {
    const uint8_t *begin, *end;
    const char *name;
};

static int span_order(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int refuse_overlaps(const struct tensor_file *f, struct err *e)
{
    char shown[TENSOR_SHOWN];
    int rc = 0;
    struct span *s = calloc(f->n_tensors ? f->n_tensors : 1, sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "no memory for %zu tensors", f->n_tensors);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct tensor *t = &f->tensors[i];
        s[i] = (struct span){t->data, (const uint8_t *)t->data + t->bytes, t->name};
    }
    qsort(s, f->n_tensors, sizeof *s, span_order);
    for (size_t i = 1; rc == 0 && i < f->n_tensors; i++)
        if (s[i].begin < s[i - 1].end)
            rc = err_set(e, ERR_FORMAT, "tensor %s: its data overlaps that of another",
                         tensor__show(shown, s[i].name, strlen(s[i].name)));
    free(s);
    return rc;
}

/* Points every tensor at its data, which begins at the next multiple of `align` and ends with the
 * file. */
static int place(struct reader *r, const uint64_t *offsets, size_t align, struct err *e)
{
    struct tensor_file *f = r->f;
    size_t pad = -r->at & (align - 1);
    size_t start = pad <= f->n - r->at ? r->at + pad : f->n;
    char shown[TENSOR_SHOWN];
    for (size_t i = 0; i < f->n_tensors; i++) {
        struct tensor *t = &f->tensors[i];
        tensor__show(shown, t->name, strlen(t->name));
        if (offsets[i] & (align - 1))
            return err_set(e, ERR_FORMAT, "tensor %s: offset %" PRIu64 ", want a multiple of %zu",
                           shown, offsets[i], align);
        if (offsets[i] > f->n - start || t->bytes > f->n - start - offsets[i])
            return err_set(e, ERR_FORMAT,
                           "tensor %s: %zu bytes at offset %" PRIu64
                           ", the file has %zu bytes of data",
                           shown, t->bytes, offsets[i], f->n - start);
        t->data = f->bytes + start + offsets[i];
    }
    return refuse_overlaps(f, e);
}

static int read_alignment(const struct tensor_file *f, size_t *align, struct err *e)
{
    uint64_t v;
    *align = 32;
    if (!tensor_file_meta_u64(f, "general.alignment", &v))
        return 0;
    if (!v || (v & (v - 1)) || v > 1u << 20)
        return err_set(e, ERR_FORMAT,
                       "general.alignment is %" PRIu64 ", want a power of two up to 2^20", v);
    *align = (size_t)v;
    return 0;
}

/* The smallest entry and description have 13 and 24 bytes: claimed counts are held against that
 * first. */
static int read_counts(struct reader *r, uint64_t *n_tensors, uint64_t *n_meta, struct err *e)
{
    uint32_t version;
    next(r, 4);
    if (!next_u32(r, &version) || !next_u64(r, n_tensors) || !next_u64(r, n_meta))
        return cut_short(r, "its header", e);
    if (version != 2 && version != 3)
        return err_set(e, ERR_FORMAT, "GGUF version %u%s, want 2 or 3 (little-endian)", version,
                       version == 2u << 24 || version == 3u << 24 ? " reads as big-endian" : "");
    size_t left = r->f->n - r->at;
    if (*n_meta > left / 13 || *n_tensors > left / 24)
        return err_set(e, ERR_FORMAT,
                       "the GGUF header claims %" PRIu64 " metadata entries and %" PRIu64
                       " tensors, %zu bytes of the file are left",
                       *n_meta, *n_tensors, left);
    return 0;
}

int tensor__read_gguf(struct tensor_file *f, struct err *e)
{
    struct reader r = {.f = f};
    uint64_t n_tensors = 0, n_meta = 0, *offsets = NULL;
    size_t align = 32;
    f->kind = TENSOR_FILE_GGUF;
    int rc = read_counts(&r, &n_tensors, &n_meta, e);
    for (uint64_t i = 0; rc == 0 && i < n_meta; i++)
        rc = read_entry(&r, e);
    if (rc == 0)
        rc = tensor__index_meta(f, e);
    if (rc == 0)
        rc = read_alignment(f, &align, e);
    if (rc < 0)
        return rc;
    offsets = calloc(n_tensors ? (size_t)n_tensors : 1, sizeof *offsets);
    if (!offsets)
        return err_set(e, ERR_NOMEM, "no memory for %" PRIu64 " tensors", n_tensors);
    for (size_t i = 0; rc == 0 && i < n_tensors; i++)
        rc = read_description(&r, &offsets[i], e);
    if (rc == 0)
        rc = place(&r, offsets, align, e);
    free(offsets);
    return rc;
}
