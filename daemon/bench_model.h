/* A model of real shape and random weights to measure speed with: 12 layers of width 768, head size 64,
 * vocabulary 65,536, low-rank 64/64/32/128: the shape of the released 0.1B models. */
#ifndef DAEMON_BENCH_MODEL_H
#define DAEMON_BENCH_MODEL_H

#include "daemon/base/err.h"
#include "engine/tensor/dtype.h"

#include <stddef.h>

/* The path of such a model as GGUF, which llama.cpp also loads, with its large matrices as `type` (F32,
 * F16, BF16, Q8_0 or Q4_0): in build/ if there is one, else in $TMPDIR. Made when it is not there yet
 * (some seconds, and its size in memory). ERR_INVALID, ERR_IO, ERR_NOMEM. */
int bench_model_path(enum dtype type, char *path, size_t size, struct err *e);

#endif
