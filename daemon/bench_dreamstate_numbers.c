/* The measures that need numbers only. */
#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"
#include "engine/manifold/neighbors.h"
#include "engine/manifold/pca.h"

#include <math.h>

double ds_edit_margin(const struct ds_edit_point *curve, size_t n, struct ds_edit_point p)
{
    if (p.on_a <= curve[0].on_a)
        return curve[0].on_b - p.on_b;
    for (size_t i = 1; i < n; i++) {
        const struct ds_edit_point *a = &curve[i - 1], *b = &curve[i];
        if (p.on_a <= b->on_a) {
            double t = b->on_a > a->on_a ? (p.on_a - a->on_a) / (b->on_a - a->on_a) : 0;
            return a->on_b + t * (b->on_b - a->on_b) - p.on_b;
        }
    }
    return curve[n - 1].on_b - p.on_b;
}

bool ds_edit_monotone(const struct ds_edit_point *p, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (!(p[i].on_b < p[i - 1].on_b && p[i].on_a > p[i - 1].on_a))
            return false;
    return true;
}

double ds_rank(const float *distance, const int8_t *kind, size_t n)
{
    double won = 0, pairs = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; kind[i] == 1 && j < n; j++) {
            if (kind[j] != 0)
                continue;
            won += distance[i] < distance[j] ? 1 : distance[i] > distance[j] ? 0 : .5;
            pairs++;
        }
    return pairs > 0 ? won / pairs : NAN;
}

int ds_spread(const struct manifold_run *run, const struct points *p, size_t per, double *out,
              struct err *e)
{
    float *distance = malloc(per * per * sizeof *distance);
    double sum = 0, pairs = 0;
    int rc = distance ? 0 : err_set(e, ERR_NOMEM, "no memory for distances");
    for (size_t k = 0; rc == 0 && k + per <= p->n; k += per) {
        const struct points group = {p->x + k * p->ld, per, p->d, p->ld};
        rc = neighbors_distances(run, &group, &group, METRIC_EUCLIDEAN, distance, e);
        for (size_t i = 0; rc == 0 && i < per; i++)
            for (size_t j = i + 1; j < per; j++, pairs++)
                sum += (double)distance[i * per + j];
    }
    free(distance);
    *out = pairs > 0 ? sum / pairs : 0;
    return rc;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int ds_nearest(const struct manifold_run *run, const struct points *p, const struct points *to,
               double *median, struct err *e)
{
    uint32_t *index = malloc(p->n * sizeof *index);
    float *distance = malloc(p->n * sizeof *distance);
    int rc = index && distance ? 0 : err_set(e, ERR_NOMEM, "no memory for distances");
    if (rc == 0)
        rc = neighbors_find(run, p, to, &(struct neighbors_options){.k = 1}, index, distance, e);
    if (rc == 0) {
        qsort(distance, p->n, sizeof *distance, by_size);
        *median = (double)(distance[(p->n - 1) / 2] + distance[p->n / 2]) / 2;
    }
    free(index);
    free(distance);
    return rc;
}

/* The rows of one class, packed. Returns their number. */
static size_t pick_class(const struct points *p, const uint32_t *label, uint32_t class, float *out)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++)
        if (label[i] == class)
            memcpy(out + n++ * p->d, p->x + i * p->ld, p->d * sizeof *out);
    return n;
}

int ds_gaussian(const struct manifold_run *run, const struct points *p, const uint32_t *label,
                size_t n_classes, size_t per, uint64_t seed, float *out, struct err *e)
{
    float *rows = malloc(p->n * p->d * sizeof *rows);
    int rc = rows ? 0 : err_set(e, ERR_NOMEM, "no memory for a Gaussian");
    for (size_t k = 0; rc == 0 && k < n_classes; k++) {
        struct pca g = {0};
        const struct points own = {rows, pick_class(p, label, (uint32_t)k, rows), p->d, p->d};
        struct pca_options o = {.method = PCA_EXACT};
        o.components = own.n < p->d ? own.n : p->d;
        rc = pca_fit(run, &own, &o, &g, e);
        if (rc == 0)
            rc = pca_sample(run->pool, &g, seed + k, per, out + k * per * p->d, p->d, e);
        pca_fini(&g);
    }
    free(rows);
    return rc;
}

int ds_votes(const struct manifold_run *run, const struct points *p, const struct ds_voters *v,
             float *share, struct err *e)
{
    uint32_t *index = malloc(p->n * v->k * sizeof *index);
    if (!index)
        return err_set(e, ERR_NOMEM, "no memory for neighbours");
    int rc = neighbors_find(run, p, v->to, &(struct neighbors_options){.k = v->k}, index, NULL, e);
    memset(share, 0, p->n * v->n_classes * sizeof *share);
    for (size_t i = 0; rc == 0 && i < p->n * v->k; i++)
        share[i / v->k * v->n_classes + v->label[index[i]]] += 1.0f / (float)v->k;
    free(index);
    return rc;
}

double ds_vote_accuracy(const float *share, size_t n, size_t n_classes, const uint32_t *own)
{
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        size_t best = 0;
        for (size_t k = 1; k < n_classes; k++)
            if (share[i * n_classes + k] > share[i * n_classes + best] + 1e-6f)
                best = k;
        right += best == own[i];
    }
    return (double)right / (double)n;
}
