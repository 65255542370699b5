/* Charts of what `train hybrid` logged (run.h: JSON lines), a line a run. */
#include "daemon/bench_hybrid.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOWS 80 /* points of a line: each the mean of its share of the steps */

/* One quantity of every step of a log. */
struct curve {
    float *xy; /* [n, 2] */
    size_t n, cap;
};

static int add(struct curve *c, double x, double y, struct err *e)
{
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

/* `key` of the log's records, or with `held` of what was evaluated. */
struct quantity {
    const char *file, *title, *y_label, *key;
    bool held;
};

static int read_curve(const char *path, const struct quantity *q, struct curve *c, struct err *e)
{
    char line[16384];
    FILE *f = fopen(path, "re");
    int rc = f ? 0 : err_set(e, ERR_IO, "%s: cannot be read", path);
    while (rc == 0 && fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, 0, NULL);
        const json_t *from = q->held ? json_object_get(o, "eval") : o;
        const json_t *value = json_object_get(from, q->key);
        if (value)
            rc = add(c, json_number_value(json_object_get(o, "step")), json_number_value(value), e);
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

static int write_quantity(const struct hb_options *o, const struct quantity *q, struct err *e)
{
    struct curve c[16] = {{0}};
    struct plot_series series[16];
    char path[4096];
    int rc = 0;
    for (size_t i = 0; i < o->n_logs && rc == 0; i++) {
        rc = read_curve(o->log[i], q, &c[i], e);
        smooth(&c[i]);
        series[i] = (struct plot_series){o->log_name[i], c[i].xy, c[i].n};
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
    rc = rc < 0 ? rc : bench_write_chart(&p, path, e);
    for (size_t i = 0; i < o->n_logs; i++)
        free(c[i].xy);
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
    for (size_t i = 0; i < sizeof all / sizeof *all && rc == 0; i++)
        rc = write_quantity(o, &all[i], e);
    return rc;
}
