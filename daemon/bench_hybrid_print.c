/* The figures as tables and as JSON. */
#include "daemon/bench_hybrid.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

const char *const hb_row_name[HB_ROWS] = {
    [HB_PLAIN] = "plain",
    [HB_STATE + HB_NEAR] = "state, adjacent",
    [HB_STATE + HB_BEHIND] = "state, gap 32",
    [HB_STATE + HB_FAR] = "state, gap 512",
    [HB_HYBRID + HB_NEAR] = "hybrid, adjacent",
    [HB_HYBRID + HB_BEHIND] = "hybrid, gap 32",
    [HB_HYBRID + HB_FAR] = "hybrid, gap 512",
    [HB_BOTH + HB_NEAR] = "both, adjacent",
    [HB_BOTH + HB_BEHIND] = "both, gap 32",
    [HB_BOTH + HB_FAR] = "both, gap 512",
    [HB_SAME] = "hybrid, another document",
    [HB_OTHER] = "hybrid, another corpus",
    [HB_SHUFFLED] = "hybrid, words shuffled",
    [HB_EMPTY] = "hybrid, no context",
    [HB_STATIC] = "hybrid, alpha 1",
    [HB_CONTROL] = "constant control",
    [HB_TUNED] = "model trained on",
};

/* ---- Targets --------------------------------------------------------------------------------- */

/* A difference that must be below 0, its whole interval. */
struct target {
    char name[80];
    double value, high;
};
/* Which differences (hb_pairs) must be, and from which length of context on. */
static const struct {
    size_t pair, from;
} wanted[] = {
    {0, 0}, {4, 0}, {6, 0}, {7, 2048}}; /* control, other corpus, state; both less state */
enum { WANTED = sizeof wanted / sizeof *wanted, TARGETS = (1 + WANTED) * HB_LENGTHS };

static size_t list_targets(const struct hb_bench *b, struct target t[TARGETS])
{
    size_t n = 0;
    for (size_t l = 0; l < HB_LENGTHS; l++) {
        const struct hb_figures *f = &b->length[l];
        const struct hb_mean *own = &f->row[HB_HYBRID + HB_BEHIND];
        if (!f->n)
            continue;
        t[n] = (struct target){.value = own->less, .high = own->high};
        snprintf(t[n++].name, sizeof t->name, "context of %zu bytes: %s less %s", hb_length[l],
                 hb_row_name[HB_HYBRID + HB_BEHIND], hb_row_name[HB_PLAIN]);
        for (size_t k = 0; k < WANTED; k++) {
            const struct hb_pair *p = &f->pair[wanted[k].pair];
            if (isnan(p->less) || hb_length[l] < wanted[k].from)
                continue;
            t[n] = (struct target){.value = p->less, .high = p->high};
            snprintf(t[n++].name, sizeof t->name, "context of %zu bytes: %s less %s", hb_length[l],
                     hb_row_name[p->a], hb_row_name[p->b]);
        }
    }
    return n;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_length(const struct hb_bench *b, size_t l)
{
    const struct hb_figures *f = &b->length[l];
    printf("\nContexts of %zu bytes: %zu continuations of %d bytes in %zu documents, bits/byte\n"
           "%-26s %7s %8s %18s",
           hb_length[l], f->n, HB_TEXT, f->documents, "", "mean", "less", "plain (95 %)");
    for (size_t c = 0; c < b->n_corpora; c++)
        printf(" %8s", b->corpus[c].name);
    printf("\n");
    for (size_t row = 0; row < HB_ROWS; row++) {
        const struct hb_mean *m = &f->row[row];
        if (isnan(m->bits))
            continue;
        printf("%-26s %7.4f %+8.4f (%+.4f %+.4f)", hb_row_name[row], m->bits, m->less, m->low,
               m->high);
        for (size_t c = 0; c < b->n_corpora; c++)
            printf(" %8.3f", m->corpus[c]);
        printf("\n");
    }
    for (size_t p = 0; p < HB_PAIRS; p++)
        if (!isnan(f->pair[p].less))
            printf("%s less %s: %+.4f (%+.4f %+.4f)\n", hb_row_name[f->pair[p].a],
                   hb_row_name[f->pair[p].b], f->pair[p].less, f->pair[p].low, f->pair[p].high);
}

void hb_print_text(const struct hb_bench *b)
{
    const struct hybrid_info *i = hybrid_get_info(b->hybrid);
    struct target t[TARGETS];
    const size_t n = list_targets(b, t);
    printf("%s: %zu parameters, %llu steps; seed %llu, %.0f s\n", b->o.hybrid, i->n_params,
           (unsigned long long)i->steps, (unsigned long long)b->o.seed, b->seconds);
    for (size_t l = 0; l < HB_LENGTHS; l++)
        if (b->length[l].n)
            print_length(b, l);
    printf("\n%-62s %9s %9s\n", "target: below 0, with its interval", "value", "high");
    for (size_t k = 0; k < n; k++)
        printf("%-62s %+9.4f %+9.4f %s\n", t[k].name, t[k].value, t[k].high,
               t[k].high < 0 ? "met" : "missed");
    if (!b->control)
        printf("skipped: the constant control\n");
    if (!b->tuned)
        printf("skipped: the model trained on\n");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *length_json(const struct hb_bench *b, size_t l)
{
    const struct hb_figures *f = &b->length[l];
    json_t *rows = json_array(), *pairs = json_array();
    for (size_t row = 0; row < HB_ROWS; row++) {
        const struct hb_mean *m = &f->row[row];
        json_t *corpora = json_object();
        for (size_t c = 0; c < b->n_corpora; c++)
            json_object_set_new(corpora, b->corpus[c].name, number(m->corpus[c]));
        json_t *o = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "row", hb_row_name[row],
                              "bits_per_byte", number(m->bits), "less_plain", number(m->less),
                              "low", number(m->low), "high", number(m->high), "corpora", corpora);
        if (isnan(m->bits))
            json_decref(o);
        else
            json_array_append_new(rows, o);
    }
    for (size_t p = 0; p < HB_PAIRS; p++) {
        const struct hb_pair *x = &f->pair[p];
        if (!isnan(x->less))
            json_array_append_new(pairs, json_pack("{s:s, s:s, s:o, s:o, s:o}", "row",
                                                   hb_row_name[x->a], "less", hb_row_name[x->b],
                                                   "bits_per_byte", number(x->less), "low",
                                                   number(x->low), "high", number(x->high)));
    }
    return json_pack("{s:I, s:I, s:I, s:o, s:o}", "context_bytes", (json_int_t)hb_length[l],
                     "continuations", (json_int_t)f->n, "documents", (json_int_t)f->documents,
                     "rows", rows, "differences", pairs);
}

int hb_print_json(const struct hb_bench *b)
{
    struct target t[TARGETS];
    const size_t n = list_targets(b, t);
    json_t *lengths = json_array(), *targets = json_array(), *skipped = json_array();
    for (size_t l = 0; l < HB_LENGTHS; l++)
        if (b->length[l].n)
            json_array_append_new(lengths, length_json(b, l));
    for (size_t k = 0; k < n; k++)
        json_array_append_new(targets, json_pack("{s:s, s:f, s:f, s:i, s:b}", "name", t[k].name,
                                                 "value", t[k].value, "high", t[k].high, "target",
                                                 0, "met", t[k].high < 0));
    if (!b->control)
        json_array_append_new(skipped, json_string("the constant control: no such file"));
    if (!b->tuned)
        json_array_append_new(skipped, json_string("the model trained on: no such file"));
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:f, s:i, s:o, s:o, s:o}", "bench", "hybrid", "model",
                  b->o.model, "hybrid", b->o.hybrid, "seconds", b->seconds, "continuation_bytes",
                  HB_TEXT, "lengths", lengths, "targets", targets, "skipped", skipped);
    int rc = root ? json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : -1;
    putchar('\n');
    json_decref(root);
    return rc;
}
