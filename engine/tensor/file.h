/* What the readers of this folder share: the open file, the memory that ends with it, and checked
 * access to its bytes. Internal to engine/tensor. */
#ifndef ENGINE_TENSOR_FILE_H
#define ENGINE_TENSOR_FILE_H

#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"

#define TENSOR_MAX_NAME 256 /* bytes of a tensor's name, without the NUL */

struct tensor_str {
    const char *s; /* len bytes and a NUL */
    size_t len;
};

struct tensor_file_meta {
    const char *key;
    enum { META_OTHER, META_U64, META_F64, META_STR, META_STR_ARRAY } type;
    uint64_t u64;
    double f64;
    struct tensor_str str;
    const struct tensor_str *strs; /* [n_strs] */
    size_t n_strs;
    const uint8_t *raw; /* GGUF: type and value, [n_raw] */
    size_t n_raw;
};

/* Memory taken in small pieces and given back all at once. */
struct tensor_mem {
    struct tensor_block *blocks;
};
/* n bytes, not zeroed; align is a power of two up to 64. NULL without memory. */
void *tensor_mem_take(struct tensor_mem *m, size_t n, size_t align);
void tensor_mem_free(struct tensor_mem *m);

struct tensor_file {
    enum tensor_file_kind kind;
    const uint8_t *bytes; /* the whole file, [n] */
    size_t n;
    struct tensor_limits limits;
    void *map;              /* to be unmapped, or NULL */
    struct tensor_mem mem;  /* ends with the file */
    struct tensor *tensors; /* in the file's order */
    size_t n_tensors, cap_tensors;
    const struct tensor **by_name; /* the same, sorted by name */
    struct tensor_file_meta *meta; /* sorted by key once indexed */
    size_t n_meta, cap_meta;
};

/* n bytes, 64-byte aligned, not zeroed, the file's own. NULL without memory. */
void *tensor__alloc(struct tensor_file *f, size_t n);
/* A copy with a NUL. NULL without memory. */
char *tensor__strndup(struct tensor_file *f, const char *s, size_t len);
/* t->name must be the file's own. ERR_NOMEM. */
int tensor__add(struct tensor_file *f, const struct tensor *t, struct err *e);
int tensor__add_meta(struct tensor_file *f, const struct tensor_file_meta *m, struct err *e);
/* Sorts what was added; refuses equal names and equal keys. */
int tensor__index_meta(struct tensor_file *f, struct err *e);
int tensor__index(struct tensor_file *f, struct err *e);

/* Names in files must be UTF-8 of 1 to TENSOR_MAX_NAME bytes without control characters. */
int tensor__check_name(const char *s, size_t len, struct err *e);
/* From dtype, n_dims and shape to count and bytes; ERR_FORMAT if they overflow or blocks do not
 * fit. */
int tensor__measure(struct tensor *t, struct err *e);
/* Text from a file made fit for a message: cut, and without control characters. */
#define TENSOR_SHOWN 80
const char *tensor__show(char out[TENSOR_SHOWN], const char *s, size_t len);

/* One reader each; f->bytes and f->n are set, all else is empty. On error the caller closes f. */
int tensor__read_safetensors(struct tensor_file *f, struct err *e);
int tensor__read_gguf(struct tensor_file *f, struct err *e);
int tensor__read_pth(struct tensor_file *f, struct err *e);

/* ggml's number of a type; false if GGUF has none. */
bool gguf__type_id(enum dtype t, uint32_t *id);

static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
