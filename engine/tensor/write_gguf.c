/* Writer of GGUF version 3, little-endian; data begins and each tensor ends at a multiple of 32. */
#include "engine/tensor/file.h"
#include "engine/tensor/write.h"
#include "engine/tensor/write_file.h"

#include <stdint.h>

#define ALIGN      32u
#define MAX_DIMS   4  /* ggml's own limit */
#define MAX_NAME   63 /* bytes; ggml's own limit */
#define MAX_HEADER (1u << 30)

enum { V_U32 = 4, V_I32 = 5, V_F32 = 6, V_STR = 8, V_ARRAY = 9 };

static void put_u32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, sizeof v);
}

static void put_u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof v);
}

static void put_str(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_puts(b, s);
}

static void put_entry(struct buf *b, const struct tensor_meta *m)
{
    put_str(b, m->key);
    switch (m->type) {
    case TENSOR_META_STR:
        put_u32(b, V_STR);
        put_str(b, m->str);
        break;
    case TENSOR_META_U32:
        put_u32(b, V_U32);
        put_u32(b, m->u32);
        break;
    case TENSOR_META_F32:
        put_u32(b, V_F32);
        buf_append(b, &m->f32, sizeof m->f32);
        break;
    case TENSOR_META_STR_ARRAY:
        put_u32(b, V_ARRAY);
        put_u32(b, V_STR);
        put_u64(b, m->n);
        for (size_t i = 0; i < m->n; i++)
            put_str(b, m->strs[i]);
        break;
    case TENSOR_META_I32_ARRAY:
        put_u32(b, V_ARRAY);
        put_u32(b, V_I32);
        put_u64(b, m->n);
        buf_append(b, m->i32s, m->n * sizeof *m->i32s);
        break;
    case TENSOR_META_RAW:
        buf_append(b, m->raw, m->n);
        break;
    }
}

static int put_description(struct buf *b, const struct tensor *t, uint64_t offset, struct err *e)
{
    char shown[TENSOR_SHOWN];
    uint32_t id;
    int rc = tensor__check_output(t, e);
    if (rc < 0)
        return rc;
    tensor__show(shown, t->name, strlen(t->name));
    if (!gguf__type_id(t->dtype, &id))
        return err_set(e, ERR_INVALID, "tensor %s: a GGUF file cannot hold %s", shown,
                       dtype_name(t->dtype));
    if (t->n_dims > MAX_DIMS || strlen(t->name) > MAX_NAME)
        return err_set(e, ERR_INVALID,
                       "tensor %s: a GGUF file holds at most %d dimensions and names of %d bytes",
                       shown, MAX_DIMS, MAX_NAME);
    put_str(b, t->name);
    put_u32(b, (uint32_t)t->n_dims);
    for (int i = t->n_dims - 1; i >= 0; i--)
        put_u64(b, t->shape[i]);
    put_u32(b, id);
    put_u64(b, offset);
    return 0;
}

static int string_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* names [n] is sorted in place. */
static int refuse_twins(const char **names, size_t n, const char *what, struct err *e)
{
    char shown[TENSOR_SHOWN];
    qsort(names, n, sizeof *names, string_order);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            return err_set(e, ERR_INVALID, "two %s are named %s", what,
                           tensor__show(shown, names[i], strlen(names[i])));
    return 0;
}

static int check_names(const struct tensor *t, size_t n, const struct tensor_meta *meta,
                       size_t n_meta, struct err *e)
{
    size_t most = n > n_meta ? n : n_meta;
    const char **names = calloc(most ? most : 1, sizeof *names);
    if (!names)
        return err_set(e, ERR_NOMEM, "no memory for %zu names", most);
    for (size_t i = 0; i < n; i++)
        names[i] = t[i].name;
    int rc = refuse_twins(names, n, "tensors", e);
    for (size_t i = 0; i < n_meta; i++)
        names[i] = meta[i].key;
    if (rc == 0)
        rc = refuse_twins(names, n_meta, "metadata entries", e);
    free(names);
    return rc;
}

static int put_header(struct buf *b, const struct tensor *t, size_t n,
                      const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    static const char zero[ALIGN];
    uint64_t offset = 0;
    int rc = check_names(t, n, meta, n_meta, e);
    buf_puts(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n);
    put_u64(b, n_meta);
    for (size_t i = 0; i < n_meta; i++)
        put_entry(b, &meta[i]);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = put_description(b, &t[i], offset, e);
        offset += (t[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    buf_append(b, zero, -b->len & (ALIGN - 1));
    if (rc == 0 && b->failed)
        rc = err_set(e, ERR_NOMEM, "no memory for a GGUF header");
    return rc;
}

int gguf_out_open(struct gguf_out *w, const char *path, const struct tensor *tensors, size_t n,
                  const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    struct buf head;
    *w = (struct gguf_out){.tensors = tensors, .n = n};
    buf_init(&head, MAX_HEADER);
    int rc = put_header(&head, tensors, n, meta, n_meta, e);
    if (rc == 0 && !(w->file = malloc(sizeof *w->file)))
        rc = err_set(e, ERR_NOMEM, "no memory to write a file");
    if (rc == 0)
        rc = new_file_open(w->file, path, e);
    if (rc == 0)
        rc = new_file_put(w->file, head.data, head.len, e);
    buf_fini(&head);
    return rc;
}

int gguf_out_put(struct gguf_out *w, const void *bytes, size_t n, struct err *e)
{
    static const char zero[ALIGN];
    const char *p = bytes;
    int rc = 0;
    while (rc == 0 && n) {
        if (w->at == w->n)
            return err_set(e, ERR_INVALID, "more bytes than the GGUF file's tensors have");
        size_t whole = w->tensors[w->at].bytes, left = whole - w->done, part = n < left ? n : left;
        rc = new_file_put(w->file, p, part, e);
        p += part, n -= part, w->done += part;
        if (rc == 0 && w->done == whole) {
            rc = new_file_put(w->file, zero, -whole & (ALIGN - 1), e);
            w->at++, w->done = 0;
        }
    }
    return rc;
}

int gguf_out_close(struct gguf_out *w, int rc, struct err *e)
{
    while (rc == 0 && w->at < w->n && !w->done && !w->tensors[w->at].bytes)
        w->at++;
    if (rc == 0 && w->at < w->n)
        rc = err_set(e, ERR_INVALID, "fewer bytes than the GGUF file's tensors have");
    if (w->file)
        rc = new_file_close(w->file, rc, e);
    free(w->file);
    return rc;
}

int gguf_write(const char *path, const struct tensor *tensors, size_t n,
               const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    struct gguf_out w;
    int rc = gguf_out_open(&w, path, tensors, n, meta, n_meta, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = gguf_out_put(&w, tensors[i].data, tensors[i].bytes, e);
    return gguf_out_close(&w, rc, e);
}
