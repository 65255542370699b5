/* The whole of a training in one safetensors file: named arrays and a few whole numbers, written
 * beside the old one and renamed, so that a kill leaves one of the two. Values are kept bit for
 * bit. */
#ifndef ENGINE_TRAIN_CHECKPOINT_H
#define ENGINE_TRAIN_CHECKPOINT_H

#include "daemon/base/err.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rwkv_layout;

struct checkpoint_array {
    const char *name;
    enum dtype dtype;
    size_t count;
    void *data;
};

struct checkpoint_number {
    const char *name;
    uint64_t value;
    bool fixed; /* reading: must equal value, or the file belongs to another run */
};

struct checkpoint {
    const struct rwkv_layout *l; /* with params: saved tensor by tensor under their own names */
    float *params;               /* [l->count]; NULL: none */
    struct checkpoint_array *arrays;
    size_t n_arrays;
    struct checkpoint_number *numbers;
    size_t n_numbers;
};

int checkpoint_write(const struct checkpoint *c, const char *path, struct err *e)
    __attribute__((warn_unused_result));
/* Fills everything that c describes. ERR_FORMAT if something is missing or of another size. */
int checkpoint_read(struct checkpoint *c, const char *path, struct err *e)
    __attribute__((warn_unused_result));

#endif
