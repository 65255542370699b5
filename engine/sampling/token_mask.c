/* Masks over a vocabulary. Tokens lie in the order of their bytes, each with the number of bytes it
 * shares with the one before: a walk through them steps the matcher once for every distinct
 * beginning, and leaves out all tokens behind a beginning that is refused. Inside a string without
 * a rule nearly every token is possible; those of whole characters without quotes, backslashes and
 * controls ("plain") form a list of their own, in which all tokens behind a beginning that reaches
 * such a place are taken unread. */
#include "daemon/base/mem.h"
#include "engine/sampling/constraint.h"
#include "engine/sampling/matcher.h"
#include "engine/tokenizer/tokenizer.h"

#define LONGEST 256 /* bytes; longer tokens are never allowed */

struct entry {
    const unsigned char *p;
    uint32_t id;
    uint16_t len;    /* 1 to LONGEST */
    uint16_t shared; /* leading bytes equal to those of the entry before */
};

struct token_list {
    struct entry *at;
    size_t n;
};

struct token_index {
    struct token_list plain, other;
    uint64_t *plain_mask; /* [n_words] */
    uint32_t *end;        /* ids that end a text */
    size_t n_end;
    size_t n_words;
    size_t longest;
};

struct mask_scratch {
    size_t n;
    struct readings level[]; /* [longest + 1]: after so many bytes of a token */
};

static void set_bit(uint64_t *mask, uint32_t id)
{
    mask[id / 64] |= UINT64_C(1) << id % 64;
}

static int entry_order(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    int order = memcmp(a->p, b->p, a->len < b->len ? a->len : b->len);
    return order ? order : a->len != b->len ? (a->len < b->len ? -1 : 1) : a->id < b->id ? -1 : 1;
}

static bool is_plain(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == '"' || p[i] == '\\')
            return false;
    return utf8_is_valid((const char *)p, n);
}

static void list_sort(struct token_list *list)
{
    if (list->n > 1)
        qsort(list->at, list->n, sizeof *list->at, entry_order);
    for (size_t i = 1; i < list->n; i++) {
        const struct entry *a = &list->at[i - 1];
        struct entry *b = &list->at[i];
        while (b->shared < a->len && b->shared < b->len && a->p[b->shared] == b->p[b->shared])
            b->shared++;
    }
}

static void index_fill(struct token_index *x, const struct tokenizer *t, size_t n_ids)
{
    for (uint32_t id = 0; id < n_ids; id++) {
        size_t n;
        const unsigned char *p = (const unsigned char *)tokenizer_token(t, id, &n);
        if (tokenizer_is_end(t, id)) {
            x->end[x->n_end++] = id;
            continue;
        }
        if (n < 1 || n > LONGEST)
            continue;
        struct token_list *list = is_plain(p, n) ? &x->plain : &x->other;
        list->at[list->n++] = (struct entry){p, id, (uint16_t)n, 0};
        x->longest = n > x->longest ? n : x->longest;
        if (list == &x->plain)
            set_bit(x->plain_mask, id);
    }
}

struct token_index *token_index_new(const struct tokenizer *t, size_t n_vocab, struct err *e)
{
    size_t n_ids = tokenizer_vocab(t) < n_vocab ? tokenizer_vocab(t) : n_vocab;
    struct token_index *x = calloc(1, sizeof *x);
    if (!x)
        goto nomem;
    x->n_words = n_vocab / 64 + (n_vocab % 64 > 0);
    x->plain.at = calloc(n_ids + 1, sizeof *x->plain.at);
    x->other.at = calloc(n_ids + 1, sizeof *x->other.at);
    x->end = calloc(n_ids + 1, sizeof *x->end);
    x->plain_mask = calloc(x->n_words + 1, sizeof *x->plain_mask);
    if (!x->plain.at || !x->other.at || !x->end || !x->plain_mask)
        goto nomem;
    index_fill(x, t, n_ids);
    list_sort(&x->plain);
    list_sort(&x->other);
    return x;
nomem:
    token_index_free(x);
    err_set(e, ERR_NOMEM, "no memory for an index of %zu tokens", n_ids);
    return NULL;
}

void token_index_free(struct token_index *x)
{
    if (!x)
        return;
    free(x->plain.at);
    free(x->other.at);
    free(x->end);
    free(x->plain_mask);
    free(x);
}

struct mask_scratch *mask_scratch_new(const struct token_index *x, struct err *e)
{
    size_t n = x->longest + 1;
    struct mask_scratch *m = malloc(sizeof *m + n * sizeof m->level[0]);
    if (!m) {
        err_set(e, ERR_NOMEM, "no memory for token masks");
        return NULL;
    }
    m->n = n;
    return m;
}

void mask_scratch_free(struct mask_scratch *m)
{
    free(m);
}

/* A walk through one list, from m->level[0]. */
struct walk {
    const struct json_schema *schema;
    struct mask_scratch *m;
    size_t longest;
    bool plain;
    /* Every token that shares `decided` bytes with the one before is allowed or not, as that is. */
    size_t decided;
    bool allowed;
};

/* Steps through the bytes of one token, those that it shares with the one before excepted. */
static void walk_token(struct walk *w, const struct entry *t)
{
    w->decided = SIZE_MAX;
    for (size_t k = t->shared; k < t->len; k++) {
        w->allowed = w->plain && readings_free(w->schema, &w->m->level[k], w->longest);
        if (w->allowed) {
            w->decided = k;
            return;
        }
        if (!readings_step(w->schema, &w->m->level[k], t->p[k], &w->m->level[k + 1])) {
            w->decided = k + 1;
            return;
        }
    }
    w->allowed = true;
}

static void walk_list(struct walk *w, const struct token_list *list, uint64_t *allowed)
{
    w->decided = SIZE_MAX;
    for (size_t i = 0; i < list->n; i++) {
        const struct entry *t = &list->at[i];
        if (t->shared < w->decided)
            walk_token(w, t);
        if (w->allowed)
            set_bit(allowed, t->id);
    }
}

size_t constraint_mask(const struct constraint *c, const struct token_index *x,
                       struct mask_scratch *m, uint64_t *allowed)
{
    struct walk w = {.schema = c->schema, .m = m, .longest = x->longest};
    size_t count = 0;
    memset(allowed, 0, x->n_words * sizeof *allowed);
    readings_copy(&m->level[0], &c->now);
    walk_list(&w, &x->other, allowed);
    w.plain = true;
    if (readings_free(c->schema, &c->now, x->longest))
        for (size_t i = 0; i < x->n_words; i++)
            allowed[i] |= x->plain_mask[i];
    else
        walk_list(&w, &x->plain, allowed);
    if (constraint_is_complete(c))
        for (size_t i = 0; i < x->n_end; i++)
            set_bit(allowed, x->end[i]);
    for (size_t i = 0; i < x->n_words; i++)
        count += (size_t)__builtin_popcountll(allowed[i]);
    return count;
}
