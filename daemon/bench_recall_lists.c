/* The lists, and the states they leave. */
#include "daemon/bench_recall.h"

#include "daemon/bench_corpora.h"
#include "engine/kernels/rng.h"

#include <stdlib.h>
#include <string.h>

/* ---- Texts ----------------------------------------------------------------------------------- */

/* A word of a line, from *p to `end`, that ends before `stop`; *p is then behind that. */
static bool take_word(const char **p, const char *end, char stop, char out[RC_WORD])
{
    const char *at = memchr(*p, stop, (size_t)(end - *p));
    size_t n = at ? (size_t)(at - *p) : 0;
    if (!n || n >= RC_WORD || memchr(*p, '\n', n))
        return false;
    memcpy(out, *p, n);
    out[n] = 0;
    *p = at + 1;
    return true;
}

int rc_parse(struct rc_list *l, const char *text, size_t n, struct err *e)
{
    const char *p = text, *end = text + n;
    memset(l, 0, sizeof *l);
    for (; p < end; l->n++) {
        struct rc_entry *x = &l->entry[l->n];
        if (l->n == RC_ENTRIES)
            return err_set(e, ERR_FORMAT, "a list of more than %d entries", RC_ENTRIES);
        if (!take_word(&p, end, '=', x->name) || !take_word(&p, end, '\n', x->value))
            return err_set(e, ERR_FORMAT,
                           "line %zu of a list is not name=value, at most %d bytes each", l->n + 1,
                           RC_WORD - 1);
        for (size_t i = 0; i < l->n; i++)
            if (!strcmp(l->entry[i].name, x->name))
                return err_set(e, ERR_FORMAT, "a list has the name %s twice", x->name);
    }
    return l->n >= 3 ? 0 : err_set(e, ERR_FORMAT, "a list of fewer than 3 entries");
}

void rc_choose(struct rc_list *lists, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        struct rc_list *l = &lists[i];
        const char *old, *value;
        struct rng rng;
        rng_init(&rng, seed, i);
        l->edited = (size_t)rng_below(&rng, l->n);
        l->removed = (l->edited + 1 + (size_t)rng_below(&rng, l->n - 1)) % l->n;
        old = value = l->entry[l->edited].value;
        for (size_t k = 1; k < n && !strcmp(value, old); k++) {
            const struct rc_list *other = &lists[(i + k) % n];
            value = other->entry[rng_below(&rng, other->n)].value;
        }
        memcpy(l->value, value, sizeof l->value);
    }
}

size_t rc_write(const struct rc_entry *entry, size_t n, char text[BENCH_TEXT])
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const char *const words[] = {i ? "\n" : "", entry[i].name, "=", entry[i].value};
        for (size_t k = 0; k < 4; k++) {
            size_t len = strlen(words[k]);
            memcpy(text + at, words[k], len);
            at += len;
        }
    }
    return at;
}

size_t rc_changed(const struct rc_list *l, struct rc_entry out[RC_ENTRIES])
{
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (i == l->removed)
            continue;
        out[n] = l->entry[i];
        if (i == l->edited)
            memcpy(out[n].value, l->value, sizeof out->value);
        n++;
    }
    return n;
}

/* ---- States ---------------------------------------------------------------------------------- */

static int read_lists(struct rc_bench *b, struct err *e)
{
    struct heldout h;
    int rc = heldout_open(b->o.lists, &h, e);
    if (rc < 0)
        return rc;
    b->n = h.n_docs < b->o.limit ? h.n_docs : b->o.limit;
    b->list = calloc(b->n, sizeof *b->list);
    if (!b->list)
        rc = err_set(e, ERR_NOMEM, "no memory for lists");
    for (size_t i = 0; rc == 0 && i < b->n; i++)
        if ((rc = rc_parse(&b->list[i], h.docs[i].text, h.docs[i].n, e)) < 0)
            err_prefix(e, "%s: list %zu", b->o.lists, i + 1);
    if (rc == 0 && b->n < 2)
        rc = err_set(e, ERR_INVALID, "%s: one list alone", b->o.lists);
    heldout_fini(&h);
    return rc;
}

/* The states of the lists or of the changed lists. */
static int bake_lists(struct rc_bench *b, bool changed, const struct bench_baked *to, struct err *e)
{
    const struct bench_baker baker = {b->model, b->pool, b->tokenizer};
    char(*text)[BENCH_TEXT] = malloc(b->n * sizeof *text);
    struct bench_text *t = calloc(b->n, sizeof *t);
    int rc = text && t ? 0 : err_set(e, ERR_NOMEM, "no memory for lists");
    for (size_t i = 0; rc == 0 && i < b->n; i++) {
        struct rc_entry other[RC_ENTRIES];
        const struct rc_list *l = &b->list[i];
        size_t n = changed ? rc_changed(l, other) : l->n;
        t[i] = (struct bench_text){text[i], rc_write(changed ? other : l->entry, n, text[i])};
    }
    rc = rc < 0 ? rc : bench_bake(&baker, t, b->n, to, e);
    free(text);
    free(t);
    return rc;
}

static int open_models(struct rc_bench *b, struct err *e)
{
    const struct rwkv_options as_stored = {.weights_type = -1};
    if (!(b->pool = pool_new(b->o.threads, "bench", 0, e)))
        return e->code;
    int rc = rwkv_open(b->o.model, &as_stored, b->pool, &b->model, e);
    if (rc < 0)
        return rc;
    b->info = rwkv_get_info(b->model);
    b->S = rwkv_state_floats(b->info);
    if (b->info->n_vocab != 256)
        return err_set(e, ERR_INVALID, "this bench needs a model of bytes");
    if (!(b->tokenizer = tokenizer_new_bytes()))
        return err_set(e, ERR_NOMEM, "no memory for a tokenizer");
    rc = b->o.diffuser ? diffuser_open(b->o.diffuser, &b->diffuser, e) : 0;
    if (rc < 0 || !b->diffuser)
        return rc;
    const struct diffuser_info *d = diffuser_get_info(b->diffuser);
    if (strcmp(d->fingerprint, b->info->fingerprint) != 0 || d->cond_dim != b->info->n_embd)
        return err_set(e, ERR_INVALID, "%s: made for another model", b->o.diffuser);
    return 0;
}

int rc_material_open(struct rc_bench *b, struct err *e)
{
    int rc = open_models(b, e);
    rc = rc < 0 ? rc : read_lists(b, e);
    if (rc < 0)
        return rc;
    rc_choose(b->list, b->n, b->o.seed);
    b->state = malloc(b->n * b->S * sizeof *b->state);
    b->afresh = malloc(b->n * b->S * sizeof *b->afresh);
    b->vector = malloc(b->n * b->info->n_embd * sizeof *b->vector);
    if (!b->state || !b->afresh || !b->vector)
        return err_set(e, ERR_NOMEM, "no memory for %zu states", 2 * b->n);
    bench_note("baking %zu lists", b->n);
    rc = bake_lists(b, false, &(struct bench_baked){.state = b->state}, e);
    return rc < 0 ? rc
                  : bake_lists(b, true,
                               &(struct bench_baked){.state = b->afresh, .vector = b->vector}, e);
}

void rc_material_close(struct rc_bench *b)
{
    void *const all[] = {b->list, b->state, b->afresh, b->vector};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    diffuser_close(b->diffuser);
    tokenizer_free(b->tokenizer);
    rwkv_close(b->model);
    pool_free(b->pool);
}
