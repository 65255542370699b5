/* Matrix products with both operands rounded to BF16 (nearest even) and sums in F32, on CPUs with
 * AVX512-BF16: about twice the speed of F32 products, for training in mixed precision.
 *
 * Arguments as gemm_f32 with alpha = 1. Uses about 330 KB of stack and nothing else. Each element
 * of C is a sum in an order fixed by K alone. Threads: any, together. */
#ifndef ENGINE_GEMM_BF16_H
#define ENGINE_GEMM_BF16_H

#include <stdbool.h>
#include <stddef.h>

/* Whether this CPU (and DREAMSTATE_CPU, see cpu.h) can. */
bool gemm_bf16_supported(void);
void gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda,
               const float *b, size_t ldb, float beta, float *c, size_t ldc);

#endif
