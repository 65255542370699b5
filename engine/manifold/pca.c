/* Three products with the centred points X [n, d] make all of it: a square (X^T X or X X^T), a
 * projection Q X^T and a combination A X. Their sums run over chunks of fixed size and each tile of a
 * result is one thread's, so that the number of threads changes no bit. */
#include "engine/manifold/pca.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/lapack.h"
#include "engine/kernels/rng.h"

#include <math.h>

#define TILE       128 /* rows and columns of a tile of a result */
#define DEPTH      512 /* of the chunks that a sum is cut into */
#define OVERSAMPLE 10
#define PASSES     6

struct fit {
    const struct manifold_run *run;
    const struct points *points;
    double *mean;    /* [d] */
    double *scratch; /* [threads, 2 TILE DEPTH] */
    /* the phase at hand */
    const double *left; /* [k, d] of project, [k, n] of combine */
    double *out;
    size_t k;
    bool by_rows; /* of square: the Gram matrix */
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* out [r1 - r0, c1 - c0] = X[r0:r1, c0:c1], centred. */
static void centred(const struct fit *f, size_t r0, size_t r1, size_t c0, size_t c1, double *out)
{
    for (size_t r = r0; r < r1; r++)
        for (size_t c = c0; c < c1; c++)
            *out++ = (double)f->points->x[r * f->points->ld + c] - f->mean[c];
}

static double *scratch_of(const struct fit *f, int part)
{
    return f->scratch + (size_t)part * 2 * TILE * DEPTH;
}

static void sum_columns(void *ctx, int part, int parts)
{
    struct fit *f = ctx;
    const struct points *p = f->points;
    size_t lo, hi;
    pool_slice(p->d, 16, part, parts, &lo, &hi);
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = lo; j < hi; j++)
            f->mean[j] += (double)p->x[i * p->ld + j];
    for (size_t j = lo; j < hi; j++)
        f->mean[j] /= (double)p->n;
}

/* out [d]: each column's sum of squares around its mean. */
static void sum_squares(void *ctx, int part, int parts)
{
    struct fit *f = ctx;
    const struct points *p = f->points;
    size_t lo, hi;
    pool_slice(p->d, 16, part, parts, &lo, &hi);
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = lo; j < hi; j++) {
            double x = (double)p->x[i * p->ld + j] - f->mean[j];
            f->out[j] += x * x;
        }
}

/* Tile (I, J), J >= I, of out [m, m] = M M^T with M = X (by_rows) or X^T. */
static void square_tile(const struct fit *f, size_t m, size_t I, size_t J, double *a)
{
    size_t depth = f->by_rows ? f->points->d : f->points->n;
    size_t i1 = min_size(I + TILE, m), j1 = min_size(J + TILE, m);
    double *b = a + TILE * DEPTH;
    for (size_t t = 0; t < depth; t += DEPTH) {
        size_t t1 = min_size(t + DEPTH, depth);
        if (f->by_rows) {
            centred(f, I, i1, t, t1, a);
            centred(f, J, j1, t, t1, b);
        } else {
            centred(f, t, t1, I, i1, a);
            centred(f, t, t1, J, j1, b);
        }
        size_t lda = f->by_rows ? t1 - t : i1 - I, ldb = f->by_rows ? t1 - t : j1 - J;
        gemm_f64(!f->by_rows, f->by_rows, i1 - I, j1 - J, t1 - t, 1, a, lda, b, ldb, t > 0,
                 f->out + I * m + J, m);
    }
}

/* The tiles on and above the diagonal. */
static void square(void *ctx, int part, int parts)
{
    const struct fit *f = ctx;
    size_t m = f->by_rows ? f->points->n : f->points->d, tile = 0;
    for (size_t I = 0; I < m; I += TILE)
        for (size_t J = I; J < m; J += TILE, tile++)
            if (tile % (size_t)parts == (size_t)part)
                square_tile(f, m, I, J, scratch_of(f, part));
}

/* out [k, n] = left [k, d] X^T */
static void project(void *ctx, int part, int parts)
{
    const struct fit *f = ctx;
    size_t n = f->points->n, d = f->points->d, lo, hi;
    double *b = scratch_of(f, part);
    pool_slice(n, TILE, part, parts, &lo, &hi);
    for (size_t r = lo; r < hi; r += TILE) {
        size_t r1 = min_size(r + TILE, hi);
        for (size_t t = 0; t < d; t += DEPTH) {
            size_t t1 = min_size(t + DEPTH, d);
            centred(f, r, r1, t, t1, b);
            gemm_f64(false, true, f->k, r1 - r, t1 - t, 1, f->left + t, d, b, t1 - t, t > 0,
                     f->out + r, n);
        }
    }
}

/* out [k, d] = left [k, n] X */
static void combine(void *ctx, int part, int parts)
{
    const struct fit *f = ctx;
    size_t n = f->points->n, d = f->points->d, lo, hi;
    double *b = scratch_of(f, part);
    pool_slice(d, TILE, part, parts, &lo, &hi);
    for (size_t c = lo; c < hi; c += TILE) {
        size_t c1 = min_size(c + TILE, hi);
        for (size_t t = 0; t < n; t += DEPTH) {
            size_t t1 = min_size(t + DEPTH, n);
            centred(f, t, t1, c, c1, b);
            gemm_f64(false, false, f->k, c1 - c, t1 - t, 1, f->left + t, n, b, c1 - c, t > 0,
                     f->out + c, d);
        }
    }
}

static void run_phase(struct fit *f, void (*phase)(void *, int, int), const double *left,
                      double *out, size_t k)
{
    f->left = left;
    f->out = out;
    f->k = k;
    pool_run(f->run->pool, phase, f);
}

/* Eigenvectors of the covariance, or of the Gram matrix G = X X^T: G u = s u gives X^T u / sqrt(s). */
static int fit_exact(struct fit *f, struct pca *p, double *components, struct err *e)
{
    size_t n = f->points->n, d = f->points->d;
    f->by_rows = n < d;
    size_t m = f->by_rows ? n : d, bytes;
    double *a = NULL, *u = NULL;
    int rc = 0;
    if (!mem_mul(m, m, &bytes) || !(a = mem_calloc_aligned(bytes, sizeof *a)) ||
        (f->by_rows && !(u = mem_calloc_aligned(p->k * n, sizeof *u)))) {
        rc = err_set(e, ERR_NOMEM, "no memory for the covariance of %zu numbers", m);
        goto out;
    }
    run_phase(f, square, NULL, a, 0);
    if ((rc = manifold_proceed(f->run, 1, 2, e)) < 0 ||
        (rc = eigen_symmetric(m, a, p->k, p->variance, f->by_rows ? u : components, e)) < 0)
        goto out;
    for (size_t i = 0; i < p->k && f->by_rows; i++)
        for (size_t j = 0; j < n; j++)
            u[i * n + j] /= p->variance[i] > 0 ? sqrt(p->variance[i]) : 1;
    if (f->by_rows)
        run_phase(f, combine, u, components, p->k);
    rc = manifold_proceed(f->run, 2, 2, e);
out:
    free(a);
    free(u);
    return rc;
}

/* The best basis within the span of Q [l, d]: with B = Q X^T [l, n] in image, eigenvectors of B B^T. */
static int rotate(struct fit *f, struct pca *p, const double *q, double *image, size_t l,
                  double *components, struct err *e)
{
    size_t n = f->points->n, d = f->points->d;
    double *square_l = mem_calloc_aligned(l * l, sizeof *square_l);
    double *v = mem_calloc_aligned(p->k * l, sizeof *v);
    int rc = 0;
    if (!square_l || !v)
        rc = err_set(e, ERR_NOMEM, "no memory for %zu components", l);
    if (rc == 0) {
        run_phase(f, project, q, image, l);
        gemm_f64(false, true, l, l, n, 1, image, n, image, n, 0, square_l, l);
        rc = eigen_symmetric(l, square_l, p->k, p->variance, v, e);
    }
    if (rc == 0)
        gemm_f64(false, false, p->k, d, l, 1, v, l, q, d, 0, components, d);
    free(square_l);
    free(v);
    return rc;
}

static int fit_randomised(struct fit *f, struct pca *p, uint64_t seed, double *components,
                          struct err *e)
{
    size_t n = f->points->n, d = f->points->d, l = min_size(p->k + OVERSAMPLE, min_size(n, d));
    struct rng rng;
    double *q = mem_calloc_aligned(l * d, sizeof *q), *image = mem_calloc_aligned(l * n, sizeof *q);
    int rc = 0;
    if (!q || !image) {
        rc = err_set(e, ERR_NOMEM, "no memory for a basis of %zu of %zu numbers", l, d);
        goto out;
    }
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < l * d; i++)
        q[i] = rng_normal(&rng);
    for (size_t pass = 0; pass < PASSES; pass++) {
        if ((rc = orthonormal_rows(l, d, q, e)) < 0 ||
            (rc = manifold_proceed(f->run, pass, PASSES + 1, e)) < 0)
            goto out;
        run_phase(f, project, q, image, l);
        run_phase(f, combine, image, q, l);
    }
    if ((rc = orthonormal_rows(l, d, q, e)) == 0 &&
        (rc = rotate(f, p, q, image, l, components, e)) == 0)
        rc = manifold_proceed(f->run, PASSES + 1, PASSES + 1, e);
out:
    free(q);
    free(image);
    return rc;
}

/* Eigenvalues to variances; doubles to floats, signs fixed, nothing where the rank ends. */
static void finish(struct pca *p, size_t n, const double *components)
{
    double limit = p->variance[0] * 1e-14 * (double)(n > p->d ? n : p->d);
    for (size_t i = 0; i < p->k; i++) {
        const double *c = components + i * p->d;
        bool none = !(p->variance[i] > limit);
        size_t top = 0;
        for (size_t j = 1; j < p->d; j++)
            top = fabs(c[j]) > fabs(c[top]) ? j : top;
        for (size_t j = 0; j < p->d; j++)
            p->components[i * p->d + j] = none ? 0 : (float)(c[top] < 0 ? -c[j] : c[j]);
        p->variance[i] = none ? 0 : p->variance[i] / (double)(n - 1);
    }
}

static int total_variance(struct fit *f, struct pca *p, double *squares, struct err *e)
{
    run_phase(f, sum_columns, NULL, NULL, 0);
    run_phase(f, sum_squares, NULL, squares, 0);
    p->total = 0;
    for (size_t j = 0; j < p->d; j++) {
        p->mean[j] = (float)f->mean[j];
        p->total += squares[j];
    }
    p->total /= (double)(f->points->n - 1);
    return isfinite(p->total) ? 0 : err_set(e, ERR_NUMERIC, "a point is not finite");
}

int pca_fit(const struct manifold_run *run, const struct points *points,
            const struct pca_options *o, struct pca *p, struct err *e)
{
    size_t n = points->n, d = points->d, count;
    *p = (struct pca){.d = d, .k = o->components};
    if (n < 2 || d == 0 || p->k == 0 || p->k > min_size(n, d))
        return err_set_param(e, ERR_INVALID, "components",
                             "%zu components of %zu points of %zu numbers", p->k, n, d);
    struct fit f = {.run = run, .points = points};
    double *components = NULL;
    int rc = 0;
    if (mem_mul(p->k, d, &count)) {
        components = mem_calloc_aligned(count > d ? count : d, sizeof *components);
        p->components = mem_calloc_aligned(count, sizeof *p->components);
    }
    p->mean = mem_calloc_aligned(d, sizeof *p->mean);
    p->variance = mem_calloc_aligned(p->k, sizeof *p->variance);
    f.mean = mem_calloc_aligned(d, sizeof *f.mean);
    f.scratch =
        mem_calloc_aligned((size_t)pool_threads(run->pool) * 2 * TILE * DEPTH, sizeof(double));
    if (!components || !p->components || !p->mean || !p->variance || !f.mean || !f.scratch)
        rc = err_set(e, ERR_NOMEM, "no memory for %zu components of %zu numbers", p->k, d);
    if (rc == 0)
        rc = total_variance(&f, p, components, e);
    bool exact =
        o->method == PCA_EXACT || (o->method == PCA_AUTO && min_size(n, d) <= PCA_EXACT_MAX);
    if (rc == 0)
        rc =
            exact ? fit_exact(&f, p, components, e) : fit_randomised(&f, p, o->seed, components, e);
    if (rc == 0)
        finish(p, n, components);
    else
        pca_fini(p);
    free(components);
    free(f.mean);
    free(f.scratch);
    return rc;
}

void pca_fini(struct pca *p)
{
    free(p->mean);
    free(p->components);
    free(p->variance);
    *p = (struct pca){0};
}

struct map {
    const struct pca *p;
    const struct points *points;
    float *scratch; /* [threads, TILE DEPTH] */
    const float *in;
    float *out;
    size_t n, ld;
};

static void transform(void *ctx, int part, int parts)
{
    const struct map *m = ctx;
    size_t k = m->p->k, d = m->p->d, lo, hi;
    float *b = m->scratch + (size_t)part * TILE * DEPTH;
    pool_slice(m->points->n, TILE, part, parts, &lo, &hi);
    for (size_t r = lo; r < hi; r += TILE) {
        size_t r1 = min_size(r + TILE, hi);
        for (size_t t = 0; t < d; t += DEPTH) {
            size_t w = min_size(t + DEPTH, d) - t;
            for (size_t i = r; i < r1; i++)
                for (size_t j = 0; j < w; j++)
                    b[(i - r) * w + j] =
                        m->points->x[i * m->points->ld + t + j] - m->p->mean[t + j];
            gemm_f32(false, true, r1 - r, k, w, 1, b, w, m->p->components + t, d, t > 0,
                     m->out + r * k, k);
        }
    }
}

int pca_transform(struct pool *pool, const struct pca *p, const struct points *points, float *y,
                  struct err *e)
{
    size_t threads = (size_t)pool_threads(pool);
    float *scratch = mem_calloc_aligned(threads * TILE * DEPTH, sizeof *scratch);
    if (!scratch)
        return err_set(e, ERR_NOMEM, "no memory for a projection");
    struct map m = {.p = p, .points = points, .scratch = scratch, .out = y};
    pool_run(pool, transform, &m);
    free(scratch);
    return 0;
}

static void inverse(void *ctx, int part, int parts)
{
    const struct map *m = ctx;
    size_t k = m->p->k, d = m->p->d, lo, hi;
    pool_slice(m->n, TILE, part, parts, &lo, &hi);
    for (size_t r = lo; r < hi; r += TILE) {
        size_t r1 = min_size(r + TILE, hi);
        for (size_t i = r; i < r1; i++)
            memcpy(m->out + i * m->ld, m->p->mean, d * sizeof *m->out);
        gemm_f32(false, false, r1 - r, d, k, 1, m->in + r * k, k, m->p->components, d, 1,
                 m->out + r * m->ld, m->ld);
    }
}

void pca_inverse(struct pool *pool, const struct pca *p, const float *y, size_t n, float *x,
                 size_t ld)
{
    struct map m = {.p = p, .in = y, .out = x, .n = n, .ld = ld};
    pool_run(pool, inverse, &m);
}
