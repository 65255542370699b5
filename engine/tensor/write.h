/* Writers of tensor files. A file is written beside its goal, synced and renamed: a crash leaves
 * the old file or the new one, never half of one. */
#ifndef ENGINE_TENSOR_WRITE_H
#define ENGINE_TENSOR_WRITE_H

#include "daemon/base/buf.h"
#include "engine/tensor/tensor.h"

/* A metadata entry; safetensors takes strings only, GGUF all. */
struct tensor_meta {
    const char *key;
    enum { TENSOR_META_STR, TENSOR_META_U32, TENSOR_META_F32, TENSOR_META_STR_ARRAY } type;
    const char *str;
    uint32_t u32;
    float f32;
    const char *const *strs; /* STR_ARRAY: n strings */
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
/* Any bytes by the same rule: temporary file, fsync, rename, fsync of the folder. */
int file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e);

#endif
