/* Dense matrix products through BLAS: the one place that knows it.
 *
 * C = alpha * op(A) op(B) + beta * C, row-major: op(A) is [m, k], op(B) is [k, n], C is [m, n]; ta
 * and tb say that A is stored as [k, m] and B as [n, k]. ld* are row lengths in elements. Each
 * caller is one thread and stays one: gemm_setup tells OpenBLAS so, once, before the first product.
 *
 * For training only: the order of OpenBLAS's sums depends on the shape of the whole product, which
 * inference must not (see rwkv.h). Threads: any, together. */
#ifndef ENGINE_GEMM_H
#define ENGINE_GEMM_H

#include <stdbool.h>
#include <stddef.h>

/* One BLAS thread per caller. Returns the name of the kernels in use ("SkylakeX", "Zen", ...),
 * which lives as long as the program. */
const char *gemm_setup(void);

void gemm_f32(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a,
              size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
void gemm_f64(bool ta, bool tb, size_t m, size_t n, size_t k, double alpha, const double *a,
              size_t lda, const double *b, size_t ldb, double beta, double *c, size_t ldc);

#endif
