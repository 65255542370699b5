/* Everything is a scan: stripes of rows of a against all of b, a tile of distances at a time; a thread
 * owns whole tiles of rows, so what a visitor keeps for a row is one thread's. */
#include "engine/manifold/neighbors.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/manifold/moments.h"

#include <math.h>

#define TILE   MOMENTS_TILE
#define DEPTH  MOMENTS_DEPTH
#define STRIPE (8 * TILE) /* rows between two looks at the cancel */

struct scan {
    const struct manifold_run *run;
    const struct points *a, *b;
    enum metric metric;
    /* Distances of row i of a to rows cols[0]..cols[1] of b, in order of cols. */
    void (*visit)(void *ctx, size_t i, const size_t cols[2], const double *distance);
    void *ctx;
    /* set by scan_run */
    double *norm_a, *norm_b; /* squared */
    double *scratch;         /* moments_scratch_new */
    double *tile;            /* [threads, TILE, TILE] */
    size_t first, last;      /* the stripe */
};

static void squared_norms(const struct points *p, double *norm)
{
    for (size_t i = 0; i < p->n; i++) {
        norm[i] = 0;
        for (size_t j = 0; j < p->d; j++)
            norm[i] += (double)p->x[i * p->ld + j] * (double)p->x[i * p->ld + j];
    }
}

static double distance_of(const struct scan *s, size_t i, size_t j, double dot)
{
    double na = s->norm_a[i], nb = s->norm_b[j];
    if (s->metric == METRIC_COSINE)
        return na > 0 && nb > 0 ? fmax(1 - dot / (sqrt(na) * sqrt(nb)), 0) : 1;
    double square = fmax(na + nb - 2 * dot, 0);
    return s->metric == METRIC_SQUARED ? square : sqrt(square);
}

/* out [rows, cols] of the products of a's and b's rows. */
static void dot_tile(const struct scan *s, const size_t rows[2], const size_t cols[2], double *x,
                     double *out)
{
    double *y = x + TILE * DEPTH;
    size_t m = rows[1] - rows[0], n = cols[1] - cols[0];
    for (size_t at = 0; at < s->a->d; at += DEPTH) {
        size_t t[2] = {at, moments_min(at + DEPTH, s->a->d)}, w = t[1] - at;
        moments_copy(s->a, NULL, rows, t, x);
        moments_copy(s->b, NULL, cols, t, y);
        gemm_f64(false, true, m, n, w, 1, x, w, y, w, at > 0, out, n);
    }
}

static void scan_stripe(void *ctx, int part, int parts)
{
    const struct scan *s = ctx;
    double *tile = s->tile + (size_t)part * TILE * TILE;
    size_t lo, hi;
    pool_slice(s->last - s->first, TILE, part, parts, &lo, &hi);
    for (size_t r = s->first + lo; r < s->first + hi; r += TILE) {
        size_t rows[2] = {r, moments_min(r + TILE, s->first + hi)};
        for (size_t c = 0; c < s->b->n; c += TILE) {
            size_t cols[2] = {c, moments_min(c + TILE, s->b->n)}, n = cols[1] - c;
            dot_tile(s, rows, cols, moments_scratch(s->scratch, part), tile);
            for (size_t i = rows[0]; i < rows[1]; i++) {
                double *row = tile + (i - r) * n;
                for (size_t j = c; j < cols[1]; j++)
                    row[j - c] = distance_of(s, i, j, row[j - c]);
                s->visit(s->ctx, i, cols, row);
            }
        }
    }
}

static int check_norms(const double *norm, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(norm[i]))
            return err_set(e, ERR_NUMERIC, "point %zu is not finite", i);
    return 0;
}

static int scan_run(struct scan *s, struct err *e)
{
    size_t threads = (size_t)pool_threads(s->run->pool);
    int rc = 0;
    if (s->a->d != s->b->d)
        return err_set(e, ERR_INVALID, "distances from points of %zu numbers to points of %zu",
                       s->a->d, s->b->d);
    s->norm_a = mem_calloc_aligned(s->a->n, sizeof *s->norm_a);
    s->norm_b = mem_calloc_aligned(s->b->n, sizeof *s->norm_b);
    s->scratch = moments_scratch_new(s->run->pool);
    s->tile = mem_calloc_aligned(threads * TILE * TILE, sizeof *s->tile);
    if (!s->norm_a || !s->norm_b || !s->scratch || !s->tile) {
        rc = err_set(e, ERR_NOMEM, "no memory for the distances of %zu points", s->a->n);
        goto out;
    }
    squared_norms(s->a, s->norm_a);
    squared_norms(s->b, s->norm_b);
    if ((rc = check_norms(s->norm_a, s->a->n, e)) < 0 ||
        (rc = check_norms(s->norm_b, s->b->n, e)) < 0)
        goto out;
    for (s->first = 0; s->first < s->a->n; s->first = s->last) {
        if ((rc = manifold_proceed(s->run, s->first, s->a->n, e)) < 0)
            goto out;
        s->last = moments_min(s->first + STRIPE, s->a->n);
        pool_run(s->run->pool, scan_stripe, s);
    }
out:
    free(s->norm_a);
    free(s->norm_b);
    free(s->scratch);
    free(s->tile);
    return rc;
}

struct matrix {
    float *out;
    size_t n;
};

static void visit_matrix(void *ctx, size_t i, const size_t cols[2], const double *distance)
{
    const struct matrix *m = ctx;
    for (size_t j = cols[0]; j < cols[1]; j++)
        m->out[i * m->n + j] = (float)distance[j - cols[0]];
}

int neighbors_distances(const struct manifold_run *run, const struct points *a,
                        const struct points *b, enum metric metric, float *out, struct err *e)
{
    struct matrix m = {out, b->n};
    struct scan s = {
        .run = run, .a = a, .b = b, .metric = metric, .visit = visit_matrix, .ctx = &m};
    return scan_run(&s, e);
}

struct nearest {
    const struct neighbors_options *o;
    uint32_t *index;  /* [n, k] sorted by distance */
    double *distance; /* [n, k], INFINITY where not found yet */
};

static void visit_nearest(void *ctx, size_t i, const size_t cols[2], const double *distance)
{
    const struct nearest *w = ctx;
    size_t k = w->o->k;
    uint32_t *index = w->index + i * k;
    double *best = w->distance + i * k;
    for (size_t j = cols[0]; j < cols[1]; j++) {
        double d = distance[j - cols[0]];
        if (d >= best[k - 1] || (w->o->skip_same && j == i))
            continue;
        size_t at = k - 1;
        for (; at > 0 && best[at - 1] > d; at--) {
            best[at] = best[at - 1];
            index[at] = index[at - 1];
        }
        best[at] = d;
        index[at] = (uint32_t)j;
    }
}

int neighbors_find(const struct manifold_run *run, const struct points *a, const struct points *b,
                   const struct neighbors_options *o, uint32_t *index, float *distance,
                   struct err *e)
{
    size_t count;
    if (o->k == 0 || o->k + (o->skip_same ? 1 : 0) > b->n || b->n > UINT32_MAX)
        return err_set_param(e, ERR_INVALID, "k", "%zu neighbours among %zu points", o->k, b->n);
    struct nearest w = {.o = o, .index = index};
    struct scan s = {
        .run = run, .a = a, .b = b, .metric = o->metric, .visit = visit_nearest, .ctx = &w};
    if (!mem_mul(a->n, o->k, &count) || !(w.distance = mem_calloc_aligned(count, sizeof(double))))
        return err_set(e, ERR_NOMEM, "no memory for %zu neighbours of %zu points", o->k, a->n);
    for (size_t i = 0; i < count; i++)
        w.distance[i] = INFINITY;
    int rc = scan_run(&s, e);
    for (size_t i = 0; rc == 0 && distance && i < count; i++)
        distance[i] = (float)w.distance[i];
    free(w.distance);
    return rc;
}

double neighbors_vote(const uint32_t *index, size_t n, size_t k, const uint32_t *label,
                      size_t n_labels, uint32_t *predicted)
{
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t best = 0;
        size_t most = 0;
        for (size_t a = 0; a < k; a++) {
            uint32_t l = label[index[i * k + a]];
            size_t votes = 0;
            for (size_t b = 0; b < k; b++)
                votes += label[index[i * k + b]] == l;
            if (votes > most || (votes == most && l < best)) {
                most = votes;
                best = l;
            }
        }
        if (predicted)
            predicted[i] = best;
        right += best < n_labels && best == label[i];
    }
    return (double)right / (double)n;
}

struct sums {
    const struct silhouette_options *o;
    double *sum; /* [n, n_labels] of the distances of a point to each label's */
};

static void visit_sums(void *ctx, size_t i, const size_t cols[2], const double *distance)
{
    const struct sums *w = ctx;
    double *sum = w->sum + i * w->o->n_labels;
    for (size_t j = cols[0]; j < cols[1]; j++)
        if (j != i)
            sum[w->o->label[j]] += distance[j - cols[0]];
}

static double silhouette_of(const double *sum, const size_t *count, size_t n_labels, size_t own)
{
    if (count[own] < 2)
        return 0;
    double a = sum[own] / (double)(count[own] - 1), b = INFINITY;
    for (size_t l = 0; l < n_labels; l++)
        if (l != own && count[l] > 0)
            b = fmin(b, sum[l] / (double)count[l]);
    return fmax(a, b) > 0 ? (b - a) / fmax(a, b) : 0;
}

int neighbors_silhouette(const struct manifold_run *run, const struct points *p,
                         const struct silhouette_options *o, float *sample, double *mean,
                         struct err *e)
{
    struct sums w = {.o = o};
    struct scan s = {
        .run = run, .a = p, .b = p, .metric = o->metric, .visit = visit_sums, .ctx = &w};
    size_t cells, used = 0, *count = calloc(o->n_labels ? o->n_labels : 1, sizeof *count);
    int rc = 0;
    if (!count || !mem_mul(p->n, o->n_labels, &cells) ||
        !(w.sum = mem_calloc_aligned(cells, sizeof *w.sum))) {
        rc = err_set(e, ERR_NOMEM, "no memory for %zu labels of %zu points", o->n_labels, p->n);
        goto out;
    }
    for (size_t i = 0; i < p->n; i++)
        used += count[o->label[i]]++ == 0;
    if (used < 2)
        rc = err_set_param(e, ERR_INVALID, "label", "a silhouette needs points of two labels");
    if (rc == 0)
        rc = scan_run(&s, e);
    *mean = 0;
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        double v = silhouette_of(w.sum + i * o->n_labels, count, o->n_labels, o->label[i]);
        *mean += v / (double)p->n;
        if (sample)
            sample[i] = (float)v;
    }
out:
    free(count);
    free(w.sum);
    return rc;
}

/* The share of from's points that have their nearest of `from` before their nearest of `to`. */
static int own_share(const struct manifold_run *run, const struct points *from,
                     const struct points *to, enum metric metric, double *share, struct err *e)
{
    struct neighbors_options own = {1, metric, true}, other = {1, metric, false};
    uint32_t *index = calloc(from->n, sizeof *index);
    float *d = calloc(2 * from->n, sizeof *d);
    int rc = 0;
    size_t same = 0;
    if (!index || !d)
        rc = err_set(e, ERR_NOMEM, "no memory for %zu neighbours", from->n);
    if (rc == 0 && (rc = neighbors_find(run, from, from, &own, index, d, e)) == 0)
        rc = neighbors_find(run, from, to, &other, index, d + from->n, e);
    for (size_t i = 0; rc == 0 && i < from->n; i++)
        same += d[i] < d[from->n + i];
    *share = (double)same / (double)from->n;
    free(index);
    free(d);
    return rc;
}

int neighbors_two_sample(const struct manifold_run *run, const struct points *a,
                         const struct points *b, enum metric metric, struct two_sample *out,
                         struct err *e)
{
    if (a->n < 2 || b->n < 2)
        return err_set(e, ERR_INVALID, "a test of %zu points against %zu", a->n, b->n);
    int rc = own_share(run, a, b, metric, &out->a, e);
    if (rc == 0)
        rc = own_share(run, b, a, metric, &out->b, e);
    out->both = (out->a * (double)a->n + out->b * (double)b->n) / (double)(a->n + b->n);
    return rc;
}
