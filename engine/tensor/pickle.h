/* Runs the pickle of a .pth file: builds plain values (numbers, strings, lists, dicts) and the
 * descriptions of tensors, and calls nothing. Internal to engine/tensor.
 *
 * Every global must be on a short list: torch._utils._rebuild_tensor_v2 and _rebuild_parameter,
 * collections.OrderedDict, torch.Size and the torch storage types. Any other is refused by name.
 * Protocols 2 to 5 without the opcodes that create other objects. */
#ifndef ENGINE_TENSOR_PICKLE_H
#define ENGINE_TENSOR_PICKLE_H

#include "engine/tensor/file.h"

enum pickle_type {
    PICKLE_OTHER, /* None, floats, bytes, sets, integers beyond 64 bits */
    PICKLE_INT,   /* and bool */
    PICKLE_STR,
    PICKLE_LIST, /* and tuple */
    PICKLE_DICT,
    PICKLE_GLOBAL,
    PICKLE_STORAGE,
    PICKLE_TENSOR,
};

struct pickle_storage {
    enum dtype dtype;
    struct tensor_str key; /* of the zip member "data/<key>"; not terminated */
    uint64_t numel;
};

struct pickle_tensor {
    const struct pickle_storage *storage;
    uint64_t offset; /* elements */
    int n_dims;
    uint64_t shape[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS]; /* elements */
};

struct pickle_value {
    enum pickle_type type;
    bool tuple;                                                 /* LIST */
    enum { WALK_NEW, WALK_NOW, WALK_PLAIN, WALK_TENSORS } walk; /* free for the user's walk */
    union {
        int64_t i;
        struct tensor_str str; /* in the pickle's bytes, not terminated */
        struct {
            struct pickle_value **at; /* DICT: key, value, key, value ... */
            size_t n, cap;
        } list;
        const struct pickle_global *global;
        struct pickle_storage storage;
        struct pickle_tensor *tensor;
    };
};

/* *root and all below it live in mem and point into p. ERR_FORMAT, ERR_NOMEM. */
int pickle_load(const uint8_t *p, size_t n, struct tensor_mem *mem, struct pickle_value **root,
                struct err *e);

#endif
