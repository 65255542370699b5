/* Reader of .pth, the zip form that torch.save writes since 1.6:
 *
 *     <any>/data.pkl   the pickle: containers, numbers, and tensors described by storage, offset,
 *                      shape and strides
 *     <any>/data/<key> the bytes of one storage, little-endian
 *
 * Names: keys of nested containers joined with '.', list positions as numbers. If the outermost
 * dictionary has a dictionary under "state_dict", that one alone is read and its name is left out
 * (training checkpoints keep the optimiser and more beside it). A file of one tensor names it
 * "tensor". Whatever is no tensor is passed over.
 *
 * Contiguous tensors stay where they lie in the file; others are copied into order, which may take
 * at most twice the file's (inflated) size in all: an expanded scalar cannot claim more. */
#include "engine/tensor/pickle.h"
#include "engine/tensor/zip.h"

#include <inttypes.h>
#include <stdio.h>

#define MAX_PICKLE ((size_t)64 << 20) /* bytes */
#define MAX_DEPTH  32                 /* of containers */
#define SLACK      65536u             /* bytes of copies that any file may cause */

struct walker {
    struct tensor_file *f;
    struct zip zip;
    const char *folder; /* of data.pkl, with its '/'; not terminated */
    size_t folder_len;
    size_t copied; /* bytes of tensors that were not contiguous */
    char name[TENSOR_MAX_NAME + 1];
    size_t name_len;
    int depth;
    struct err *e;
};

/* The member <folder>/<a><b>; NULL if absent. */
static struct zip_member *member(const struct walker *w, const char *a, struct tensor_str b)
{
    char path[512];
    size_t n = strlen(a);
    if (w->folder_len + n + b.len > sizeof path)
        return NULL;
    memcpy(path, w->folder, w->folder_len);
    memcpy(path + w->folder_len, a, n);
    memcpy(path + w->folder_len + n, b.s, b.len);
    return zip_find(&w->zip, path, w->folder_len + n + b.len);
}

/* The one "<folder>/data.pkl" with a folder of one level. */
static struct zip_member *find_pickle(struct walker *w)
{
    static const char tail[] = "/data.pkl";
    const size_t n = sizeof tail - 1;
    struct zip_member *found = NULL;
    for (size_t i = 0; i < w->zip.n_members; i++) {
        struct zip_member *m = &w->zip.members[i];
        const char *slash = memchr(m->name, '/', m->name_len);
        if (!slash || m->name + m->name_len - slash != (ptrdiff_t)n || memcmp(slash, tail, n))
            continue;
        if (found)
            return NULL;
        found = m;
        w->folder = m->name;
        w->folder_len = m->name_len - n + 1;
    }
    return found;
}

static int check_byte_order(struct walker *w)
{
    struct zip_member *m = member(w, "byteorder", (struct tensor_str){"", 0});
    if (!m)
        return 0;
    int rc = zip_read(&w->zip, m, &w->f->mem, w->e);
    if (rc == 0 && (m->size != 6 || memcmp(m->data, "little", 6)))
        rc = err_set(w->e, ERR_FORMAT, "the .pth was written big-endian, want little-endian");
    return rc;
}

/* t->shape and t->n_dims are set; strides of dimensions of one element do not matter. */
static bool is_contiguous(const struct tensor *t, const uint64_t *stride)
{
    size_t want = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && stride[i] != want)
            return false;
        want *= t->shape[i];
    }
    return true;
}

/* Elements in row-major order, size bytes each, to out; the bounds were checked. */
static void gather(const struct tensor *t, const uint64_t *stride, const uint8_t *from, size_t size,
                   uint8_t *out)
{
    size_t index[TENSOR_MAX_DIMS] = {0};
    size_t at = 0, inner = t->shape[t->n_dims - 1], step = stride[t->n_dims - 1];
    for (size_t done = 0; done < t->count; done += inner) {
        for (size_t i = 0; i < inner; i++, out += size)
            memcpy(out, from + (at + i * step) * size, size);
        for (int d = t->n_dims - 2; d >= 0; d--) {
            at += stride[d];
            if (++index[d] < t->shape[d])
                break;
            at -= stride[d] * t->shape[d];
            index[d] = 0;
        }
    }
}

static int copy_strided(struct walker *w, const struct pickle_tensor *p, const uint8_t *from,
                        struct tensor *t, const char *shown)
{
    size_t limit;
    if (!mem_add(w->f->n, w->zip.inflated, &limit) || !mem_mul(limit, 2, &limit) ||
        !mem_add(limit, SLACK, &limit))
        limit = SIZE_MAX;
    if (t->bytes > limit - w->copied)
        return err_set(w->e, ERR_FORMAT,
                       "tensor %s: its strides spread the storage over %zu bytes, more than the "
                       "file accounts for",
                       shown, t->bytes);
    uint8_t *out = tensor__alloc(w->f, t->bytes);
    if (!out)
        return err_set(w->e, ERR_NOMEM, "tensor %s: no memory for %zu bytes", shown, t->bytes);
    w->copied += t->bytes;
    gather(t, p->stride, from, dtype_block_bytes(t->dtype), out);
    t->data = out;
    return 0;
}

/* The last element that is touched; false on overflow. The count is not 0. */
static bool last_element(const struct pickle_tensor *p, uint64_t *last)
{
    *last = p->offset;
    for (int i = 0; i < p->n_dims; i++) {
        uint64_t reach;
        if (__builtin_mul_overflow(p->shape[i] - 1, p->stride[i], &reach) ||
            __builtin_add_overflow(*last, reach, last))
            return false;
    }
    return true;
}

/* Loads the storage and points t->data into it, or at a copy in order. */
static int place(struct walker *w, const struct pickle_tensor *p, struct tensor *t,
                 const char *shown)
{
    const struct pickle_storage *s = p->storage;
    char key[TENSOR_SHOWN];
    tensor__show(key, s->key.s, s->key.len);
    struct zip_member *m = member(w, "data/", s->key);
    if (!m)
        return err_set(w->e, ERR_FORMAT, "tensor %s: its storage %s is not in the file", shown,
                       key);
    size_t size = dtype_block_bytes(s->dtype), bytes;
    if (!mem_mul(s->numel, size, &bytes) || bytes != m->size)
        return err_set(w->e, ERR_FORMAT,
                       "tensor %s: storage %s has %zu bytes, want %" PRIu64 " elements of %s",
                       shown, key, m->size, s->numel, dtype_name(s->dtype));
    int rc = zip_read(&w->zip, m, &w->f->mem, w->e);
    if (rc < 0)
        return rc;
    if (!t->count) {
        t->data = m->data;
        return 0;
    }
    uint64_t last;
    if (!last_element(p, &last) || last >= s->numel)
        return err_set(w->e, ERR_FORMAT,
                       "tensor %s: offset %" PRIu64
                       ", shape and strides reach past its storage of %" PRIu64 " elements",
                       shown, p->offset, s->numel);
    t->data = m->data + p->offset * size;
    if (is_contiguous(t, p->stride))
        return 0;
    return copy_strided(w, p, t->data, t, shown);
}

static int add_tensor(struct walker *w, const struct pickle_tensor *p)
{
    const char *name = w->name_len ? w->name : "tensor";
    struct tensor t = {.dtype = p->storage->dtype, .n_dims = p->n_dims};
    char shown[TENSOR_SHOWN];
    int rc = tensor__check_name(name, strlen(name), w->e);
    if (rc == 0 && w->name_len != strlen(w->name))
        rc = err_set(w->e, ERR_FORMAT, "a tensor's name holds a NUL");
    if (rc < 0)
        return rc;
    for (int i = 0; i < p->n_dims; i++)
        t.shape[i] = p->shape[i];
    t.name = tensor__strndup(w->f, name, strlen(name));
    if (!t.name)
        return err_set(w->e, ERR_NOMEM, "no memory for the name of a tensor");
    rc = tensor__measure(&t, w->e);
    if (rc == 0)
        rc = place(w, p, &t, tensor__show(shown, name, strlen(name)));
    return rc < 0 ? rc : tensor__add(w->f, &t, w->e);
}

static int walk(struct walker *w, struct pickle_value *v);

/* Walks v under a name one part longer. */
static int walk_under(struct walker *w, const char *part, size_t len, struct pickle_value *v)
{
    char shown[TENSOR_SHOWN];
    size_t before = w->name_len, dot = before != 0;
    if (v->type != PICKLE_TENSOR && v->type != PICKLE_LIST && v->type != PICKLE_DICT)
        return 0;
    if (len > TENSOR_MAX_NAME || before + dot + len > TENSOR_MAX_NAME)
        return err_set(w->e, ERR_FORMAT, "a name of more than %d bytes, ending in %s",
                       TENSOR_MAX_NAME, tensor__show(shown, part, len));
    if (dot)
        w->name[before] = '.';
    memcpy(w->name + before + dot, part, len);
    w->name_len = before + dot + len;
    w->name[w->name_len] = 0;
    int rc = walk(w, v);
    w->name_len = before;
    w->name[before] = 0;
    return rc;
}

static int walk_number(struct walker *w, int64_t i, struct pickle_value *v)
{
    char part[24];
    int n = snprintf(part, sizeof part, "%" PRId64, i);
    return walk_under(w, part, (size_t)n, v);
}

static int walk_items(struct walker *w, struct pickle_value *v)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && v->type == PICKLE_LIST && i < v->list.n; i++)
        rc = walk_number(w, (int64_t)i, v->list.at[i]);
    for (size_t i = 0; rc == 0 && v->type == PICKLE_DICT && i < v->list.n; i += 2) {
        const struct pickle_value *key = v->list.at[i];
        struct pickle_value *item = v->list.at[i + 1];
        if (key->type == PICKLE_STR)
            rc = walk_under(w, key->str.s, key->str.len, item);
        else if (key->type == PICKLE_INT)
            rc = walk_number(w, key->i, item);
        else if (item->type == PICKLE_TENSOR || item->type == PICKLE_LIST ||
                 item->type == PICKLE_DICT)
            rc = err_set(w->e, ERR_FORMAT, "a key in %s is neither a string nor an integer",
                         w->name_len ? w->name : "the outermost dictionary");
    }
    return rc;
}

/* A container is walked once, so the work is bounded by the pickle's length. Meeting one again is
 * fine while it holds no tensor (shared options); with tensors, their names would be doubled
 * without end. */
static int walk(struct walker *w, struct pickle_value *v)
{
    char shown[TENSOR_SHOWN];
    if (v->type == PICKLE_TENSOR)
        return add_tensor(w, v->tensor);
    if ((v->type != PICKLE_LIST && v->type != PICKLE_DICT) || v->walk == WALK_PLAIN)
        return 0;
    if (v->walk != WALK_NEW || w->depth == MAX_DEPTH)
        return err_set(w->e, ERR_FORMAT, "the container %s %s",
                       tensor__show(shown, w->name, w->name_len),
                       v->walk == WALK_NEW   ? "is nested more than 32 deep"
                       : v->walk == WALK_NOW ? "contains itself"
                                             : "holds tensors and appears twice");
    size_t before = w->f->n_tensors;
    v->walk = WALK_NOW;
    w->depth++;
    int rc = walk_items(w, v);
    w->depth--;
    v->walk = w->f->n_tensors > before ? WALK_TENSORS : WALK_PLAIN;
    return rc;
}

static struct pickle_value *without_wrapper(struct pickle_value *root)
{
    for (size_t i = 0; root->type == PICKLE_DICT && i < root->list.n; i += 2) {
        const struct pickle_value *key = root->list.at[i];
        if (key->type == PICKLE_STR && key->str.len == 10 &&
            !memcmp(key->str.s, "state_dict", 10) && root->list.at[i + 1]->type == PICKLE_DICT)
            return root->list.at[i + 1];
    }
    return root;
}

int tensor__read_pth(struct tensor_file *f, struct err *e)
{
    struct err own = {0};
    struct walker w = {.f = f, .e = e ? e : &own};
    struct tensor_mem values = {0};
    struct pickle_value *root = NULL;
    struct zip_member *m = NULL;
    f->kind = TENSOR_FILE_PTH;
    int rc = zip_init(&w.zip, f->bytes, f->n, w.e);
    if (w.zip.max_inflated > f->limits.inflated)
        w.zip.max_inflated = f->limits.inflated;
    if (rc == 0 && !(m = find_pickle(&w)))
        rc = err_set(w.e, ERR_FORMAT,
                     "the zip file is no .pth: it has no (or several) <folder>/data.pkl");
    if (rc == 0 && m->size > MAX_PICKLE)
        rc = err_set(w.e, ERR_FORMAT, "the pickle has %zu bytes, want at most %zu", m->size,
                     MAX_PICKLE);
    if (rc == 0)
        rc = check_byte_order(&w);
    if (rc == 0)
        rc = zip_read(&w.zip, m, &f->mem, w.e);
    if (rc == 0)
        rc = pickle_load(m->data, m->size, &values, &root, w.e);
    if (rc == 0)
        rc = walk(&w, without_wrapper(root));
    tensor_mem_free(&values);
    zip_fini(&w.zip);
    return rc;
}
