/* Matrix products with both operands rounded to BF16 (nearest even) and sums in F32, on CPUs with
 * AVX512-BF16: for training in mixed precision. Several times the speed of F32 products with AMX, about twice
 * without.
 *
 * Arguments as gemm_f32 with alpha = 1. Uses about 450 KB of stack and nothing else. Each element
 * of C is a sum in an order fixed by K alone. Threads: any, together. */
#ifndef ENGINE_GEMM_BF16_H
#define ENGINE_GEMM_BF16_H

#include "engine/kernels/cpu.h"

#include <stddef.h>

typedef void gemm_bf16_fn(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a,
                          size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* x86-64 only, where gemm_bf16_for gives them. */
gemm_bf16_fn gemm_bf16_avx512, gemm_bf16_amx;

/* The form for a CPU level, or for the best level that this CPU runs where that is lower (CPU_AUTO: the
 * best). NULL: it has none. */
gemm_bf16_fn *gemm_bf16_for(enum cpu_level level);

#endif
