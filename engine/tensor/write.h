/* Writers of tensor files. A file is written beside its goal, synced and renamed: a crash leaves
 * the old file or the new one, never half of one. */
#ifndef ENGINE_TENSOR_WRITE_H
#define ENGINE_TENSOR_WRITE_H

#include "daemon/base/buf.h"
#include "engine/tensor/tensor.h"

struct new_file;

/* A metadata entry; safetensors takes strings only, GGUF all. */
struct tensor_meta {
    const char *key;
    enum {
        TENSOR_META_STR,
        TENSOR_META_U32,
        TENSOR_META_F32,
        TENSOR_META_STR_ARRAY,
        TENSOR_META_I32_ARRAY,
        TENSOR_META_RAW, /* type and value as a GGUF has them: tensor_file_meta_raw */
    } type;
    const char *str;
    uint32_t u32;
    float f32;
    const char *const *strs; /* STR_ARRAY: n strings */
    const int32_t *i32s;     /* I32_ARRAY: n numbers */
    const void *raw;         /* RAW: n bytes */
    size_t n;
};

/* `name`, `dtype`, `shape`, `bytes` and `data` of each tensor are written as they are (`count` is
 * not used). ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM; ERR_INVALID: bytes that do not match the shape, a
 * type that safetensors cannot hold, a name that is taken. */
int safetensors_write(const char *path, const struct tensor *tensors, size_t n,
                      const struct tensor_meta *meta, size_t n_meta, struct err *e);
/* The same bytes into a buffer. */
int safetensors_pack(struct buf *out, const struct tensor *tensors, size_t n,
                     const struct tensor_meta *meta, size_t n_meta, struct err *e);
/* GGUF version 3, alignment 32, little-endian. */
int gguf_write(const char *path, const struct tensor *tensors, size_t n,
               const struct tensor_meta *meta, size_t n_meta, struct err *e);

/* The same in pieces: `data` of the tensors is not looked at, their bytes come one tensor after another
 * through gguf_out_put, cut anywhere.
 *
 *     struct gguf_out w;
 *     int rc = gguf_out_open(&w, path, tensors, n, meta, n_meta, e);
 *     for (...; rc == 0; ...)
 *         rc = gguf_out_put(&w, bytes, n_bytes, e);
 *     return gguf_out_close(&w, rc, e);                    all of it there, or nothing */
struct gguf_out {
    struct new_file *file; /* owned */
    const struct tensor *tensors; /* [n], the caller's until it is closed */
    size_t n, at, done; /* the tensor being written, and how many of its bytes are */
};
int gguf_out_open(struct gguf_out *w, const char *path, const struct tensor *tensors, size_t n,
                  const struct tensor_meta *meta, size_t n_meta, struct err *e)
    __attribute__((warn_unused_result));
int gguf_out_put(struct gguf_out *w, const void *bytes, size_t n, struct err *e)
    __attribute__((warn_unused_result));
/* rc: of what came before; not 0: the old file, if any, stays. Also after a failed open. */
int gguf_out_close(struct gguf_out *w, int rc, struct err *e) __attribute__((warn_unused_result));

/* Any bytes by the same rule: temporary file, fsync, rename, fsync of the folder. */
int file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e);

/* Removes what writers that were killed left in a folder in which nobody else writes. */
void file_remove_unfinished(const char *folder);

#endif
