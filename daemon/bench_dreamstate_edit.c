/* Edits from A to B: by diffusion, towards a real state of B, by the difference of the means. Item i
 * goes from its own corpus A to another, each in turn; what stands for B is source number j of B: its
 * text is the condition, its state the real one. */
#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"
#include "engine/rwkv/edit.h"

#define GUIDED 2.0

enum how { UNEDITED, DIFFUSION, LERP, SHIFT, REPLACED };
static const struct {
    enum how how;
    const char *method;
    double amount;
} settings[DS_EDITS] = {
    {UNEDITED, "unedited", 0},    {DIFFUSION, "diffusion", .3}, {DIFFUSION, "diffusion", .5},
    {DIFFUSION, "diffusion", .7}, {DIFFUSION, "diffusion", .9}, {LERP, "lerp", .25},
    {LERP, "lerp", .5},           {LERP, "lerp", .75},          {SHIFT, "mean shift", .25},
    {SHIFT, "mean shift", .5},    {SHIFT, "mean shift", .75},   {SHIFT, "mean shift", 1},
    {REPLACED, "real B", 1}};
enum { FIRST_DIFFUSION = 1, FIRST_LERP = 5, FIRST_SHIFT = 8, LAST = DS_EDITS - 1 };

struct edits {
    struct ds_bench *b;
    uint32_t *to;   /* [n] corpus B */
    uint32_t *item; /* [n] the item that stands for B */
    struct diffuser_condition *condition;
    float *x, *z, *bits; /* [n, S], [n, d], [n, lengths] */
};

static int edits_open(struct edits *d, struct ds_bench *b, struct err *e)
{
    d->b = b;
    d->to = calloc(b->n, sizeof *d->to);
    d->item = calloc(b->n, sizeof *d->item);
    d->condition = calloc(b->n, sizeof *d->condition);
    d->x = malloc(b->n * b->S * sizeof *d->x);
    d->z = malloc(b->n * b->d * sizeof *d->z);
    d->bits = malloc(b->n * DS_LENGTHS * sizeof *d->bits);
    if (!d->to || !d->item || !d->condition || !d->x || !d->z || !d->bits)
        return err_set(e, ERR_NOMEM, "no memory for edits");
    for (size_t i = 0; i < b->n; i++) {
        size_t k = i / b->per, j = i % b->per;
        size_t to = (k + 1 + j % (b->n_corpora - 1)) % b->n_corpora;
        d->to[i] = (uint32_t)to;
        d->item[i] = (uint32_t)(to * b->per + j);
        d->condition[i] = (struct diffuser_condition){
            .label = DIFFUSER_VECTOR, .vector = b->vector + d->item[i] * b->info->n_embd};
    }
    return 0;
}

static void edits_close(struct edits *d)
{
    free(d->to);
    free(d->item);
    free(d->condition);
    free(d->x);
    free(d->z);
    free(d->bits);
}

/* The arithmetic of one state: x is A's. */
static int edit_one(const struct edits *d, enum how how, double amount, size_t i, struct err *e)
{
    const struct ds_bench *b = d->b;
    float *x = d->x + i * b->S;
    const float *real = b->source_state + d->item[i] * b->S;
    const float *mean_b = b->ref.mean + d->to[i] * b->S, *mean_a = b->ref.mean + b->own[i] * b->S;
    struct rwkv_edit op = {.kind = how == SHIFT ? RWKV_EDIT_ADD : RWKV_EDIT_LERP,
                           .select = RWKV_SELECT_ALL,
                           .amount = amount,
                           .with = how == SHIFT ? &mean_b : &real,
                           .n_with = 1,
                           .minus = &mean_a,
                           .n_minus = how == SHIFT};
    return how == UNEDITED ? 0 : rwkv_edit_apply(b->info, &op, x, e);
}

static int edit_all(struct edits *d, size_t setting, struct err *e)
{
    struct ds_bench *b = d->b;
    if (settings[setting].how == DIFFUSION) {
        const struct ds_generate g = {.condition = d->condition,
                                      .n = b->n,
                                      .guidance = GUIDED,
                                      .strength = settings[setting].amount,
                                      .start = b->source_state,
                                      .states = d->x,
                                      .z = d->z};
        return ds_generate(b, &g, e);
    }
    int rc = 0;
    memcpy(d->x, b->source_state, b->n * b->S * sizeof *d->x);
    for (size_t i = 0; i < b->n && rc == 0; i++)
        rc = edit_one(d, settings[setting].how, settings[setting].amount, i, e);
    return rc < 0 ? rc : ds_encode(b, d->x, b->n, d->z, e);
}

static int measure_edit(struct edits *d, size_t setting, struct ds_edit_row *row, struct err *e)
{
    struct ds_bench *b = d->b;
    *row = (struct ds_edit_row){.method = settings[setting].method,
                                .amount = settings[setting].amount};
    bench_note("edits: %s %g", row->method, row->amount);
    int rc = edit_all(d, setting, e);
    rc = rc < 0 ? rc : ds_measure_class(b, d->z, b->n, d->to, &row->class_b, e);
    for (int on_b = 0; on_b < 2 && rc == 0; on_b++) {
        const struct ds_starts s = {.states = d->x, .text_of = on_b ? d->item : NULL};
        rc = ds_likelihood(b, &s, d->bits, e);
        for (size_t i = 0; i < b->n * DS_LENGTHS && rc == 0; i++) {
            struct ds_edit_point *p = &row->at[i % DS_LENGTHS];
            *(on_b ? &p->on_b : &p->on_a) += (double)d->bits[i] / (double)b->n;
        }
    }
    return rc;
}

/* The curve of an arithmetic method: from the unedited state over its amounts; lerp ends at real B. */
static size_t curve(const struct ds_edit_row *row, size_t first, size_t n, size_t length,
                    struct ds_edit_point *out)
{
    size_t k = 0;
    out[k++] = row[0].at[length];
    for (size_t i = 0; i < n; i++)
        out[k++] = row[first + i].at[length];
    if (first == FIRST_LERP)
        out[k++] = row[LAST].at[length];
    return k;
}

int ds_measure_edits(struct ds_bench *b, struct ds_figures *f, struct err *e)
{
    struct edits d = {0};
    int rc = edits_open(&d, b, e);
    for (size_t i = 0; i < DS_EDITS && rc == 0; i++)
        rc = measure_edit(&d, i, &f->edit[i], e);
    for (size_t k = 0; k < 2 && rc == 0; k++) { /* 16 and 64 bytes */
        struct ds_edit_point lerp[DS_EDITS], shift[DS_EDITS], own[DS_EDITS];
        size_t length = 2 * k, n_lerp = curve(f->edit, FIRST_LERP, 3, length, lerp);
        size_t n_shift = curve(f->edit, FIRST_SHIFT, 4, length, shift);
        curve(f->edit, FIRST_DIFFUSION, 4, length, own);
        f->monotone[k] = ds_edit_monotone(own + 1, 4);
        f->monotone_from_a[k] = ds_edit_monotone(own, 5);
        for (size_t i = 1; i <= 4; i++) {
            f->margin_lerp[k] += ds_edit_margin(lerp, n_lerp, own[i]) / 4;
            f->margin_mean[k] += ds_edit_margin(shift, n_shift, own[i]) / 4;
        }
    }
    edits_close(&d);
    return rc;
}
