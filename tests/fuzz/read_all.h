/* What the fuzz targets of the tensor file readers share: open bytes, and if they open, read all.
 */
#ifndef TESTS_FUZZ_READ_ALL_H
#define TESTS_FUZZ_READ_ALL_H

#include "daemon/base/assert.h"
#include "engine/tensor/tensor.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_tensors(const struct tensor_file *f)
{
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const struct tensor *t = tensor_file_get(f, i);
        uint8_t digest[32];
        size_t bytes, count = 1;
        for (int d = 0; d < t->n_dims; d++)
            count *= t->shape[d];
        ASSERT(t->n_dims <= TENSOR_MAX_DIMS && count == t->count);
        ASSERT(dtype_bytes(t->dtype, t->count, &bytes) && bytes == t->bytes);
        ASSERT(tensor_file_find(f, t->name) == t);
        ASSERT(tensor_sha256_f32(t, digest, NULL) == 0);
    }
}

static void read_metadata(const struct tensor_file *f)
{
    for (size_t i = 0; i < tensor_file_meta_count(f); i++) {
        const char *key = tensor_file_meta_key(f, i), *s;
        uint64_t u;
        double d;
        size_t n = 0, len;
        tensor_file_meta_u64(f, key, &u);
        tensor_file_meta_f64(f, key, &d);
        if ((s = tensor_file_meta_str(f, key, &len)))
            ASSERT(s[len] == 0);
        tensor_file_meta_str_array(f, key, &n);
        for (size_t k = 0; k < n; k++) {
            ASSERT((s = tensor_file_meta_str_at(f, key, k, &len)));
            ASSERT(s[len] == 0);
        }
    }
}

/* A refusal must say why, in one line. */
static void read_all(const void *p, size_t n)
{
    struct tensor_file *f = NULL;
    struct err e = {0};
    int rc = tensor_file_open_memory(p, n, &f, &e);
    if (rc < 0) {
        ASSERT(!f && e.code == rc && e.msg[0] && !strchr(e.msg, '\n'));
        return;
    }
    read_tensors(f);
    read_metadata(f);
    tensor_file_close(f);
}

#endif
