/* Reader of .safetensors: u64 header length, JSON header, data.
 *
 * As the official library, it refuses a header of more than 100 MB, entries that overlap or leave a
 * hole, and sizes that do not match; unlike it, it accepts data at any alignment. */
#include "engine/tensor/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#define MAX_HEADER 100000000u /* bytes */

struct span {
    size_t begin, end; /* bytes from the start of the data */
    const char *name;
};

static int span_order(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* A non-negative integer that fits; what and name are for the message. */
static int read_size(const json_t *v, const char *shown, const char *what, size_t *out,
                     struct err *e)
{
    if (!json_is_integer(v))
        return err_set(e, ERR_FORMAT, "tensor %s: %s holds something other than an integer", shown,
                       what);
    json_int_t i = json_integer_value(v);
    if (i < 0)
        return err_set(e, ERR_FORMAT,
                       "tensor %s: %s holds %" JSON_INTEGER_FORMAT ", want 0 or more", shown, what,
                       i);
    *out = (size_t)i;
    return 0;
}

static int read_dtype(const json_t *v, const char *shown, enum dtype *out, struct err *e)
{
    static const enum dtype known[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64, DTYPE_I8,
                                       DTYPE_U8,  DTYPE_I16, DTYPE_I32,  DTYPE_I64, DTYPE_BOOL};
    char got[TENSOR_SHOWN];
    const char *s = json_string_value(v);
    if (!s)
        return err_set(e, ERR_FORMAT, "tensor %s: no dtype", shown);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(s, dtype_name(known[i]))) {
            *out = known[i];
            return 0;
        }
    return err_set(e, ERR_FORMAT,
                   "tensor %s: dtype %s, want one of F32 F16 BF16 F64 I8 U8 I16 I32 I64 BOOL",
                   shown, tensor__show(got, s, strlen(s)));
}

static int read_shape(const json_t *v, const char *shown, struct tensor *t, struct err *e)
{
    if (!json_is_array(v))
        return err_set(e, ERR_FORMAT, "tensor %s: no shape", shown);
    if (json_array_size(v) > TENSOR_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "tensor %s: %zu dimensions, want at most %d", shown,
                       json_array_size(v), TENSOR_MAX_DIMS);
    t->n_dims = (int)json_array_size(v);
    for (int i = 0; i < t->n_dims; i++)
        if (read_size(json_array_get(v, (size_t)i), shown, "shape", &t->shape[i], e) < 0)
            return ERR_FORMAT;
    return 0;
}

/* One entry of the header. data [n_data] is what follows the header. */
static int read_entry(struct tensor_file *f, const char *key, const json_t *v, const uint8_t *data,
                      size_t n_data, struct span *span, struct err *e)
{
    struct tensor t = {.data = data};
    char shown[TENSOR_SHOWN];
    tensor__show(shown, key, strlen(key));
    if (tensor__check_name(key, strlen(key), e) < 0)
        return ERR_FORMAT;
    if (!json_is_object(v))
        return err_set(e, ERR_FORMAT, "tensor %s: its entry is no object", shown);
    const json_t *o = json_object_get(v, "data_offsets");
    if (!json_is_array(o) || json_array_size(o) != 2)
        return err_set(e, ERR_FORMAT, "tensor %s: data_offsets is no pair of integers", shown);
    if (read_dtype(json_object_get(v, "dtype"), shown, &t.dtype, e) < 0 ||
        read_shape(json_object_get(v, "shape"), shown, &t, e) < 0 ||
        read_size(json_array_get(o, 0), shown, "data_offsets", &span->begin, e) < 0 ||
        read_size(json_array_get(o, 1), shown, "data_offsets", &span->end, e) < 0)
        return ERR_FORMAT;
    t.name = tensor__strndup(f, key, strlen(key));
    if (!t.name)
        return err_set(e, ERR_NOMEM, "no memory for the name of a tensor");
    if (tensor__measure(&t, e) < 0)
        return ERR_FORMAT;
    if (span->begin > span->end || span->end > n_data)
        return err_set(e, ERR_FORMAT,
                       "tensor %s: data_offsets %zu to %zu, the file has %zu bytes of data", shown,
                       span->begin, span->end, n_data);
    if (span->end - span->begin != t.bytes)
        return err_set(e, ERR_FORMAT, "tensor %s: %zu bytes of data, want %zu for its shape and %s",
                       shown, span->end - span->begin, t.bytes, dtype_name(t.dtype));
    t.data = data + span->begin;
    span->name = t.name;
    return tensor__add(f, &t, e);
}

static int read_metadata(struct tensor_file *f, json_t *meta, struct err *e)
{
    char shown[TENSOR_SHOWN];
    const char *key;
    json_t *v;
    if (!json_is_object(meta))
        return err_set(e, ERR_FORMAT, "__metadata__ is no object");
    json_object_foreach(meta, key, v)
    {
        if (!json_is_string(v))
            return err_set(e, ERR_FORMAT, "__metadata__: %s is no string",
                           tensor__show(shown, key, strlen(key)));
        size_t len = json_string_length(v);
        struct tensor_file_meta m = {.key = tensor__strndup(f, key, strlen(key)),
                                     .type = META_STR,
                                     .str = {tensor__strndup(f, json_string_value(v), len), len}};
        if (!m.key || !m.str.s)
            return err_set(e, ERR_NOMEM, "no memory for the metadata");
        int rc = tensor__add_meta(f, &m, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The spans must tile the data: sorted, each begins where the one before it ends. */
static int check_spans(struct span *s, size_t n, size_t n_data, struct err *e)
{
    char shown[TENSOR_SHOWN];
    size_t at = 0;
    if (n)
        qsort(s, n, sizeof *s, span_order);
    for (size_t i = 0; i < n; i++) {
        if (s[i].begin != at)
            return err_set(e, ERR_FORMAT,
                           "tensor %s: begins at byte %zu of the data, want %zu (%s)",
                           tensor__show(shown, s[i].name, strlen(s[i].name)), s[i].begin, at,
                           s[i].begin < at ? "it overlaps another" : "a hole is before it");
        at = s[i].end;
    }
    if (at != n_data)
        return err_set(e, ERR_FORMAT, "the tensors end at byte %zu of the data, which has %zu", at,
                       n_data);
    return 0;
}

static int read_header(struct tensor_file *f, json_t *root, const uint8_t *data, size_t n_data,
                       struct err *e)
{
    size_t n = 0, room = json_object_size(root);
    const char *key;
    json_t *v;
    int rc = 0;
    struct span *spans = calloc(room ? room : 1, sizeof *spans);
    if (!spans)
        return err_set(e, ERR_NOMEM, "no memory for a header of %zu tensors", room);
    json_object_foreach(root, key, v)
    {
        if (!strcmp(key, "__metadata__"))
            rc = read_metadata(f, v, e);
        else
            rc = read_entry(f, key, v, data, n_data, &spans[n++], e);
        if (rc < 0)
            goto out;
    }
    rc = check_spans(spans, n, n_data, e);
out:
    free(spans);
    return rc;
}

int tensor__read_safetensors(struct tensor_file *f, struct err *e)
{
    char shown[TENSOR_SHOWN];
    f->kind = TENSOR_FILE_SAFETENSORS;
    if (f->n < 8)
        return err_set(e, ERR_FORMAT, "no tensor file: it has %zu bytes", f->n);
    uint64_t len = load_u64(f->bytes);
    size_t most = f->limits.header < MAX_HEADER ? f->limits.header : MAX_HEADER;
    if (len > f->n - 8 || len > most)
        return err_set(
            e, ERR_FORMAT,
            "no .safetensors, .gguf or .pth file, or cut short: its first bytes read as a "
            "header of %" PRIu64 " bytes, %zu follow and %zu are allowed",
            len, f->n - 8, most);
    json_error_t je;
    json_t *root = json_loadb((const char *)f->bytes + 8, (size_t)len, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return err_set(e, ERR_FORMAT, "the safetensors header is no JSON: %s at byte %d",
                       tensor__show(shown, je.text, strlen(je.text)), je.position);
    int rc;
    if (json_is_object(root))
        rc = read_header(f, root, f->bytes + 8 + len, f->n - 8 - (size_t)len, e);
    else
        rc = err_set(e, ERR_FORMAT, "the safetensors header is no JSON object");
    json_decref(root);
    return rc;
}
