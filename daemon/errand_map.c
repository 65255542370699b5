/* Projections: many states at once, their principal components, a map of them in the plane. */
#include "daemon/base/mem.h"
#include "daemon/errand_impl.h"
#include "daemon/fetch.h"
#include "engine/manifold/pca.h"
#include "engine/manifold/plot.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SVG_LIMIT ((size_t)16 << 20)

/* ---- which states ---- */

static char *ref_of(const struct state_info *s)
{
    char ref[160];
    snprintf(ref, sizeof ref, "%s@%llu", s->name, (unsigned long long)s->version);
    return strdup(ref);
}

/* *label: the first tag that begins with prefix, without it, malloc'd; NULL: there is none. */
static int label_of(const struct state_info *s, const char *prefix, char **label, struct err *e)
{
    json_t *tags = json_loads(s->tags, 0, NULL);
    size_t n = prefix ? strlen(prefix) : 0;
    bool failed = !tags;
    *label = NULL;
    for (size_t i = 0; !*label && !failed && i < json_array_size(tags); i++) {
        const char *tag = json_string_value(json_array_get(tags, i));
        if (tag && !strncmp(tag, prefix ? prefix : "", n))
            failed = !(*label = strdup(tag + n));
    }
    json_decref(tags);
    return failed ? err_set(e, ERR_NOMEM, "no memory for the tags of %s", s->name) : 0;
}

/* ---- projections: the states ---- */

struct map {
    const struct errand_run *r;
    struct state_projection *c;
    size_t room; /* points allocated */
    float *x;    /* [n_points, n_features] */
    struct rwkv_select select;
    bool *flags;
};

static int add_ref(struct map *m, char *ref, struct err *e)
{
    struct state_projection *c = m->c;
    if (ref && c->n_points == m->room) {
        size_t room = m->room ? 2 * m->room : 64;
        struct projected *more = realloc(c->points, room * sizeof *more);
        if (more) {
            c->points = more;
            m->room = room;
        }
    }
    if (!ref || c->n_points == m->room) {
        free(ref);
        return err_set(e, ERR_NOMEM, "no memory for a list of states");
    }
    c->points[c->n_points++] = (struct projected){.ref = ref};
    if (c->n_points > PROJECT_MAX_STATES)
        return err_set(e, ERR_TOO_LARGE, "more than %d states: choose by tag or prefix",
                       PROJECT_MAX_STATES);
    return 0;
}

static int add_record(void *arg, const struct state_info *record, struct err *e)
{
    return add_ref(arg, ref_of(record), e);
}

static int choose(struct map *m, struct err *e)
{
    struct state_projection *c = m->c;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->n_refs; i++)
        rc = add_ref(m, strdup(c->refs[i]), e);
    if (rc == 0 && !c->n_refs)
        rc = errand_for_each_state(m->r, (struct store_query){.prefix = c->prefix, .tag = c->tag},
                                   add_record, m, e);
    if (rc == 0 && c->n_points < 3)
        rc = err_set(e, ERR_INVALID, "%zu states: a map needs 3 of the model %s", c->n_points,
                     m->r->model->name);
    return rc;
}

/* The chosen blocks of a state, one after the other. Returns their floats; out NULL: only counts. */
static size_t features(const struct map *m, const float *state, float *out)
{
    const struct rwkv_info *info = m->r->model->rwkv_info;
    size_t n = 0;
    for (size_t i = 0; i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        if (!rwkv_selected(&m->select, &b))
            continue;
        if (out)
            memcpy(out + n, state + b.first, b.n * sizeof *out);
        n += b.n;
    }
    return n;
}

static int load(struct map *m, struct err *e)
{
    struct state_projection *c = m->c;
    size_t floats;
    c->n_features = features(m, NULL, NULL);
    if (!mem_mul(c->n_points, c->n_features, &floats) || floats > PROJECT_MAX_FEATURES)
        return err_set_param(
            e, ERR_TOO_LARGE, "layers",
            "%zu states of %zu numbers, at most %zu together: choose fewer layers, "
            "heads or states",
            c->n_points, c->n_features, PROJECT_MAX_FEATURES);
    if (!(m->x = mem_calloc_aligned(floats, sizeof *m->x)))
        return err_set(e, ERR_NOMEM, "no memory for %zu states", c->n_points);
    for (size_t i = 0; i < c->n_points; i++) {
        struct projected *p = &c->points[i];
        struct fetched s;
        if (errand_proceed(m->r, e) < 0 ||
            fetch_state(m->r->svc, m->r->model, p->ref, "states", &s, e) < 0)
            return e->code;
        features(m, s.state, m->x + i * c->n_features);
        char *ref = strdup(s.ref);
        int rc = label_of(&s.info, c->label_prefix, &p->label, e);
        fetched_fini(&s);
        if (rc < 0 || !ref) {
            free(ref);
            return rc < 0 ? rc : err_set(e, ERR_NOMEM, "no memory for a name");
        }
        free(p->ref);
        p->ref = ref;
    }
    return 0;
}

/* Groups by label; O(points * labels), both bounded. */
static void group(struct state_projection *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_points; i++) {
        struct projected *p = &c->points[i];
        size_t k = 0;
        while (p->label && k < i && !(c->points[k].label && !strcmp(c->points[k].label, p->label)))
            k++;
        if (p->label)
            p->group = k < i ? c->points[k].group : (uint32_t)n++;
    }
    c->n_labels = n;
    for (size_t i = 0; i < c->n_points; i++)
        if (!c->points[i].label)
            c->points[i].group = (uint32_t)n;
}

static void normalize(const struct map *m)
{
    const struct rwkv_info *info = m->r->model->rwkv_info;
    size_t n = m->c->n_points, d = m->c->n_features, at = 0;
    for (size_t i = 0; i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        double sum = 0;
        if (!rwkv_selected(&m->select, &b))
            continue;
        for (size_t p = 0; p < n; p++)
            for (size_t j = 0; j < b.n; j++)
                sum += (double)m->x[p * d + at + j] * (double)m->x[p * d + at + j];
        float by = sum > 0 ? (float)(1 / sqrt(sum / (double)(n * b.n))) : 0;
        for (size_t p = 0; p < n; p++)
            for (size_t j = 0; j < b.n; j++)
                m->x[p * d + at + j] *= by;
        at += b.n;
    }
}

/* ---- projections: the map ---- */

struct proceed {
    const struct errand_run *r;
    struct err *e;
};

static bool proceed(void *arg, size_t step, size_t total)
{
    const struct proceed *p = arg;
    (void)step;
    (void)total;
    return errand_proceed(p->r, p->e) == 0;
}

/* z [n, k], the kept components. */
static int reduce(struct map *m, const struct manifold_run *run, size_t k, float *z, struct err *e)
{
    struct state_projection *c = m->c;
    struct points x = {m->x, c->n_points, c->n_features, c->n_features};
    struct pca pca;
    int rc = pca_fit(run, &x, &(struct pca_options){.components = k}, &pca, e);
    if (rc < 0)
        return rc;
    rc = pca_transform(run->pool, &pca, &x, z, e);
    for (size_t i = 0; i < k && pca.total > 0; i++) {
        c->kept += pca.variance[i] / pca.total;
        if (i < 2)
            c->explained[i] = pca.variance[i] / pca.total;
    }
    pca_fini(&pca);
    return rc;
}

static int measure_one(const struct manifold_run *run, const struct state_projection *c,
                       const struct points *p, const uint32_t *label, double out[2], struct err *e)
{
    struct silhouette_options so = {METRIC_EUCLIDEAN, label, c->n_labels + 1};
    struct neighbors_options no = {c->k < c->n_points ? c->k : c->n_points - 1, METRIC_EUCLIDEAN,
                                   true};
    uint32_t *index = calloc(c->n_points * no.k, sizeof *index);
    int rc = index ? 0 : err_set(e, ERR_NOMEM, "no memory for the neighbours");
    if (rc == 0)
        rc = neighbors_silhouette(run, p, &so, NULL, &out[0], e);
    if (rc == 0 && (rc = neighbors_find(run, p, p, &no, index, NULL, e)) == 0)
        out[1] = neighbors_vote(index, c->n_points, no.k, label, c->n_labels + 1, NULL);
    free(index);
    return rc;
}

static int measure(struct map *m, const struct manifold_run *run, const struct points *z,
                   const struct points *plane, struct err *e)
{
    struct state_projection *c = m->c;
    double in[2], flat[2];
    if (c->n_labels < 2)
        return 0;
    uint32_t *label = calloc(c->n_points, sizeof *label);
    if (!label)
        return err_set(e, ERR_NOMEM, "no memory for the labels");
    for (size_t i = 0; i < c->n_points; i++)
        label[i] = c->points[i].group;
    int rc = measure_one(run, c, z, label, in, e);
    if (rc == 0 && (rc = measure_one(run, c, plane, label, flat, e)) == 0) {
        c->measured = true;
        c->silhouette = in[0];
        c->accuracy = in[1];
        c->map_silhouette = flat[0];
        c->map_accuracy = flat[1];
    }
    free(label);
    return rc;
}

static int flatten(struct map *m, const struct manifold_run *run, const struct points *z, float *xy,
                   struct err *e)
{
    struct state_projection *c = m->c;
    double most = ((double)c->n_points - 1) / 3;
    if (c->method == PROJECT_PCA) {
        for (size_t i = 0; i < z->n; i++)
            memcpy(xy + 2 * i, z->x + i * z->ld, (z->d < 2 ? z->d : 2) * sizeof *xy);
        return 0;
    }
    if (c->tsne.perplexity == 0)
        c->tsne.perplexity = most < 30 ? most : 30;
    return tsne_fit(run, z, &c->tsne, xy, &c->kl, e);
}

static int draw(struct map *m, const float *xy, struct err *e)
{
    struct state_projection *c = m->c;
    size_t n_groups = c->n_labels + 1, at = 0;
    struct plot_series *series = calloc(n_groups, sizeof *series);
    float *sorted = calloc(2 * c->n_points, sizeof *sorted);
    char subtitle[160];
    struct buf out;
    buf_init(&out, SVG_LIMIT);
    int rc = series && sorted ? 0 : err_set(e, ERR_NOMEM, "no memory for a chart");
    for (size_t g = 0; rc == 0 && g < n_groups; g++) {
        series[g] = (struct plot_series){.name = g < c->n_labels ? NULL : "no label",
                                         .xy = sorted + 2 * at};
        for (size_t i = 0; i < c->n_points; i++)
            if (c->points[i].group == g) {
                series[g].name = c->points[i].label ? c->points[i].label : "no label";
                memcpy(sorted + 2 * at++, xy + 2 * i, 2 * sizeof *xy);
                series[g].n++;
            }
    }
    int used =
        snprintf(subtitle, sizeof subtitle, "%zu states of %s", c->n_points, m->r->model->name);
    if (c->measured)
        snprintf(subtitle + used, sizeof subtitle - (size_t)used,
                 "; in the plane: silhouette %.2f, accuracy of %zu neighbours %.2f",
                 c->map_silhouette, c->k, c->map_accuracy);
    char x[64], y[64];
    bool pca = c->method == PROJECT_PCA;
    snprintf(x, sizeof x, pca ? "principal component 1 (%.0f %%)" : "t-SNE 1",
             100 * c->explained[0]);
    snprintf(y, sizeof y, pca ? "principal component 2 (%.0f %%)" : "t-SNE 2",
             100 * c->explained[1]);
    if (rc == 0) {
        struct plot p = {.title = c->title,
                         .subtitle = subtitle,
                         .x_label = x,
                         .y_label = y,
                         .no_ticks = !pca,
                         .series = series,
                         .n_series = n_groups - (series[n_groups - 1].n == 0)};
        rc = plot_write(&p, &out, e);
    }
    free(series);
    free(sorted);
    if (rc == 0 && !(c->data = buf_take(&out, &c->data_bytes)))
        rc = err_set(e, ERR_NOMEM, "no memory for a chart");
    buf_fini(&out);
    return rc;
}

static int make_map(struct map *m, struct err *e)
{
    struct state_projection *c = m->c;
    struct err why = {0};
    struct proceed ask = {m->r, &why};
    const struct manifold_run run = {lane_pool(m->r->lane), proceed, &ask};
    size_t k = c->components,
           most = c->n_points - 1 < c->n_features ? c->n_points - 1 : c->n_features;
    k = k < most ? k : most;
    float *z = mem_calloc_aligned(c->n_points * k, sizeof *z);
    float *xy = mem_calloc_aligned(c->n_points * 2, sizeof *xy);
    struct points zp = {z, c->n_points, k, k}, plane = {xy, c->n_points, 2, 2};
    int rc = z && xy ? 0 : err_set(e, ERR_NOMEM, "no memory for a map");
    if (rc == 0 && (rc = reduce(m, &run, k, z, e)) == 0 && (rc = flatten(m, &run, &zp, xy, e)) == 0)
        rc = measure(m, &run, &zp, &plane, e);
    if (rc == ERR_CANCELLED)
        *e = why;
    for (size_t i = 0; rc == 0 && i < c->n_points; i++) {
        c->points[i].x = xy[2 * i];
        c->points[i].y = xy[2 * i + 1];
    }
    if (rc == 0 && c->svg)
        rc = draw(m, xy, e);
    free(z);
    free(xy);
    return rc < 0 ? e->code : 0;
}

static int project_check(const struct errand *errand, struct err *e)
{
    const struct state_projection *c = (const struct state_projection *)(const void *)errand;
    return errand_check_select(errand->model, &c->select, "", e);
}

static int project_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct state_projection *c = (struct state_projection *)(void *)errand;
    const struct rwkv_info *info = r->model->rwkv_info;
    struct map m = {.r = r, .c = c, .flags = errand_flags(info, &c->select)};
    if (!m.flags)
        return err_set(e, ERR_NOMEM, "no memory for a map");
    memcpy(m.select.parts, c->select.parts, sizeof m.select.parts);
    m.select.layers = c->select.n_layers ? m.flags : NULL;
    m.select.heads = c->select.n_heads ? m.flags + info->n_layer : NULL;
    int rc = choose(&m, e);
    if (rc == 0 && (rc = load(&m, e)) == 0) {
        group(c);
        if (c->normalize)
            normalize(&m);
        rc = make_map(&m, e);
    }
    free(m.x);
    free(m.flags);
    return rc;
}

const struct errand_impl errand_project = {LANE_PROJECT, project_check, project_run};
