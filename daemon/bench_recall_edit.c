/* The edits: from the state of a list towards that of the changed list. */
#include "daemon/bench_recall.h"

#include "engine/train/bake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OTHERS 8 /* lists of a mean difference */

/* ---- Which ----------------------------------------------------------------------------------- */

static void add(struct rc_setting *out, size_t *n, enum rc_method method, double amount)
{
    if (*n < RC_SETTINGS)
        out[(*n)++] = (struct rc_setting){method, amount, -1, -1};
}

/* One row a mask: everything, layers, heads. */
static void add_masked(struct rc_setting *out, size_t *n, enum rc_method method, double amount,
                       const struct rwkv_info *i)
{
    add(out, n, method, amount);
    for (size_t layer = 0; layer < i->n_layer && *n < RC_SETTINGS; layer++)
        out[(*n)++] = (struct rc_setting){method, amount, (int)layer, -1};
    for (size_t k = 0; k < i->n_layer * i->n_head && *n < RC_SETTINGS; k++)
        out[(*n)++] =
            (struct rc_setting){method, amount, (int)(k / i->n_head), (int)(k % i->n_head)};
}

size_t rc_settings(const struct rwkv_info *i, bool diffuser, struct rc_setting out[RC_SETTINGS])
{
    static const enum rc_method plain[] = {RC_ZERO, RC_UNEDITED, RC_AFRESH, RC_READ, RC_ALONE};
    static const double strength[] = {.02, .1, .3, .5, .7};
    size_t n = 0;
    for (size_t k = 0; k < sizeof plain / sizeof *plain; k++)
        add(out, &n, plain[k], 0);
    add(out, &n, RC_DIFFERENCE, 1);
    add_masked(out, &n, RC_DIFFERENCE, OTHERS, i);
    add_masked(out, &n, RC_COPY, 0, i);
    for (size_t k = 0; diffuser && k < sizeof strength / sizeof *strength; k++)
        add(out, &n, RC_DIFFUSE, strength[k]);
    if (diffuser)
        add_masked(out, &n, RC_INPAINT, 0, i);
    return n;
}

void rc_setting_name(const struct rc_setting *s, char *out, size_t size)
{
    static const char *const name[] = {
        [RC_ZERO] = "zero state",
        [RC_UNEDITED] = "unedited",
        [RC_AFRESH] = "changed list, baked afresh",
        [RC_READ] = "new line read behind",
        [RC_ALONE] = "add, subtract entries alone",
        [RC_DIFFERENCE] = "add difference in",
        [RC_COPY] = "copy from the changed",
        [RC_INPAINT] = "inpaint",
        [RC_DIFFUSE] = "diffuse",
    };
    int n = snprintf(out, size, "%s", name[s->method]);
    if (s->method == RC_DIFFERENCE)
        n +=
            snprintf(out + n, size - (size_t)n, " %g other%s", s->amount, s->amount > 1 ? "s" : "");
    if (s->method == RC_DIFFUSE)
        n += snprintf(out + n, size - (size_t)n, " %g", s->amount);
    if (s->layer >= 0)
        n += snprintf(out + n, size - (size_t)n, ", layer %d", s->layer);
    if (s->head >= 0)
        snprintf(out + n, size - (size_t)n, ", head %d", s->head);
}

/* What a setting may change: flags [L + H], all false, for the selection. */
static struct rwkv_select masked(const struct rc_bench *b, const struct rc_setting *s, bool *flags)
{
    struct rwkv_select select = RWKV_SELECT_ALL;
    if (s->layer >= 0) {
        flags[s->layer] = true;
        select.layers = flags;
    }
    if (s->head >= 0) {
        flags[b->info->n_layer + (size_t)s->head] = true;
        select.heads = flags + b->info->n_layer;
    }
    return select;
}

/* ---- Reading and arithmetic ------------------------------------------------------------------ */

static int read_behind(const struct rc_bench *b, float *x, struct err *e)
{
    const struct bench_baker baker = {b->model, b->pool, b->tokenizer};
    char(*text)[BENCH_TEXT] = malloc(b->n * sizeof *text);
    struct bench_text *t = calloc(b->n, sizeof *t);
    int rc = text && t ? 0 : err_set(e, ERR_NOMEM, "no memory for lists");
    for (size_t i = 0; rc == 0 && i < b->n; i++) {
        const struct rc_list *l = &b->list[i];
        struct rc_entry entry[RC_ENTRIES + 1];
        memcpy(entry, l->entry, sizeof l->entry);
        entry[l->n] = l->entry[l->edited];
        memcpy(entry[l->n].value, l->value, sizeof l->value);
        t[i] = (struct bench_text){text[i], rc_write(entry, l->n + 1, text[i])};
    }
    rc = rc < 0 ? rc : bench_bake(&baker, t, b->n, &(struct bench_baked){.state = x}, e);
    free(text);
    free(t);
    return rc;
}

/* What another list (n 0: an empty one) says without and with the change: the edited entry in place of
 * its own at that line, new and old; the removed entry in place of its own or not at all. */
enum { NEW, WITHOUT, OLD, WITH, VARIANTS };

static size_t write_variant(const struct rc_list *l, const struct rc_list *other, size_t variant,
                            char text[BENCH_TEXT])
{
    struct rc_entry entry[RC_ENTRIES];
    const bool edits = variant == NEW || variant == OLD;
    size_t n = other->n, at = edits ? l->edited : l->removed;
    memcpy(entry, other->entry, sizeof entry);
    n += !n; /* an empty list gets a line */
    at = at < n ? at : n - 1;
    entry[at] = l->entry[edits ? l->edited : l->removed];
    if (variant == NEW)
        memcpy(entry[at].value, l->value, sizeof l->value);
    if (variant == WITHOUT)
        memmove(entry + at, entry + at + 1, (--n - at) * sizeof *entry);
    return rc_write(entry, n, text);
}

static bool shares_name(const struct rc_list *a, const struct rc_list *b)
{
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < b->n; k++)
            if (!strcmp(a->entry[i].name, b->entry[k].name))
                return true;
    return false;
}

/* x, list i's state, gets the sum of the mean differences that both changes make in m other lists. */
static int add_difference(const struct rc_bench *b, const struct rwkv_select *select, size_t i,
                          const struct rc_list *const other[], size_t m, float *x, struct err *e)
{
    const struct bench_baker baker = {b->model, b->pool, b->tokenizer};
    static const struct rc_list none = {0};
    char text[VARIANTS * OTHERS][BENCH_TEXT];
    struct bench_text t[VARIANTS * OTHERS];
    const float *state[VARIANTS * OTHERS];
    float *states = malloc(VARIANTS * m * b->S * sizeof *states);
    if (!states)
        return err_set(e, ERR_NOMEM, "no memory for other lists");
    for (size_t k = 0; k < VARIANTS * m; k++) {
        size_t n = write_variant(&b->list[i], other ? other[k % m] : &none, k / m, text[k]);
        t[k] = (struct bench_text){text[k], n};
        state[k] = states + k * b->S;
    }
    const struct rwkv_edit op = {.kind = RWKV_EDIT_ADD,
                                 .select = *select,
                                 .amount = 2, /* means of 2 m states are added, not sums */
                                 .with = state,
                                 .n_with = 2 * m,
                                 .minus = state + 2 * m,
                                 .n_minus = 2 * m};
    int rc = bench_bake(&baker, t, VARIANTS * m, &(struct bench_baked){.state = states}, e);
    rc = rc < 0 ? rc : rwkv_edit_apply(b->info, &op, x, e);
    free(states);
    return rc;
}

/* The m lists behind list i that share no name with it. */
static int other_lists(const struct rc_bench *b, size_t i, size_t m, const struct rc_list *out[],
                       struct err *e)
{
    size_t n = 0;
    for (size_t d = 1; n < m && d < b->n; d++)
        if (!shares_name(&b->list[i], &b->list[(i + d) % b->n]))
            out[n++] = &b->list[(i + d) % b->n];
    return n == m ? 0 : err_set(e, ERR_INVALID, "only %zu lists share no name with list %zu", n, i);
}

static int edit_one(const struct rc_bench *b, const struct rc_setting *s,
                    const struct rwkv_select *select, size_t i, float *x, struct err *e)
{
    const float *afresh = b->afresh + i * b->S;
    const struct rwkv_edit copy = {
        .kind = RWKV_EDIT_COPY, .select = *select, .with = &afresh, .n_with = 1};
    const struct rc_list *other[OTHERS];
    const size_t m = (size_t)s->amount;
    switch (s->method) {
    case RC_AFRESH:
    case RC_COPY:
        return rwkv_edit_apply(b->info, &copy, x, e);
    case RC_ALONE:
        return add_difference(b, select, i, NULL, 1, x, e);
    case RC_DIFFERENCE:
        return other_lists(b, i, m, other, e) < 0 ? e->code
                                                  : add_difference(b, select, i, other, m, x, e);
    default:
        return 0;
    }
}

/* ---- The diffuser ---------------------------------------------------------------------------- */

/* The matrices that stay: all but the mask's. keep [n_token]. */
static void mark_kept(const struct rc_bench *b, const struct rwkv_select *select, uint8_t *keep)
{
    const struct diffuser_info *d = diffuser_get_info(b->diffuser);
    memset(keep, 1, d->n_token);
    for (size_t k = 0; k < rwkv_block_count(b->info); k++) {
        struct rwkv_block block = rwkv_block(b->info, k);
        if (block.part == RWKV_WKV && rwkv_selected(select, &block))
            keep[diffuser_matrix_token(d, block.layer, block.head)] = 0;
    }
}

static int run_diffuser(const struct rc_bench *b, const struct rc_setting *s,
                        const struct rwkv_select *select, float *x, struct err *e)
{
    struct diffuser_options o = DIFFUSER_OPTIONS;
    struct diffuser_condition *c = calloc(b->n, sizeof *c);
    uint8_t *keep = malloc(diffuser_get_info(b->diffuser)->n_token);
    int rc = c && keep ? 0 : err_set(e, ERR_NOMEM, "no memory for edits");
    o.steps = b->o.steps;
    o.seed = b->o.seed;
    o.guidance = 1;
    if (rc == 0)
        mark_kept(b, select, keep);
    for (size_t i = 0; rc == 0 && i < b->n; i++)
        c[i] = (struct diffuser_condition){.label = DIFFUSER_VECTOR,
                                           .vector = b->vector + i * b->info->n_embd};
    const struct diffuser_job job = {.n = b->n,
                                     .condition = c,
                                     .start = b->state,
                                     .strength = s->method == RC_DIFFUSE ? s->amount : 1,
                                     .keep = s->method == RC_DIFFUSE ? NULL : keep,
                                     .states = x};
    rc = rc < 0 ? rc : diffuser_run(b->diffuser, b->pool, &o, &job, e);
    for (size_t i = 0; rc == 0 && i < b->n; i++)
        rc = bake_forget_last(b->info, x + i * b->S, e);
    free(c);
    free(keep);
    return rc;
}

int rc_edit(const struct rc_bench *b, const struct rc_setting *s, float *x, struct err *e)
{
    bool *flags = calloc(b->info->n_layer + b->info->n_head, sizeof *flags);
    if (!flags)
        return err_set(e, ERR_NOMEM, "no memory for edits");
    const struct rwkv_select select = masked(b, s, flags);
    int rc = 0;
    if (s->method == RC_ZERO)
        memset(x, 0, b->n * b->S * sizeof *x);
    else if (s->method == RC_READ)
        rc = read_behind(b, x, e);
    else if (s->method == RC_INPAINT || s->method == RC_DIFFUSE)
        rc = run_diffuser(b, s, &select, x, e);
    else
        memcpy(x, b->state, b->n * b->S * sizeof *x);
    for (size_t i = 0; rc == 0 && i < b->n; i++)
        rc = edit_one(b, s, &select, i, x + i * b->S, e);
    free(flags);
    return rc;
}
