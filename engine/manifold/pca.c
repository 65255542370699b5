/* Three products with the centred points X [n, d] make all of it: a square (X^T X or X X^T, moments.h),
 * a projection Q X^T and a combination A X. Their sums run over chunks of fixed size and each tile of
 * a result is one thread's, so that the number of threads changes no bit. */
#include "engine/manifold/pca.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/lapack.h"
#include "engine/kernels/rng.h"
#include "engine/manifold/moments.h"

#include <math.h>

#define TILE       MOMENTS_TILE
#define DEPTH      MOMENTS_DEPTH
#define OVERSAMPLE 10
#define PASSES     6

struct fit {
    const struct manifold_run *run;
    const struct points *points;
    double *mean;    /* [d] */
    double *scratch; /* moments_scratch_new */
    /* the phase at hand */
    const double *left; /* [k, d] of project, [k, n] of combine */
    double *out;
    size_t k;
};

/* out [k, n] = left [k, d] X^T */
static void project(void *ctx, int part, int parts)
{
    const struct fit *f = ctx;
    size_t n = f->points->n, d = f->points->d, lo, hi;
    double *b = moments_scratch(f->scratch, part);
    pool_slice(n, TILE, part, parts, &lo, &hi);
    for (size_t r = lo; r < hi; r += TILE) {
        size_t rows[2] = {r, moments_min(r + TILE, hi)};
        for (size_t t = 0; t < d; t += DEPTH) {
            size_t cols[2] = {t, moments_min(t + DEPTH, d)}, w = cols[1] - t;
            moments_copy(f->points, f->mean, rows, cols, b);
            gemm_f64(false, true, f->k, rows[1] - r, w, 1, f->left + t, d, b, w, t > 0, f->out + r,
                     n);
        }
    }
}

/* out [k, d] = left [k, n] X */
static void combine(void *ctx, int part, int parts)
{
    const struct fit *f = ctx;
    size_t n = f->points->n, d = f->points->d, lo, hi;
    double *b = moments_scratch(f->scratch, part);
    pool_slice(d, TILE, part, parts, &lo, &hi);
    for (size_t c = lo; c < hi; c += TILE) {
        size_t cols[2] = {c, moments_min(c + TILE, hi)}, w = cols[1] - c;
        for (size_t t = 0; t < n; t += DEPTH) {
            size_t rows[2] = {t, moments_min(t + DEPTH, n)};
            moments_copy(f->points, f->mean, rows, cols, b);
            gemm_f64(false, false, f->k, w, rows[1] - t, 1, f->left + t, n, b, w, t > 0, f->out + c,
                     d);
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
    bool by_rows = n < d;
    size_t m = by_rows ? n : d, bytes;
    double *a = NULL, *u = NULL;
    int rc = 0;
    if (!mem_mul(m, m, &bytes) || !(a = mem_calloc_aligned(bytes, sizeof *a)) ||
        (by_rows && !(u = mem_calloc_aligned(p->k * n, sizeof *u)))) {
        rc = err_set(e, ERR_NOMEM, "no memory for the covariance of %zu numbers", m);
        goto out;
    }
    moments_square(f->run->pool,
                   &(struct moments_square){f->points, f->mean, by_rows, f->scratch, a});
    if ((rc = manifold_proceed(f->run, 1, 2, e)) < 0 ||
        (rc = eigen_symmetric(m, a, p->k, p->variance, by_rows ? u : components, e)) < 0)
        goto out;
    for (size_t i = 0; i < p->k && by_rows; i++)
        for (size_t j = 0; j < n; j++)
            u[i * n + j] /= p->variance[i] > 0 ? sqrt(p->variance[i]) : 1;
    if (by_rows)
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
    size_t n = f->points->n, d = f->points->d,
           l = moments_min(p->k + OVERSAMPLE, moments_min(n, d));
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
    moments_mean(f->run->pool, f->points, f->mean, squares);
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
    if (n < 2 || d == 0 || p->k == 0 || p->k > moments_min(n, d))
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
        o->method == PCA_EXACT || (o->method == PCA_AUTO && moments_min(n, d) <= PCA_EXACT_MAX);
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
        size_t r1 = moments_min(r + TILE, hi);
        for (size_t t = 0; t < d; t += DEPTH) {
            size_t w = moments_min(t + DEPTH, d) - t;
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
        size_t r1 = moments_min(r + TILE, hi);
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

int pca_sample(struct pool *pool, const struct pca *p, uint64_t seed, size_t n, float *x, size_t ld,
               struct err *e)
{
    struct rng rng;
    float *z = mem_calloc_aligned(n * p->k, sizeof *z);
    if (!z)
        return err_set(e, ERR_NOMEM, "no memory for %zu samples", n);
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n * p->k; i++)
        z[i] = (float)(rng_normal(&rng) * sqrt(p->variance[i % p->k]));
    pca_inverse(pool, p, z, n, x, ld);
    free(z);
    return 0;
}
