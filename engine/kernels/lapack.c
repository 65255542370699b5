#include "engine/kernels/lapack.h"

#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define EIGEN_MAX ((size_t)1 << 15)
#define QR_MAX    ((size_t)1 << 30)
#define QR_BLOCK  64

/* LAPACK's dsyevr, as OpenBLAS carries it: Fortran calling convention, the lengths of the three
 * strings last. jobz N/V, range A/I (il..iu, from 1, ascending), uplo L/U. */
void dsyevr_(const char *jobz, const char *range, const char *uplo, const blasint *n, double *a,
             const blasint *lda, const double *vl, const double *vu, const blasint *il,
             const blasint *iu, const double *abstol, blasint *m, double *w, double *z,
             const blasint *ldz, blasint *isuppz, double *work, const blasint *lwork,
             blasint *iwork, const blasint *liwork, blasint *info, size_t, size_t, size_t);

/* Householder QR of a column-major [m, n] (m rows), and its Q in place. */
void dgeqrf_(const blasint *m, const blasint *n, double *a, const blasint *lda, double *tau,
             double *work, const blasint *lwork, blasint *info);
void dorgqr_(const blasint *m, const blasint *n, const blasint *k, double *a, const blasint *lda,
             const double *tau, double *work, const blasint *lwork, blasint *info);

static bool finite_upper(const double *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++)
            if (!isfinite(a[i * n + j]))
                return false;
    return true;
}

static void fix_sign(double *v, size_t n)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        top = fabs(v[i]) > fabs(v[top]) ? i : top;
    for (size_t i = 0; v[top] < 0 && i < n; i++)
        v[i] = i == top ? v[i] : -v[i];
    v[top] = fabs(v[top]);
}

/* LAPACK's order is ascending, its columns our rows. */
static void reverse(size_t n, size_t k, double *values, double *vectors)
{
    for (size_t i = 0; i < k / 2; i++) {
        double t = values[i];
        values[i] = values[k - 1 - i];
        values[k - 1 - i] = t;
        for (size_t j = 0; j < n; j++) {
            t = vectors[i * n + j];
            vectors[i * n + j] = vectors[(k - 1 - i) * n + j];
            vectors[(k - 1 - i) * n + j] = t;
        }
    }
}

int eigen_symmetric(size_t n, double *a, size_t k, double *values, double *vectors, struct err *e)
{
    if (n > EIGEN_MAX)
        return err_set(e, ERR_TOO_LARGE, "eigenvectors of a matrix of %zu rows, at most %zu", n,
                       EIGEN_MAX);
    if (!finite_upper(a, n))
        return err_set(e, ERR_NUMERIC, "eigenvectors of a matrix of %zu rows: not finite", n);
    blasint N = (blasint)n, il = (blasint)(n - k + 1), found = 0, info = 0;
    blasint lwork = 26 * N + 64 * N, liwork = 10 * N;
    double none = 0;
    double *w = calloc(n, sizeof *w), *work = calloc((size_t)lwork, sizeof *work);
    blasint *iwork = calloc((size_t)liwork, sizeof *iwork),
            *support = calloc(2 * n, sizeof *support);
    int rc = 0;
    if (!w || !work || !iwork || !support) {
        rc = err_set(e, ERR_NOMEM, "no memory for eigenvectors of %zu rows", n);
        goto out;
    }
    /* Row-major upper is column-major lower. */
    dsyevr_("V", k == n ? "A" : "I", "L", &N, a, &N, &none, &none, &il, &N, &none, &found, w,
            vectors, &N, support, work, &lwork, iwork, &liwork, &info, 1, 1, 1);
    if (info != 0 || (size_t)found != k) {
        rc = err_set(e, ERR_NUMERIC, "eigenvectors of a matrix of %zu rows: no convergence (%d)", n,
                     (int)info);
        goto out;
    }
    for (size_t i = 0; i < k; i++)
        values[i] = w[i];
    reverse(n, k, values, vectors);
    for (size_t i = 0; i < k; i++)
        fix_sign(vectors + i * n, n);
out:
    free(w);
    free(work);
    free(iwork);
    free(support);
    return rc;
}

int orthonormal_rows(size_t k, size_t n, double *a, struct err *e)
{
    if (n > QR_MAX)
        return err_set(e, ERR_TOO_LARGE, "a basis of %zu numbers a row, at most %zu", n, QR_MAX);
    for (size_t i = 0; i < k * n; i++)
        if (!isfinite(a[i]))
            return err_set(e, ERR_NUMERIC, "a basis of %zu rows: row %zu is not finite", k, i / n);
    blasint m = (blasint)n, cols = (blasint)k, lwork = cols * QR_BLOCK, info = 0;
    double *tau = calloc(k, sizeof *tau), *work = calloc((size_t)lwork, sizeof *work);
    int rc = 0;
    if (!tau || !work) {
        rc = err_set(e, ERR_NOMEM, "no memory for a basis of %zu rows", k);
        goto out;
    }
    /* Row-major [k, n] is column-major [n, k]. */
    dgeqrf_(&m, &cols, a, &m, tau, work, &lwork, &info);
    if (info == 0)
        dorgqr_(&m, &cols, &cols, a, &m, tau, work, &lwork, &info);
    if (info != 0)
        rc = err_set(e, ERR_NUMERIC, "a basis of %zu rows: LAPACK says %d", k, (int)info);
out:
    free(tau);
    free(work);
    return rc;
}
