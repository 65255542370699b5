/* Writer of .safetensors. The header lists the tensors in the caller's order; the data has those of
 * the widest elements first, so that all are aligned, and the header is padded to 8 bytes. */
#include "engine/tensor/file.h"
#include "engine/tensor/write_draft.h"
#include "engine/tensor/write_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct layout {
    struct buf header; /* JSON */
    size_t pad, total; /* total: bytes of the data */
    size_t *order;     /* [n] of the data; malloc'd */
    size_t *begin;     /* [n] where each tensor's begins; malloc'd */
};

/* For json_dump_callback, which does not heed every failed write: the buffer remembers them. */
static int put_header(const char *p, size_t n, void *header)
{
    return buf_append(header, p, n);
}

/* Stable: by element size, descending (8, 4, 2, 1 bytes). */
static void order_by_width(const struct tensor *t, size_t n, size_t *order)
{
    size_t at = 0;
    for (size_t width = 8; width; width /= 2)
        for (size_t i = 0; i < n; i++)
            if (dtype_block_bytes(t[i].dtype) == width)
                order[at++] = i;
}

static int put_metadata(json_t *root, const struct tensor_meta *meta, size_t n, struct err *e)
{
    json_t *o = n ? json_object() : NULL;
    for (size_t i = 0; i < n; i++) {
        if (meta[i].type != TENSOR_META_STR || json_object_get(o, meta[i].key) ||
            json_object_set_new(o, meta[i].key, json_string(meta[i].str)) < 0) {
            json_decref(o);
            return err_set(e, ERR_INVALID,
                           "safetensors metadata %zu: want a key of its own and a UTF-8 string", i);
        }
    }
    if (o && json_object_set_new(root, "__metadata__", o) < 0)
        return err_set(e, ERR_NOMEM, "no memory for a safetensors header");
    return 0;
}

static int check_one(const struct tensor *t, struct err *e)
{
    char shown[TENSOR_SHOWN];
    int rc = tensor__check_output(t, e);
    if (rc == 0 && dtype_block_len(t->dtype) != 1)
        rc = err_set(e, ERR_INVALID, "tensor %s: a safetensors file cannot hold %s",
                     tensor__show(shown, t->name, strlen(t->name)), dtype_name(t->dtype));
    return rc;
}

static int put_entry(json_t *root, const struct tensor *t, size_t begin, struct err *e)
{
    char shown[TENSOR_SHOWN];
    int rc = 0;
    if (!strcmp(t->name, "__metadata__") || json_object_get(root, t->name))
        return err_set(e, ERR_INVALID, "tensor %s: its name is taken",
                       tensor__show(shown, t->name, strlen(t->name)));
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims; i++)
        if (json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) < 0)
            rc = ERR_NOMEM;
    json_t *v = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                          "data_offsets", (json_int_t)begin, (json_int_t)(begin + t->bytes));
    if (rc < 0 || !v || json_object_set(root, t->name, v) < 0)
        rc = err_set(e, ERR_NOMEM, "no memory for a safetensors header");
    json_decref(v);
    return rc;
}

static int lay_out(struct layout *l, const struct tensor *t, size_t n,
                   const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    *l = (struct layout){.order = calloc(n ? n : 1, sizeof *l->order),
                         .begin = calloc(n ? n : 1, sizeof *l->begin)};
    buf_init(&l->header, SIZE_MAX / 2);
    json_t *root = json_object();
    int rc = 0;
    if (!l->order || !l->begin || !root)
        rc = err_set(e, ERR_NOMEM, "no memory for a safetensors header");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = check_one(&t[i], e);
    if (rc == 0) {
        order_by_width(t, n, l->order);
        rc = put_metadata(root, meta, n_meta, e);
    }
    for (size_t i = 0; rc == 0 && i < n; i++) {
        l->begin[l->order[i]] = l->total;
        l->total += t[l->order[i]].bytes;
    }
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = put_entry(root, &t[i], l->begin[i], e);
    if (rc == 0 &&
        (json_dump_callback(root, put_header, &l->header, JSON_COMPACT) < 0 || l->header.failed))
        rc = err_set(e, ERR_NOMEM, "no memory for a safetensors header");
    l->pad = -l->header.len & 7;
    json_decref(root);
    return rc;
}

static void layout_free(struct layout *l)
{
    buf_fini(&l->header);
    free(l->order);
    free(l->begin);
}

int safetensors_pack(struct buf *out, const struct tensor *tensors, size_t n,
                     const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    struct layout l;
    int rc = lay_out(&l, tensors, n, meta, n_meta, e);
    if (rc == 0) {
        uint64_t len = l.header.len + l.pad;
        buf_append(out, &len, sizeof len);
        buf_append(out, l.header.data, l.header.len);
        buf_append(out, "        ", l.pad);
        for (size_t i = 0; i < n; i++)
            buf_append(out, tensors[l.order[i]].data, tensors[l.order[i]].bytes);
        if (out->failed)
            rc = err_set(e, ERR_NOMEM, "no room for a safetensors file in memory");
    }
    layout_free(&l);
    return rc;
}

int safetensors_write(const char *path, const struct tensor *tensors, size_t n,
                      const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    struct new_file w;
    struct layout l;
    int rc = lay_out(&l, tensors, n, meta, n_meta, e);
    if (rc == 0) {
        uint64_t len = l.header.len + l.pad;
        rc = new_file_open(&w, path, e);
        if (rc == 0)
            rc = new_file_put(&w, &len, sizeof len, e);
        if (rc == 0)
            rc = new_file_put(&w, l.header.data, l.header.len, e);
        if (rc == 0)
            rc = new_file_put(&w, "        ", l.pad, e);
        for (size_t i = 0; rc == 0 && i < n; i++)
            rc = new_file_put(&w, tensors[l.order[i]].data, tensors[l.order[i]].bytes, e);
        rc = new_file_close(&w, rc, e);
    }
    layout_free(&l);
    return rc;
}

/* ---- drafts ---- */

static int fail_draft(const struct tensor_draft *d, int why, struct err *e)
{
    return err_set(e, why == ENOSPC || why == EDQUOT ? ERR_STORAGE_FULL : ERR_IO,
                   "%zu bytes to be filled: %s", d->bytes, strerror(why));
}

static int map_draft(struct tensor_draft *d, struct err *e)
{
    d->map = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
    return d->map != MAP_FAILED ? 0 : fail_draft(d, errno, e);
}

/* Where the header's text begins in the map, and the data behind it. */
static char *draft_header(const struct tensor_draft *d)
{
    return (char *)d->map + sizeof(uint64_t);
}

static char *draft_data(const struct tensor_draft *d, const struct layout *l, size_t i)
{
    return draft_header(d) + l->header.len + l->pad + l->begin[i];
}

/* Is the mapped file one of this header, with these bytes of the tensors that have some? */
static bool goes_on(const struct tensor_draft *d, const struct layout *l, const struct tensor *t,
                    size_t n)
{
    const uint64_t len = l->header.len + l->pad;
    bool same = !memcmp(d->map, &len, sizeof len) &&
                !memcmp(draft_header(d), l->header.data, l->header.len);
    for (size_t i = 0; same && i < n; i++)
        same = !t[i].data || !memcmp(draft_data(d, l, i), t[i].data, t[i].bytes);
    return same;
}

static int begin_draft(struct tensor_draft *d, const struct layout *l, const struct tensor *t,
                       size_t n, struct err *e)
{
    const uint64_t len = l->header.len + l->pad;
    if (d->map != MAP_FAILED)
        munmap(d->map, d->bytes);
    d->map = MAP_FAILED;
    int why = ftruncate(d->fd, 0) < 0 ? errno : 0;
    if (!why) /* rather now than as a signal later */
        why = posix_fallocate(d->fd, 0, (off_t)d->bytes);
    if (why)
        return fail_draft(d, why, e);
    if (map_draft(d, e) < 0)
        return e->code;
    memcpy(d->map, &len, sizeof len);
    memcpy(draft_header(d), l->header.data, l->header.len);
    memset(draft_header(d) + l->header.len, ' ', l->pad);
    for (size_t i = 0; i < n; i++)
        if (t[i].data)
            memcpy(draft_data(d, l, i), t[i].data, t[i].bytes);
    return 0;
}

static int open_part(struct tensor_draft *d, const char *path, struct err *e)
{
    if (!(d->path = strdup(path)) || asprintf(&d->part, "%s.part", path) < 0) {
        d->part = NULL;
        return err_set(e, ERR_NOMEM, "no memory for a file to be filled");
    }
    d->fd = open(d->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (d->fd < 0)
        return fail_draft(d, errno, e);
    if (flock(d->fd, LOCK_EX | LOCK_NB) < 0) {
        close(d->fd);
        d->fd = -1; /* so that it is not removed either */
        return err_set(e, ERR_IO, "another process is filling this file");
    }
    return 0;
}

int tensor_draft_open(struct tensor_draft *d, const char *path, const struct tensor *tensors,
                      size_t n, const struct tensor_meta *meta, size_t n_meta, struct err *e)
{
    struct layout l;
    struct stat st;
    *d = TENSOR_DRAFT_NONE;
    int rc = lay_out(&l, tensors, n, meta, n_meta, e);
    if (rc == 0 && n > TENSOR_DRAFT_MAX)
        rc = err_set(e, ERR_INVALID, "%zu tensors to be filled", n);
    if (rc == 0) {
        d->bytes = sizeof(uint64_t) + l.header.len + l.pad + l.total;
        rc = open_part(d, path, e);
    }
    if (rc == 0 && fstat(d->fd, &st) == 0 && (uint64_t)st.st_size == d->bytes)
        rc = map_draft(d, e);
    if (rc == 0 && (d->map == MAP_FAILED || !goes_on(d, &l, tensors, n)))
        rc = begin_draft(d, &l, tensors, n, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        d->data[i] = draft_data(d, &l, i);
    layout_free(&l);
    return rc;
}

int tensor_draft_close(struct tensor_draft *d, int rc, bool keep, struct err *e)
{
    if (d->map != MAP_FAILED)
        munmap(d->map, d->bytes);
    if (rc == 0 && (fsync(d->fd) < 0 || rename(d->part, d->path) < 0))
        rc = fail_draft(d, errno, e);
    if (rc < 0 && d->fd >= 0 && !keep)
        unlink(d->part);
    if (d->fd >= 0)
        close(d->fd);
    if (rc == 0)
        rc = tensor__sync_folder(d->path, e);
    free(d->path);
    free(d->part);
    return rc;
}
