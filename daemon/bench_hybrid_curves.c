/* Charts of what `train hybrid` logged (run.h: JSON lines), a line a run, and a table of how runs ended. */
#include "daemon/bench_hybrid.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOWS 25    /* points of a line: each the mean of its share of the steps */
#define LINE    16384 /* bytes of a record, at most */

/* One quantity of every step of a log. */
struct curve {
    float *xy; /* [n, 2] */
    size_t n, cap;
};

/* A run that was killed has some steps twice; the later count. */
static int add(struct curve *c, double x, double y, struct err *e)
{
    while (c->n && (double)c->xy[2 * c->n - 2] >= x)
        c->n--;
    if (c->n == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 1024;
        float *more = realloc(c->xy, 2 * cap * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "no memory for a curve");
        c->xy = more;
        c->cap = cap;
    }
    c->xy[2 * c->n] = (float)x;
    c->xy[2 * c->n++ + 1] = (float)y;
    return 0;
}

/* `key` of the log's records, or with `held` of what was evaluated; a key that ends with a dot: the mean
 * of all that begin so. */
struct quantity {
    const char *file, *title, *y_label, *key;
    bool held;
};

/* NaN: not in this record. */
static double value_of(json_t *record, const struct quantity *q)
{
    json_t *from = q->held ? json_object_get(record, "eval") : record, *value;
    const size_t len = strlen(q->key);
    const char *key;
    double sum = 0, n = 0;
    json_object_foreach(from, key, value)
    {
        const bool is = q->key[len - 1] == '.' ? !strncmp(key, q->key, len) : !strcmp(key, q->key);
        if (is && json_is_number(value)) {
            sum += json_number_value(value);
            n++;
        }
    }
    return n > 0 ? sum / n : NAN;
}

static int read_curve(const char *path, const struct quantity *q, struct curve *c, struct err *e)
{
    char line[LINE];
    FILE *f = fopen(path, "re");
    int rc = f ? 0 : err_set(e, ERR_IO, "%s: cannot be read", path);
    while (rc == 0 && fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, 0, NULL);
        const double value = value_of(o, q);
        if (!isnan(value))
            rc = add(c, json_number_value(json_object_get(o, "step")), value, e);
        json_decref(o);
    }
    if (f)
        fclose(f);
    return rc;
}

/* In place: the means of at most WINDOWS equal parts. */
static void smooth(struct curve *c)
{
    const size_t parts = c->n < WINDOWS ? c->n : WINDOWS;
    for (size_t p = 0; p < parts; p++) {
        const size_t from = p * c->n / parts, to = (p + 1) * c->n / parts;
        double x = 0, y = 0;
        for (size_t i = from; i < to; i++) {
            x += (double)c->xy[2 * i] / (double)(to - from);
            y += (double)c->xy[2 * i + 1] / (double)(to - from);
        }
        c->xy[2 * p] = (float)x;
        c->xy[2 * p + 1] = (float)y;
    }
    c->n = parts;
}

/* Runs whose names agree up to a comma ("lambda 1, seed 2") are of one group. */
static unsigned group_of(const struct hb_options *o, size_t i)
{
    const size_t len = strcspn(o->log_name[i], ",");
    unsigned k = 0;
    while (k < i && (strncmp(o->log_name[k], o->log_name[i], len) || o->log_name[k][len] != ','))
        k++;
    return k + 1;
}

/* *points: of all lines together; nothing is written without any. */
static int write_quantity(const struct hb_options *o, const struct quantity *q, size_t *points,
                          struct err *e)
{
    struct curve c[HB_LOGS] = {{0}};
    struct plot_series series[HB_LOGS];
    char path[4096];
    int rc = 0;
    *points = 0;
    for (size_t i = 0; i < o->n_logs && rc == 0; i++) {
        rc = read_curve(o->log[i], q, &c[i], e);
        smooth(&c[i]);
        series[i] = (struct plot_series){o->log_name[i], c[i].xy, c[i].n, group_of(o, i)};
        *points += c[i].n;
    }
    const struct plot p = {.title = q->title,
                           .x_label = "steps",
                           .y_label = q->y_label,
                           .lines = true,
                           .series = series,
                           .n_series = o->n_logs};
    const int len = snprintf(path, sizeof path, "%s-%s.svg", o->curves, q->file);
    if (rc == 0 && (len < 0 || (size_t)len >= sizeof path))
        rc = err_set(e, ERR_INVALID, "--curves: the path is too long");
    if (rc == 0 && *points)
        rc = bench_write_chart(&p, path, e);
    for (size_t i = 0; i < o->n_logs; i++)
        free(c[i].xy);
    return rc;
}

/* Of every layer there is, the mean over its groups. */
static int write_alphas(const struct hb_options *o, struct err *e)
{
    int rc = 0;
    size_t points = 1;
    for (size_t layer = 0; rc == 0 && points; layer++) {
        char file[32], title[64], key[32];
        snprintf(file, sizeof file, "alpha-%zu", layer);
        snprintf(title, sizeof title, "Alpha of layer %zu", layer);
        snprintf(key, sizeof key, "alpha.%zu.", layer);
        const struct quantity q = {file, title, "mean over the groups", key, true};
        rc = write_quantity(o, &q, &points, e);
    }
    return rc;
}

int hb_write_curves(const struct hb_options *o, struct err *e)
{
    static const struct quantity all[] = {
        {"language", "The language model's term in training", "bits/byte of a batch", "bits",
         false},
        {"diffusion", "The diffusion's term in training", "mean squared error of v",
         "diffusion_loss", false},
        {"gradient", "Gradients in training", "norm before clipping", "grad_norm", false},
        {"heldout", "Held-out continuations under their context", "bits/byte", "context", true},
        {"none", "Held-out continuations under an empty context", "bits/byte", "none", true},
        {"wrong", "Held-out continuations under a context of another corpus", "bits/byte", "wrong",
         true},
    };
    int rc = 0;
    size_t points;
    for (size_t i = 0; i < sizeof all / sizeof *all && rc == 0; i++)
        rc = write_quantity(o, &all[i], &points, e);
    return rc < 0 ? rc : write_alphas(o, e);
}

/* ---- How runs ended -------------------------------------------------------------------------- */

/* In the order of the columns. */
static const struct quantity ends[] = {
    {.key = "plain", .held = true},     {.key = "context", .held = true},
    {.key = "wrong", .held = true},     {.key = "none", .held = true},
    {.key = "diffusion", .held = true}, {.key = "alpha.", .held = true},
};
enum { ENDS = sizeof ends / sizeof *ends };

struct ended {
    size_t steps, bad; /* records that are no JSON (NaN is none) or lack a number */
    double norm, bits; /* the largest of a step */
    double end[ENDS];  /* of the last evaluation */
};

static void take_record(struct ended *r, json_t *o)
{
    static const struct quantity of[] = {
        {.key = "bits"}, {.key = "grad_norm"}, {.key = "diffusion_loss"}};
    double step[3];
    for (size_t i = 0; i < 3; i++)
        step[i] = value_of(o, &of[i]);
    if (json_object_get(o, "bits")) {
        r->steps = (size_t)json_integer_value(json_object_get(o, "step"));
        r->bad += !isfinite(step[0] + step[1] + step[2]);
        r->bits = fmax(r->bits, step[0]);
        r->norm = fmax(r->norm, step[1]);
    } else if (json_object_get(o, "eval")) {
        for (size_t i = 0; i < ENDS; i++) {
            r->end[i] = value_of(o, &ends[i]);
            r->bad += !isfinite(r->end[i]);
        }
    } else
        r->bad += !json_object_get(o, "note");
}

static int read_ended(const char *path, struct ended *r, struct err *e)
{
    char line[LINE];
    FILE *f = fopen(path, "re");
    *r = (struct ended){0};
    for (size_t i = 0; i < ENDS; i++)
        r->end[i] = NAN;
    if (!f)
        return err_set(e, ERR_IO, "%s: cannot be read", path);
    while (fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, 0, NULL);
        take_record(r, o);
        json_decref(o);
    }
    fclose(f);
    return 0;
}

int hb_print_runs(const struct hb_options *o, struct err *e)
{
    int rc = 0;
    printf("%-26s %6s %10s %9s %9s %8s %8s %8s %8s %10s %6s\n", "", "steps", "not finite",
           "max norm", "max bits", "plain", "context", "wrong", "none", "diffusion", "alpha");
    for (size_t i = 0; i < o->n_logs && rc == 0; i++) {
        struct ended r;
        rc = read_ended(o->log[i], &r, e);
        if (rc == 0)
            printf("%-26s %6zu %10zu %9.4f %9.4f %8.4f %8.4f %8.4f %8.4f %10.4f %6.4f\n",
                   o->log_name[i], r.steps, r.bad, r.norm, r.bits, r.end[0], r.end[1], r.end[2],
                   r.end[3], r.end[4], r.end[5]);
    }
    return rc;
}
