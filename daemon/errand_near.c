/* The states nearest to one: all are read, one after the other, and the nearest kept. */
#include "daemon/errand_impl.h"
#include "daemon/fetch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct near {
    const struct errand_run *r;
    struct state_neighbors *c;
    struct fetched from;
};

static double distance(const struct rwkv_info *info, const float *a, const float *b,
                       enum metric metric)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < rwkv_block_count(info); i++) {
        struct rwkv_block k = rwkv_block(info, i);
        if (k.part != RWKV_WKV)
            continue;
        struct rwkv_difference d = rwkv_compare(a + k.first, b + k.first, k.n);
        double apart = d.norm_a > 0 ? d.relative_l2 * d.norm_a : d.norm_b;
        sum += metric == METRIC_COSINE ? 1 - d.cosine : apart * apart;
        n++;
    }
    return metric == METRIC_COSINE ? sum / n : sqrt(sum);
}

/* Keeps ref (taken) in its place among the k nearest, or frees it. */
static void keep(struct state_neighbors *c, char *ref, double d)
{
    size_t at = c->n_found;
    if (at == c->k && d >= c->found[at - 1].distance) {
        free(ref);
        return;
    }
    if (at == c->k)
        free(c->found[--at].ref);
    else
        c->n_found++;
    for (; at > 0 && c->found[at - 1].distance > d; at--)
        c->found[at] = c->found[at - 1];
    c->found[at] = (struct neighbor){ref, d};
}

static int look(void *arg, const struct state_info *record, struct err *e)
{
    struct near *w = arg;
    struct fetched s;
    if (!strcmp(record->name, w->from.info.name))
        return 0;
    if (++w->c->n_seen > NEIGHBORS_MAX_STATES)
        return err_set(e, ERR_TOO_LARGE, "more than %d states: choose by tag or prefix",
                       NEIGHBORS_MAX_STATES);
    if (errand_proceed(w->r, e) < 0)
        return e->code;
    int rc = fetch_state(w->r->svc, w->r->model, record->name, NULL, &s, e);
    if (rc == ERR_STATE_NOT_FOUND) { /* it went while we looked */
        *e = (struct err){0};
        return 0;
    }
    if (rc < 0)
        return rc;
    double d = distance(w->r->model->rwkv_info, w->from.state, s.state, w->c->metric);
    char *ref = strdup(s.ref);
    fetched_fini(&s);
    if (!ref)
        return err_set(e, ERR_NOMEM, "no memory for a name");
    keep(w->c, ref, d);
    return 0;
}

static int near_check(const struct errand *errand, struct err *e)
{
    const struct state_neighbors *c = (const struct state_neighbors *)(const void *)errand;
    char name[129];
    uint64_t version;
    if (c->k < 1 || c->k > 1000)
        return err_set_param(e, ERR_INVALID, "k", "k is not a number from 1 to 1000");
    return state_ref_parse(c->ref, name, &version, e);
}

static int near_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct state_neighbors *c = (struct state_neighbors *)(void *)errand;
    struct near w = {.r = r, .c = c};
    if (!(c->found = calloc(c->k, sizeof *c->found)))
        return err_set(e, ERR_NOMEM, "no memory for %zu neighbours", c->k);
    int rc = fetch_state(r->svc, r->model, c->ref, "ref", &w.from, e);
    if (rc < 0)
        return rc;
    snprintf(c->used, sizeof c->used, "%s", w.from.ref);
    rc = errand_for_each_state(r, (struct store_query){.prefix = c->prefix, .tag = c->tag}, look,
                               &w, e);
    fetched_fini(&w.from);
    return rc;
}

const struct errand_impl errand_neighbors = {LANE_NOW, near_check, near_run};
