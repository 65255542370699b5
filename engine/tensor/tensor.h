/* Tensor files: .safetensors, .gguf and .pth (zip + pickle), read as named arrays.
 *
 *     struct tensor_file *f;
 *     if (tensor_file_open("model.pth", &f, &e) < 0) ...;
 *     const struct tensor *t = tensor_file_find(f, "blocks.0.att.key.weight");
 *     tensor_file_close(f);
 *
 * Every byte is hostile until checked: sizes, offsets and counts are compared with what the file
 * really holds before anything is allocated or read, and the one error says which tensor, what was
 * found and what was wanted. A pickle may name only the few globals that tensors need; any other is
 * refused, nothing is ever called. The file must not be cut short by others while it is open.
 * Limitations: compressed .pth members are inflated (at most 1 GiB each); the pre-1.6 non-zip .pth
 * is refused with a message.
 *
 * Threads: an open file is read-only and may be shared. Ownership: tensors and their data belong to
 * the file and end with it. */
#ifndef ENGINE_TENSOR_H
#define ENGINE_TENSOR_H

#include "daemon/base/err.h"
#include "engine/tensor/dtype.h"

#define TENSOR_MAX_DIMS 8

struct tensor {
    const char *name;
    enum dtype dtype;
    int n_dims;                     /* 0: a scalar */
    size_t shape[TENSOR_MAX_DIMS];  /* row-major, last index fastest (GGUF's order is reversed to this) */
    size_t count;                   /* product of shape */
    size_t bytes;                   /* of data */
    const void *data;               /* contiguous, little-endian, any alignment */
};

enum tensor_file_kind { TENSOR_FILE_SAFETENSORS, TENSOR_FILE_GGUF, TENSOR_FILE_PTH };

struct tensor_file;

/* Opens and checks a file; the kind is told from its first bytes. On success *out is the caller's,
 * to be closed. ERR_IO, ERR_FORMAT, ERR_NOMEM. */
int tensor_file_open(const char *path, struct tensor_file **out, struct err *e)
    __attribute__((warn_unused_result));
/* The same over bytes that stay alive and unchanged until the close. */
int tensor_file_open_memory(const void *bytes, size_t n, struct tensor_file **out, struct err *e)
    __attribute__((warn_unused_result));
/* What a file of unknown origin may cost to open beyond its own size, in bytes. */
struct tensor_limits {
    size_t header;   /* of a safetensors header */
    size_t inflated; /* of all compressed members of a .pth */
};
/* The same with smaller limits than those of the readers (100 MB, 1 GiB). ERR_FORMAT beyond them. */
int tensor_file_open_limited(const void *bytes, size_t n, const struct tensor_limits *limits,
                             struct tensor_file **out, struct err *e)
    __attribute__((warn_unused_result));
void tensor_file_close(struct tensor_file *f); /* NULL is fine */

enum tensor_file_kind tensor_file_kind(const struct tensor_file *f);
size_t tensor_file_count(const struct tensor_file *f);
/* In the file's own order. */
const struct tensor *tensor_file_get(const struct tensor_file *f, size_t i);
/* NULL if there is none. */
const struct tensor *tensor_file_find(const struct tensor_file *f, const char *name);

/* Metadata: GGUF key/values, safetensors __metadata__ (strings). A missing key or another type: false
 * or NULL. Strings are UTF-8 with a NUL, but may hold NULs inside: *len is the length in bytes. */
bool tensor_file_meta_u64(const struct tensor_file *f, const char *key, uint64_t *out);
bool tensor_file_meta_f64(const struct tensor_file *f, const char *key, double *out);
const char *tensor_file_meta_str(const struct tensor_file *f, const char *key, size_t *len);
/* Arrays of strings (a GGUF vocabulary): the count, then each. */
bool tensor_file_meta_str_array(const struct tensor_file *f, const char *key, size_t *count);
const char *tensor_file_meta_str_at(const struct tensor_file *f, const char *key, size_t i,
                                    size_t *len);

/* All keys, of any type, sorted. */
size_t tensor_file_meta_count(const struct tensor_file *f);
const char *tensor_file_meta_key(const struct tensor_file *f, size_t i);
/* The i-th key's type and value as a GGUF has them: n bytes, part of the file. NULL: another format. */
const void *tensor_file_meta_raw(const struct tensor_file *f, size_t i, size_t *n);

/* Gives back the memory of the whole pages in [p, p + n) of a mapped file, for which the caller has no use
 * soon: what is touched again is read again. Any other bytes: nothing happens. */
void tensor_file_release(const struct tensor_file *f, const void *p, size_t n);

/* Converts all elements to F32 into dst [t->count]. */
void tensor_to_f32(const struct tensor *t, float *dst);
/* SHA-256 over the values as little-endian F32. Cannot fail (always 0). */
int tensor_sha256_f32(const struct tensor *t, uint8_t digest[32], struct err *e);

#endif
