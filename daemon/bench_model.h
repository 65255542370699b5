/* Models of real shape and random weights to measure speed with: head size 64, vocabulary 65,536, low-rank
 * 64/64/32/128, as the released 0.1B (12 layers of width 768) and 0.4B (24 of 1024) have them. */
#ifndef DAEMON_BENCH_MODEL_H
#define DAEMON_BENCH_MODEL_H

#include "daemon/base/err.h"
#include "engine/tensor/dtype.h"

#include <stddef.h>

struct bench_shape {
    const char *name; /* "12x768" */
    size_t n_layer, n_embd;
};
/* By its name: 12x768 or 24x1024. NULL: another. */
const struct bench_shape *bench_shape(const char *name);

/* The path of such a model as GGUF, which llama.cpp also loads, with its large matrices as `type` (F32,
 * F16, BF16, Q8_0 or Q4_0): in build/ if there is one, else in $TMPDIR. Made when it is not there yet
 * (some seconds, and its size in memory). ERR_INVALID, ERR_IO, ERR_NOMEM. */
int bench_model_path(const struct bench_shape *shape, enum dtype type, char *path, size_t size,
                     struct err *e);

#endif
