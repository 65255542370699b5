#include "engine/manifold/tsne.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"
#include "engine/manifold/neighbors.h"
#include "engine/manifold/pca.h"

#include <math.h>

#define ENTROPY_TOL   1e-5
#define ENTROPY_STEPS 100
#define MIN_GAIN      .01
#define P_MIN         2.22e-16f /* as scikit-learn; and no denormal numbers, which are slow */
#define START_STD     1e-4

struct affinities {
    float *P; /* [n, n]: squared distances in, p_j|i out */
    size_t n;
    double perplexity;
};

/* p [n] = exp(-(d - least) beta), own entry 0. Returns their sum; *mean is of d - least under p. */
static double weigh(const float *d, size_t n, size_t own, double least, double beta, float *p,
                    double *mean)
{
    double sum = 0, moment = 0;
    for (size_t j = 0; j < n; j++) {
        double over = (double)d[j] - least;
        double w = j == own ? 0 : exp(-over * beta);
        p[j] = (float)w;
        sum += w;
        moment += w * over;
    }
    *mean = moment / sum;
    return sum;
}

/* Bisection on beta until the entropy, log sum + beta mean, is log(perplexity). */
static void row_affinities(const struct affinities *a, size_t i, float *d)
{
    float *row = a->P + i * a->n;
    double beta = 1, low = 0, high = INFINITY, least = INFINITY, mean, sum;
    memcpy(d, row, a->n * sizeof *d);
    for (size_t j = 0; j < a->n; j++)
        least = j != i && (double)d[j] < least ? (double)d[j] : least;
    for (int step = 0;; step++) {
        sum = weigh(d, a->n, i, least, beta, row, &mean);
        double over = log(sum) + beta * mean - log(a->perplexity);
        if (fabs(over) <= ENTROPY_TOL || step == ENTROPY_STEPS)
            break;
        if (over > 0) {
            low = beta;
            beta = isinf(high) ? beta * 2 : (beta + high) / 2;
        } else {
            high = beta;
            beta = (beta + low) / 2;
        }
    }
    for (size_t j = 0; j < a->n; j++)
        row[j] = (float)((double)row[j] / sum);
}

struct joint {
    struct affinities a;
    float *rows; /* [threads, n] */
};

static void conditional(void *ctx, int part, int parts)
{
    struct joint *j = ctx;
    size_t lo, hi;
    pool_slice(j->a.n, 1, part, parts, &lo, &hi);
    for (size_t i = lo; i < hi; i++)
        row_affinities(&j->a, i, j->rows + (size_t)part * j->a.n);
}

/* P_ij = P_ji = (p_j|i + p_i|j) / 2n; a pair belongs to the thread of its smaller index. */
static void symmetric(void *ctx, int part, int parts)
{
    const struct affinities *a = &((struct joint *)ctx)->a;
    for (size_t i = (size_t)part; i < a->n; i += (size_t)parts)
        for (size_t j = i + 1; j < a->n; j++) {
            float p = (a->P[i * a->n + j] + a->P[j * a->n + i]) / (2 * (float)a->n);
            p = p > P_MIN ? p : P_MIN;
            a->P[i * a->n + j] = a->P[j * a->n + i] = p;
        }
}

int tsne__joint(const struct manifold_run *run, const struct points *points, double perplexity,
                float *P, struct err *e)
{
    struct joint j = {.a = {P, points->n, perplexity}};
    struct manifold_run quiet = {.pool = run->pool};
    int rc = neighbors_distances(&quiet, points, points, METRIC_SQUARED, P, e);
    if (rc < 0)
        return rc;
    j.rows = mem_calloc_aligned((size_t)pool_threads(run->pool) * points->n, sizeof *j.rows);
    if (!j.rows)
        return err_set(e, ERR_NOMEM, "no memory for the affinities of %zu points", points->n);
    pool_run(run->pool, conditional, &j);
    pool_run(run->pool, symmetric, &j);
    free(j.rows);
    return 0;
}

/* Attraction into gradient, w and repulsion into sums: Z is known when all rows are. */
static void forces(void *ctx, int part, int parts)
{
    const struct tsne__gradient *g = ctx;
    const float *x = g->y, *y = g->y + g->n;
    size_t n = g->n, lo, hi;
    pool_slice(n, 1, part, parts, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        const float *P = g->P + i * n;
        float ax = 0, ay = 0, z = 0, rx = 0, ry = 0, xi = x[i], yi = y[i];
#pragma omp simd reduction(+ : ax, ay, z, rx, ry)
        for (size_t j = 0; j < n; j++) {
            float dx = xi - x[j], dy = yi - y[j];
            float w = 1 / (1 + dx * dx + dy * dy), pw = P[j] * w, ww = w * w;
            z += w;
            ax += pw * dx;
            ay += pw * dy;
            rx += ww * dx;
            ry += ww * dy;
        }
        g->gradient[i] = (double)(ax * g->exaggeration);
        g->gradient[n + i] = (double)(ay * g->exaggeration);
        g->sums[i] = (double)z - 1; /* w_ii */
        g->sums[n + i] = (double)rx;
        g->sums[2 * n + i] = (double)ry;
    }
}

static double sum_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

void tsne__gradient(struct pool *pool, const struct tsne__gradient *g)
{
    struct tsne__gradient job = *g;
    pool_run(pool, forces, &job);
    double Z = sum_of(g->sums, g->n);
    for (size_t i = 0; i < 2 * g->n; i++)
        g->gradient[i] = 4 * (g->gradient[i] - g->sums[g->n + i] / Z);
}

/* sums: of w, and of p log(p / w). */
static void divergences(void *ctx, int part, int parts)
{
    const struct tsne__gradient *g = ctx;
    size_t n = g->n, lo, hi;
    pool_slice(n, 1, part, parts, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        double z = 0, kl = 0;
        for (size_t j = 0; j < n; j++) {
            double dx = (double)g->y[i] - (double)g->y[j];
            double dy = (double)g->y[n + i] - (double)g->y[n + j];
            double w = 1 / (1 + dx * dx + dy * dy), p = (double)g->P[i * n + j];
            z += j == i ? 0 : w;
            kl += p > 0 ? p * log(p / w) : 0;
        }
        g->sums[i] = z;
        g->sums[n + i] = kl;
    }
}

double tsne__divergence(struct pool *pool, const struct tsne__gradient *g)
{
    struct tsne__gradient job = *g;
    pool_run(pool, divergences, &job);
    return sum_of(g->sums + g->n, g->n) + log(sum_of(g->sums, g->n));
}

/* y [2, n]: draws, or the first two principal components with the first's deviation at START_STD. */
static int start(const struct manifold_run *run, const struct points *points,
                 const struct tsne_options *o, float *y, struct err *e)
{
    size_t n = points->n;
    struct rng rng;
    rng_init(&rng, o->seed, 0);
    for (size_t i = 0; i < 2 * n; i++)
        y[i] = (float)(START_STD * rng_normal(&rng));
    if (o->random_start || points->d < 2)
        return 0;
    struct manifold_run quiet = {.pool = run->pool};
    struct pca p;
    float *xy = mem_calloc_aligned(2 * n, sizeof *xy);
    if (!xy)
        return err_set(e, ERR_NOMEM, "no memory for a map of %zu points", n);
    int rc = pca_fit(&quiet, points, &(struct pca_options){.components = 2}, &p, e);
    if (rc == 0) {
        rc = pca_transform(run->pool, &p, points, xy, e);
        double scale = p.variance[0] > 0 ? START_STD / sqrt(p.variance[0]) : 0;
        for (size_t i = 0; rc == 0 && scale > 0 && i < 2 * n; i++)
            y[i % 2 * n + i / 2] = (float)(scale * (double)xy[i]);
        pca_fini(&p);
    }
    free(xy);
    return rc;
}

struct descent {
    struct tsne__gradient g;
    float *y;              /* [2, n] */
    double *update, *gain; /* [2, n] */
};

static void step(struct descent *s, double momentum, double rate)
{
    for (size_t i = 0; i < 2 * s->g.n; i++) {
        bool turns = s->update[i] * s->g.gradient[i] >= 0; /* the step to come goes the other way */
        s->gain[i] = fmax(turns ? s->gain[i] * .8 : s->gain[i] + .2, MIN_GAIN);
        s->update[i] = momentum * s->update[i] - rate * s->gain[i] * s->g.gradient[i];
        s->y[i] = (float)((double)s->y[i] + s->update[i]);
    }
}

static int descend(const struct manifold_run *run, const struct tsne_options *o, struct descent *s,
                   struct err *e)
{
    double rate = o->learning_rate > 0 ? o->learning_rate
                                       : fmax((double)s->g.n / o->early_exaggeration / 4, 50);
    for (size_t i = 0; i < 2 * s->g.n; i++)
        s->gain[i] = 1;
    for (size_t i = 0; i < o->iterations; i++) {
        int rc = manifold_proceed(run, i, o->iterations, e);
        if (rc < 0)
            return rc;
        if (i == o->exaggeration_iterations) /* a new phase: no momentum from the other landscape */
            for (size_t j = 0; j < 2 * s->g.n; j++) {
                s->gain[j] = 1;
                s->update[j] = 0;
            }
        bool early = i < o->exaggeration_iterations;
        s->g.exaggeration = early ? (float)o->early_exaggeration : 1;
        tsne__gradient(run->pool, &s->g);
        step(s, early ? .5 : .8, rate);
    }
    return manifold_proceed(run, o->iterations, o->iterations, e);
}

static int check_options(const struct points *p, const struct tsne_options *o, struct err *e)
{
    double most = ((double)p->n - 1) / 3;
    if (p->n < 4 || p->n > TSNE_MAX)
        return err_set(e, ERR_INVALID, "a map of %zu points: 4 to %d", p->n, TSNE_MAX);
    if (!(o->perplexity >= 1 && o->perplexity <= most))
        return err_set_param(e, ERR_INVALID, "perplexity", "%g: 1 to %g for %zu points",
                             o->perplexity, most, p->n);
    if (o->iterations < 1 || o->iterations > 10000)
        return err_set_param(e, ERR_INVALID, "iterations", "%zu: 1 to 10000", o->iterations);
    if (!(o->early_exaggeration >= 1 && o->early_exaggeration <= 1000))
        return err_set_param(e, ERR_INVALID, "early_exaggeration", "%g: 1 to 1000",
                             o->early_exaggeration);
    if (!(o->learning_rate >= 0 && o->learning_rate <= 1e6))
        return err_set_param(e, ERR_INVALID, "learning_rate", "%g: 0 to 1e6", o->learning_rate);
    return 0;
}

int tsne_fit(const struct manifold_run *run, const struct points *points,
             const struct tsne_options *o, float *y, double *kl, struct err *e)
{
    size_t n = points->n;
    int rc = check_options(points, o, e);
    if (rc < 0)
        return rc;
    float *P = mem_calloc_aligned(n * n, sizeof *P), *map = mem_calloc_aligned(2 * n, sizeof *map);
    double *work = mem_calloc_aligned(9 * n, sizeof *work);
    if (!P || !map || !work)
        rc = err_set(e, ERR_NOMEM, "no memory for a map of %zu points", n);
    if (rc == 0 && (rc = tsne__joint(run, points, o->perplexity, P, e)) == 0)
        rc = start(run, points, o, map, e);
    if (rc == 0) {
        struct descent s = {.g = {P, map, n, 1, work, work + 2 * n},
                            .y = map,
                            .update = work + 5 * n,
                            .gain = work + 7 * n};
        rc = descend(run, o, &s, e);
        *kl = tsne__divergence(run->pool, &s.g);
        for (size_t i = 0; i < n; i++) {
            y[2 * i] = map[i];
            y[2 * i + 1] = map[n + i];
        }
    }
    if (rc == 0 && !isfinite(*kl))
        rc = err_set(e, ERR_NUMERIC, "the map of %zu points diverged: a smaller learning rate", n);
    free(P);
    free(map);
    free(work);
    return rc;
}
