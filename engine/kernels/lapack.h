/* Factorisations of dense matrices through LAPACK (OpenBLAS carries it): the one place that knows it.
 *
 * Deterministic for one build of LAPACK and one BLAS thread (gemm_setup, before the first call).
 * Threads: any, together. All matrices are row-major, in double. */
#ifndef ENGINE_LAPACK_H
#define ENGINE_LAPACK_H

#include "daemon/base/err.h"

#include <stddef.h>

/* The k largest eigenvalues of the symmetric a [n, n], descending, and their vectors, one a row of
 * vectors [k, n]: orthonormal, the entry of largest magnitude positive (the first of equal ones).
 * 1 <= k <= n. a is destroyed; only its upper triangle (column >= row) is read.
 * ERR_NUMERIC (a value that is not finite, no convergence), ERR_NOMEM, ERR_TOO_LARGE (n above 2^15). */
int eigen_symmetric(size_t n, double *a, size_t k, double *values, double *vectors, struct err *e)
    __attribute__((warn_unused_result));

/* Replaces the k rows of a [k, n], k <= n, by orthonormal ones that span the same (Householder QR); any
 * rank. ERR_NUMERIC, ERR_NOMEM, ERR_TOO_LARGE (n above 2^30). */
int orthonormal_rows(size_t k, size_t n, double *a, struct err *e)
    __attribute__((warn_unused_result));

#endif
