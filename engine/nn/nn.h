/* Neural network operations for training, each forward beside its backward.
 *
 * An operation is a pure function over row-major arrays; nn_ops.h lists all with their equations.
 * Backward functions ADD to the gradients of parameters and of what several
 * consumers share, so callers zero them first, and set the others, as nn_ops.h says. Every operation is written once, as engine/nn/<op>_tmpl.c, and compiled
 * as
 *
 *     nn_f64           double, baseline CPU: gradient checks
 *     nn_f32_for(...)  float, for the instruction sets found at run time (C, which on 64-bit ARM is NEON; AVX2+FMA, AVX-512)
 *
 * Sums run in a fixed order for a given shape and variant: results are reproducible on one machine,
 * and differ between variants by rounding. Products of matrices go through kernels/gemm.h.
 *
 * Limitations: N (head size) is a multiple of 16; S in wkv7 is F32 in the float build.
 * Threads: any, on distinct outputs; nothing here allocates. */
#ifndef ENGINE_NN_H
#define ENGINE_NN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/cpu.h"
#include "engine/nn/nn_ops.h"

#define NN_WKV7_CHUNK 16 /* steps between kept states */
/* Sizes of wkv7's arrays, in elements. */
#define NN_WKV7_CACHE(T, H, N) (((T) + NN_WKV7_CHUNK - 1) / NN_WKV7_CHUNK * (H) * (N) * (N))
#define NN_WKV7_SCRATCH(N)     ((NN_WKV7_CHUNK + 1) * (N) * (N))

/* One AdamW step of a group of parameters, bias corrections worked in. */
struct nn_adamw {
    double scale; /* of the gradient: clipping */
    double beta1, beta2;
    double step_size; /* lr / (1 - beta1^t) */
    double v_scale;   /* 1 / sqrt(1 - beta2^t) */
    double eps;
    double keep; /* 1 - lr * weight_decay */
};

#define XX(name, args) void(*name) args;
#define NN_REAL        float
struct nn_f32 {
    NN_OPS(XX)
};
#undef NN_REAL
#define NN_REAL double
struct nn_f64 {
    NN_OPS(XX)
};
#undef NN_REAL
#undef XX

/* The variant for a CPU level, or for the best level that this CPU runs where that is lower
 * (CPU_AUTO: the best). */
const struct nn_f32 *nn_f32_for(enum cpu_level level);

/* Lets the products with weights of *op round their operands to BF16, sums staying F32 (gemm_bf16.h: how
 * fast). A row of their outputs then has the same bytes beside any others; those of BLAS depend on how many there
 * are. False, and nothing changed, on a CPU that cannot. */
bool nn_bf16_products(struct nn_f32 *op);

extern const struct nn_f64 nn_f64;

#endif
