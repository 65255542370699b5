/* Neural network operations for training, each forward beside its backward.
 *
 * An operation is a pure function over row-major arrays; nn_ops.h lists all with their equations.
 * Backward functions ADD to the gradients they write (as several consumers share one tensor), so
 * callers zero them first. Every operation is written once, as engine/nn/<op>_tmpl.c, and compiled as
 *
 *     nn_f64           double, baseline CPU: gradient checks
 *     nn_f32_for(cpu)  float, for the instruction sets found at run time (C, AVX2+FMA, AVX-512)
 *
 * Sums run in a fixed order for a given shape and variant: results are reproducible on one machine,
 * and differ between variants by rounding. Products of matrices go through kernels/gemm.h.
 *
 * Limitations: N (head size) is a multiple of 16; S in wkv7 is F32 in the float build.
 * Threads: any, on distinct outputs; nothing here allocates. */
#ifndef ENGINE_NN_H
#define ENGINE_NN_H

#include <stddef.h>
#include <stdint.h>

#include "engine/nn/nn_ops.h"

#define NN_WKV7_CHUNK 16 /* steps between kept states */
/* Sizes of wkv7's arrays, in elements. */
#define NN_WKV7_CACHE(T, H, N) (((T) + NN_WKV7_CHUNK - 1) / NN_WKV7_CHUNK * (H) * (N) * (N))
#define NN_WKV7_SCRATCH(N) ((NN_WKV7_CHUNK + 1) * (N) * (N) + 8 * (N))

#define XX(name, args) void(*name) args;
#define NN_REAL float
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

enum nn_isa { NN_ISA_C, NN_ISA_AVX2, NN_ISA_AVX512 };

/* Whether this CPU runs a variant, and the variant (the caller asks first). */
int nn_isa_supported(enum nn_isa isa);
const char *nn_isa_name(enum nn_isa isa);
const struct nn_f32 *nn_f32_get(enum nn_isa isa);
/* The widest that this CPU runs. */
enum nn_isa nn_isa_best(void);

extern const struct nn_f64 nn_f64;

#endif
