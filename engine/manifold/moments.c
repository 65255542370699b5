#include "engine/manifold/moments.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"

#include <math.h>

#define TILE          MOMENTS_TILE
#define DEPTH         MOMENTS_DEPTH
#define AGREEMENT_MAX 4096

double *moments_scratch_new(const struct pool *pool)
{
    return mem_calloc_aligned((size_t)pool_threads(pool) * 2 * TILE * DEPTH, sizeof(double));
}

void moments_copy(const struct points *p, const double *mean, const size_t rows[2],
                  const size_t cols[2], double *out)
{
    for (size_t r = rows[0]; r < rows[1]; r++)
        for (size_t c = cols[0]; c < cols[1]; c++)
            *out++ = (double)p->x[r * p->ld + c] - (mean ? mean[c] : 0);
}

struct means {
    const struct points *p;
    double *mean, *squares;
};

static void column_moments(void *ctx, int part, int parts)
{
    const struct means *m = ctx;
    const struct points *p = m->p;
    size_t lo, hi;
    pool_slice(p->d, 16, part, parts, &lo, &hi);
    for (size_t j = lo; j < hi; j++)
        m->mean[j] = m->squares[j] = 0;
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = lo; j < hi; j++)
            m->mean[j] += (double)p->x[i * p->ld + j];
    for (size_t j = lo; j < hi; j++)
        m->mean[j] /= (double)p->n;
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = lo; j < hi; j++) {
            double x = (double)p->x[i * p->ld + j] - m->mean[j];
            m->squares[j] += x * x;
        }
}

void moments_mean(struct pool *pool, const struct points *p, double *mean, double *squares)
{
    struct means m = {p, mean, squares};
    pool_run(pool, column_moments, &m);
}

/* Tile (I, J), J >= I, of out [m, m] = M M^T with M = X (by_rows) or X^T. */
static void square_tile(const struct moments_square *s, size_t I, size_t J, double *a)
{
    size_t m = s->by_rows ? s->points->n : s->points->d;
    size_t depth = s->by_rows ? s->points->d : s->points->n;
    size_t i[2] = {I, moments_min(I + TILE, m)}, j[2] = {J, moments_min(J + TILE, m)};
    double *b = a + TILE * DEPTH;
    for (size_t at = 0; at < depth; at += DEPTH) {
        size_t t[2] = {at, moments_min(at + DEPTH, depth)}, w = t[1] - t[0];
        moments_copy(s->points, s->mean, s->by_rows ? i : t, s->by_rows ? t : i, a);
        moments_copy(s->points, s->mean, s->by_rows ? j : t, s->by_rows ? t : j, b);
        gemm_f64(!s->by_rows, s->by_rows, i[1] - i[0], j[1] - j[0], w, 1, a,
                 s->by_rows ? w : i[1] - i[0], b, s->by_rows ? w : j[1] - j[0], at > 0,
                 s->out + I * m + J, m);
    }
}

static void square(void *ctx, int part, int parts)
{
    const struct moments_square *s = ctx;
    size_t m = s->by_rows ? s->points->n : s->points->d, tile = 0;
    for (size_t I = 0; I < m; I += TILE)
        for (size_t J = I; J < m; J += TILE, tile++)
            if (tile % (size_t)parts == (size_t)part)
                square_tile(s, I, J, moments_scratch(s->scratch, part));
}

void moments_square(struct pool *pool, const struct moments_square *s)
{
    struct moments_square job = *s;
    pool_run(pool, square, &job);
}

void moments_stats(const struct points *p, struct moments_stats *out)
{
    double sum = 0, squares = 0, count = (double)p->n * (double)p->d;
    *out = (struct moments_stats){.norm_min = INFINITY};
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < p->d; j++)
            sum += (double)p->x[i * p->ld + j];
    out->mean = sum / count;
    for (size_t i = 0; i < p->n; i++) {
        double norm = 0;
        for (size_t j = 0; j < p->d; j++) {
            double x = (double)p->x[i * p->ld + j];
            squares += (x - out->mean) * (x - out->mean);
            norm += x * x;
            out->max = fmax(out->max, fabs(x));
        }
        norm = sqrt(norm);
        out->norm += norm / (double)p->n;
        out->norm_min = fmin(out->norm_min, norm);
        out->norm_max = fmax(out->norm_max, norm);
    }
    out->std = sqrt(squares / count);
}

/* out [d, d], the upper triangle, overwritten: correlations. A number that does not vary has none: 0. */
static int correlations(const struct manifold_run *run, const struct points *p, double *out,
                        struct err *e)
{
    size_t d = p->d;
    double *mean = mem_calloc_aligned(d, sizeof *mean), *sum = mem_calloc_aligned(d, sizeof *sum);
    double *scratch = moments_scratch_new(run->pool);
    int rc = 0;
    if (!mean || !sum || !scratch) {
        rc = err_set(e, ERR_NOMEM, "no memory for the correlations of %zu numbers", d);
        goto out;
    }
    moments_mean(run->pool, p, mean, sum);
    moments_square(run->pool, &(struct moments_square){p, mean, false, scratch, out});
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++) {
            double scale = sqrt(sum[i] * sum[j]);
            out[i * d + j] = scale > 0 ? out[i * d + j] / scale : 0;
        }
out:
    free(mean);
    free(sum);
    free(scratch);
    return rc;
}

/* Pearson's correlation of the entries (i, j), i's block before j's, of x and y [d, d]. */
static double pearson_across(const double *x, const double *y, size_t d, size_t block)
{
    double n = 0, mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < d; i++)
        for (size_t j = (i / block + 1) * block; j < d; j++, n++) {
            mx += x[i * d + j];
            my += y[i * d + j];
        }
    mx /= n;
    my /= n;
    for (size_t i = 0; i < d; i++)
        for (size_t j = (i / block + 1) * block; j < d; j++) {
            double a = x[i * d + j] - mx, b = y[i * d + j] - my;
            xx += a * a;
            yy += b * b;
            xy += a * b;
        }
    return xy / sqrt(xx * yy);
}

int moments_agreement(const struct manifold_run *run, const struct points *a,
                      const struct points *b, size_t block, double *agreement, struct err *e)
{
    size_t d = a->d;
    if (b->d != d || d > AGREEMENT_MAX || block == 0 || block >= d || a->n < 2 || b->n < 2)
        return err_set(e, ERR_INVALID,
                       "correlations of %zu and %zu points of %zu and %zu numbers in blocks of %zu",
                       a->n, b->n, d, b->d, block);
    double *x = mem_calloc_aligned(d * d, sizeof *x), *y = mem_calloc_aligned(d * d, sizeof *y);
    int rc = 0;
    if (!x || !y)
        rc = err_set(e, ERR_NOMEM, "no memory for the correlations of %zu numbers", d);
    if (rc == 0)
        rc = correlations(run, a, x, e);
    if (rc == 0)
        rc = manifold_proceed(run, 1, 2, e);
    if (rc == 0)
        rc = correlations(run, b, y, e);
    if (rc == 0 && !isfinite(*agreement = pearson_across(x, y, d, block)))
        rc = err_set(e, ERR_NUMERIC, "correlations that do not vary, or points not finite");
    free(x);
    free(y);
    return rc;
}
