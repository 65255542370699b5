/* Opening a tensor file, and what all its readers share. */
#include "engine/tensor/file.h"

#include "daemon/base/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read in place");

#define BLOCK_BYTES 65536u

/* Those of the readers themselves. */
static const struct tensor_limits no_limits = {SIZE_MAX, SIZE_MAX};

struct tensor_block {
    struct tensor_block *next;
    size_t used, cap; /* bytes of data */
    _Alignas(64) uint8_t data[];
};

void *tensor_mem_take(struct tensor_mem *m, size_t n, size_t align)
{
    struct tensor_block *b = m->blocks;
    size_t at = b ? (b->used + align - 1) & ~(align - 1) : 0;
    if (n > SIZE_MAX / 2)
        return NULL;
    if (b && at <= b->cap && b->cap - at >= n) {
        b->used = at + n;
        return b->data + at;
    }
    bool large = n > BLOCK_BYTES / 4;
    size_t cap = large ? (n + 63) & ~(size_t)63 : BLOCK_BYTES;
    struct tensor_block *fresh = aligned_alloc(64, sizeof *fresh + cap);
    if (!fresh)
        return NULL;
    *fresh = (struct tensor_block){.used = n, .cap = cap};
    /* A large piece has its block for itself, behind the one that is still being filled. */
    struct tensor_block **link = large && b ? &b->next : &m->blocks;
    fresh->next = *link;
    *link = fresh;
    return fresh->data;
}

void tensor_mem_free(struct tensor_mem *m)
{
    while (m->blocks) {
        struct tensor_block *next = m->blocks->next;
        free(m->blocks);
        m->blocks = next;
    }
}

void *tensor__alloc(struct tensor_file *f, size_t n)
{
    return tensor_mem_take(&f->mem, n, 64);
}

char *tensor__strndup(struct tensor_file *f, const char *s, size_t len)
{
    char *p = len < SIZE_MAX ? tensor_mem_take(&f->mem, len + 1, 1) : NULL;
    if (!p)
        return NULL;
    if (len)
        memcpy(p, s, len);
    p[len] = 0;
    return p;
}

/* Room for one more element of an array that doubles; NULL without memory. */
static void *grown(void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    size_t want = *cap ? 2 * *cap : 16, bytes;
    void *q = mem_mul(want, size, &bytes) ? realloc(p, bytes) : NULL;
    if (q)
        *cap = want;
    return q;
}

int tensor__add(struct tensor_file *f, const struct tensor *t, struct err *e)
{
    struct tensor *p = grown(f->tensors, f->n_tensors, &f->cap_tensors, sizeof *p);
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    f->tensors = p;
    p[f->n_tensors++] = *t;
    return 0;
}

int tensor__add_meta(struct tensor_file *f, const struct tensor_file_meta *m, struct err *e)
{
    struct tensor_file_meta *p = grown(f->meta, f->n_meta, &f->cap_meta, sizeof *p);
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory for the metadata");
    f->meta = p;
    p[f->n_meta++] = *m;
    return 0;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct tensor_file_meta *)a)->key,
                  ((const struct tensor_file_meta *)b)->key);
}

int tensor__index_meta(struct tensor_file *f, struct err *e)
{
    char shown[TENSOR_SHOWN];
    if (f->n_meta)
        qsort(f->meta, f->n_meta, sizeof *f->meta, by_key);
    for (size_t i = 1; i < f->n_meta; i++)
        if (!strcmp(f->meta[i - 1].key, f->meta[i].key))
            return err_set(e, ERR_FORMAT, "metadata key %s appears twice",
                           tensor__show(shown, f->meta[i].key, strlen(f->meta[i].key)));
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

int tensor__index(struct tensor_file *f, struct err *e)
{
    char shown[TENSOR_SHOWN];
    f->by_name = tensor__alloc(f, f->n_tensors * sizeof *f->by_name);
    if (!f->by_name)
        return err_set(e, ERR_NOMEM, "no memory for the index of tensors");
    for (size_t i = 0; i < f->n_tensors; i++)
        f->by_name[i] = &f->tensors[i];
    qsort(f->by_name, f->n_tensors, sizeof *f->by_name, by_name);
    for (size_t i = 1; i < f->n_tensors; i++)
        if (!strcmp(f->by_name[i - 1]->name, f->by_name[i]->name))
            return err_set(e, ERR_FORMAT, "two tensors are named %s",
                           tensor__show(shown, f->by_name[i]->name, strlen(f->by_name[i]->name)));
    return 0;
}

/* Length of the UTF-8 sequence at s (n bytes are left), 0 if it is malformed: overlong forms,
 * surrogates and code points past U+10FFFF count as malformed. */
static size_t utf8_len(const uint8_t *s, size_t n)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80)
        return 1;
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 0;
    if (!len || len > n || s[0] >= 0xf8)
        return 0;
    uint32_t c = s[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    return c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : len;
}

const char *tensor__show(char out[TENSOR_SHOWN], const char *s, size_t len)
{
    size_t o = 0, i = 0;
    out[o++] = '\'';
    while (i < len) {
        size_t k = utf8_len((const uint8_t *)s + i, len - i);
        bool plain = k && (uint8_t)s[i] >= 0x20 && s[i] != 0x7f;
        size_t step = k ? k : 1;
        if (o + step > TENSOR_SHOWN - 6)
            break;
        if (plain)
            memcpy(out + o, s + i, k);
        else
            memset(out + o, '?', step);
        o += step;
        i += step;
    }
    const char *end = i < len ? "...'" : "'";
    memcpy(out + o, end, strlen(end) + 1);
    return out;
}

int tensor__check_name(const char *s, size_t len, struct err *e)
{
    char shown[TENSOR_SHOWN];
    if (!len || len > TENSOR_MAX_NAME)
        return err_set(e, ERR_FORMAT, "tensor name %s has %zu bytes, want 1 to %d",
                       tensor__show(shown, s, len), len, TENSOR_MAX_NAME);
    for (size_t i = 0; i < len;) {
        size_t k = utf8_len((const uint8_t *)s + i, len - i);
        if (!k || !s[i])
            return err_set(e, ERR_FORMAT, "tensor name %s is not UTF-8 text",
                           tensor__show(shown, s, len));
        i += k;
    }
    return 0;
}

int tensor__measure(struct tensor *t, struct err *e)
{
    char shown[TENSOR_SHOWN];
    tensor__show(shown, t->name, strlen(t->name));
    t->count = 1;
    for (int i = 0; i < t->n_dims; i++)
        if (!mem_mul(t->count, t->shape[i], &t->count))
            return err_set(e, ERR_FORMAT, "tensor %s: the product of its shape overflows", shown);
    size_t block = dtype_block_len(t->dtype);
    size_t row = t->n_dims ? t->shape[t->n_dims - 1] : 1;
    if (row % block)
        return err_set(e, ERR_FORMAT,
                       "tensor %s: rows of %zu elements, want a multiple of %zu for %s", shown, row,
                       block, dtype_name(t->dtype));
    if (!dtype_bytes(t->dtype, t->count, &t->bytes))
        return err_set(e, ERR_FORMAT, "tensor %s: the size of %zu elements overflows", shown,
                       t->count);
    return 0;
}

/* The formats cannot be confused: a safetensors file has '{' at byte 8 and a length that fits. */
static int read_any(struct tensor_file *f, struct err *e)
{
    static const uint8_t legacy[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46};
    const uint8_t *p = f->bytes;
    bool header = f->n > 8 && p[8] == '{' && load_u64(p) <= f->n - 8;
    if (f->n >= 4 && !header && !memcmp(p, "GGUF", 4))
        return tensor__read_gguf(f, e);
    if (f->n >= 4 && !header && !memcmp(p, "PK\3\4", 4))
        return tensor__read_pth(f, e);
    if (f->n >= sizeof legacy && !memcmp(p, legacy, sizeof legacy))
        return err_set(e, ERR_FORMAT,
                       "a .pth of the old form without a zip container: save it again with torch "
                       "1.6 or later");
    return tensor__read_safetensors(f, e);
}

static int open_over(struct tensor_file *f, struct tensor_file **out, struct err *e)
{
    int rc = read_any(f, e);
    if (rc == 0)
        rc = tensor__index_meta(f, e);
    if (rc == 0)
        rc = tensor__index(f, e);
    if (rc < 0) {
        tensor_file_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

int tensor_file_open_memory(const void *bytes, size_t n, struct tensor_file **out, struct err *e)
{
    return tensor_file_open_limited(bytes, n, &no_limits, out, e);
}

int tensor_file_open_limited(const void *bytes, size_t n, const struct tensor_limits *limits,
                             struct tensor_file **out, struct err *e)
{
    *out = NULL;
    struct tensor_file *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(e, ERR_NOMEM, "no memory to open a tensor file");
    f->bytes = n ? bytes : (const void *)"";
    f->n = n;
    f->limits = *limits;
    return open_over(f, out, e);
}

int tensor_file_open(const char *path, struct tensor_file **out, struct err *e)
{
    *out = NULL;
    int rc = 0;
    struct stat st;
    void *map = NULL;
    struct tensor_file *f = calloc(1, sizeof *f);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (!f)
        rc = err_set(e, ERR_NOMEM, "no memory to open a tensor file");
    else if (fd < 0 || fstat(fd, &st) < 0)
        rc = err_set(e, ERR_IO, "cannot open the file: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set(e, ERR_IO, "not a regular file");
    else if (st.st_size > 0 &&
             (map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        rc = err_set(e, ERR_IO, "cannot map the file: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    if (rc < 0) {
        free(f);
        return rc;
    }
    f->map = map;
    f->bytes = map ? map : (const void *)"";
    f->n = (size_t)st.st_size;
    f->limits = no_limits;
    return open_over(f, out, e);
}

void tensor_file_close(struct tensor_file *f)
{
    if (!f)
        return;
    tensor_mem_free(&f->mem);
    if (f->map)
        munmap(f->map, f->n);
    free(f->tensors);
    free(f->meta);
    free(f);
}

enum tensor_file_kind tensor_file_kind(const struct tensor_file *f)
{
    return f->kind;
}

size_t tensor_file_count(const struct tensor_file *f)
{
    return f->n_tensors;
}

const struct tensor *tensor_file_get(const struct tensor_file *f, size_t i)
{
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

static int name_against(const void *key, const void *item)
{
    return strcmp(key, (*(const struct tensor *const *)item)->name);
}

const struct tensor *tensor_file_find(const struct tensor_file *f, const char *name)
{
    const struct tensor *const *p =
        bsearch(name, f->by_name, f->n_tensors, sizeof *f->by_name, name_against);
    return p ? *p : NULL;
}

static const struct tensor_file_meta *find_meta(const struct tensor_file *f, const char *key,
                                                int type)
{
    struct tensor_file_meta want = {.key = key};
    const struct tensor_file_meta *m =
        f->n_meta ? bsearch(&want, f->meta, f->n_meta, sizeof *f->meta, by_key) : NULL;
    return m && (int)m->type == type ? m : NULL;
}

bool tensor_file_meta_u64(const struct tensor_file *f, const char *key, uint64_t *out)
{
    const struct tensor_file_meta *m = find_meta(f, key, META_U64);
    if (m)
        *out = m->u64;
    return m != NULL;
}

bool tensor_file_meta_f64(const struct tensor_file *f, const char *key, double *out)
{
    const struct tensor_file_meta *m = find_meta(f, key, META_F64);
    if (m)
        *out = m->f64;
    return m != NULL;
}

const char *tensor_file_meta_str(const struct tensor_file *f, const char *key, size_t *len)
{
    const struct tensor_file_meta *m = find_meta(f, key, META_STR);
    if (m && len)
        *len = m->str.len;
    return m ? m->str.s : NULL;
}

bool tensor_file_meta_str_array(const struct tensor_file *f, const char *key, size_t *count)
{
    const struct tensor_file_meta *m = find_meta(f, key, META_STR_ARRAY);
    if (m)
        *count = m->n_strs;
    return m != NULL;
}

const char *tensor_file_meta_str_at(const struct tensor_file *f, const char *key, size_t i,
                                    size_t *len)
{
    const struct tensor_file_meta *m = find_meta(f, key, META_STR_ARRAY);
    if (!m || i >= m->n_strs)
        return NULL;
    if (len)
        *len = m->strs[i].len;
    return m->strs[i].s;
}

size_t tensor_file_meta_count(const struct tensor_file *f)
{
    return f->n_meta;
}

const char *tensor_file_meta_key(const struct tensor_file *f, size_t i)
{
    return i < f->n_meta ? f->meta[i].key : NULL;
}

const void *tensor_file_meta_raw(const struct tensor_file *f, size_t i, size_t *n)
{
    *n = i < f->n_meta ? f->meta[i].n_raw : 0;
    return *n ? f->meta[i].raw : NULL;
}

void tensor_file_release(const struct tensor_file *f, const void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), map = (uintptr_t)f->map;
    uintptr_t from = ((uintptr_t)p + page - 1) / page * page, to = ((uintptr_t)p + n) / page * page;
    if (map && from >= map && to <= map + f->n && from < to)
        madvise((uint8_t *)f->map + (from - map), to - from, MADV_DONTNEED);
}

void tensor_to_f32(const struct tensor *t, float *dst)
{
    dtype_to_f32(t->dtype, t->data, dst, t->count);
}

int tensor_sha256_f32(const struct tensor *t, uint8_t digest[32], struct err *e)
{
    (void)e;
    float x[4096]; /* a whole number of blocks of every type */
    size_t step = sizeof x / sizeof x[0],
           step_bytes = step / dtype_block_len(t->dtype) * dtype_block_bytes(t->dtype);
    struct sha256 s;
    sha256_start(&s);
    const uint8_t *p = t->data;
    for (size_t done = 0; done < t->count; done += step, p += step_bytes) {
        size_t n = t->count - done < step ? t->count - done : step;
        dtype_to_f32(t->dtype, p, x, n);
        sha256_add(&s, x, n * sizeof x[0]);
    }
    sha256_end(&s, digest);
    return 0;
}
