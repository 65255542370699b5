#include "daemon/sessions.h"

#include "daemon/base/list.h"
#include "daemon/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct session {
    struct list link; /* guard: sessions.lock */
    atomic_int refs;  /* one is the list's */
    const struct model *model;
    char *scope, *base, *adjusted;
    uint32_t *tokens; /* [n] */
    size_t n;
    float *state, *logits;
    uint64_t bytes;
};

struct sessions {
    size_t max_count;
    uint64_t max_bytes;
    pthread_mutex_t lock;
    struct list all; /* guard: lock; the longest unused first */
    struct sessions_counts counts;
};

struct sessions *sessions_new(size_t max_count, uint64_t max_bytes)
{
    struct sessions *s = calloc(1, sizeof *s);
    if (!s || pthread_mutex_init(&s->lock, NULL)) {
        free(s);
        return NULL;
    }
    s->max_count = max_count;
    s->max_bytes = max_bytes;
    list_init(&s->all);
    return s;
}

static void session_unref(struct session *one)
{
    if (atomic_fetch_sub_explicit(&one->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(one->scope);
    free(one->base);
    free(one->adjusted);
    free(one->tokens);
    free(one->state);
    free(one->logits);
    free(one);
}

void sessions_free(struct sessions *s)
{
    if (!s)
        return;
    while (!list_empty(&s->all))
        session_unref(LIST_OWNER(list_pop(&s->all), struct session, link));
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static bool same_key(const struct session *one, const struct session_key *key)
{
    return one->model == key->model && !strcmp(one->scope, key->scope) &&
           !strcmp(one->base, key->base) && !strcmp(one->adjusted, key->adjusted);
}

/* The longest whose tokens begin tokens [n], moved to the end of the list, or NULL. guard: lock */
static struct session *longest(struct sessions *s, const struct session_key *key,
                               const uint32_t *tokens, size_t n)
{
    struct session *best = NULL;
    LIST_FOR_EACH(node, &s->all)
    {
        struct session *one = LIST_OWNER(node, struct session, link);
        if (one->n <= n && (!best || one->n > best->n) &&
            one->tokens[one->n - 1] == tokens[one->n - 1] && same_key(one, key) &&
            !memcmp(one->tokens, tokens, one->n * sizeof *tokens))
            best = one;
    }
    if (best) {
        list_remove(&best->link);
        list_push(&s->all, &best->link);
    }
    return best;
}

size_t sessions_find(struct sessions *s, const struct session_key *key, const uint32_t *tokens,
                     size_t n, float *state, float *logits)
{
    pthread_mutex_lock(&s->lock);
    struct session *one = n ? longest(s, key, tokens, n) : NULL;
    if (one)
        atomic_fetch_add_explicit(&one->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->lock);
    if (!one)
        return 0;
    size_t read = one->n;
    memcpy(state, one->state, rwkv_state_floats(key->model->rwkv_info) * sizeof *state);
    memcpy(logits, one->logits, key->model->rwkv_info->n_vocab * sizeof *logits);
    session_unref(one);
    return read;
}

static float *copy_floats(const float *from, size_t n)
{
    float *to = mem_calloc_aligned(n, sizeof *to);
    if (to)
        memcpy(to, from, n * sizeof *to);
    return to;
}

static struct session *session_new(const struct session_key *key, const uint32_t *tokens, size_t n,
                                   const uint32_t *more, size_t n_more)
{
    struct session *one = calloc(1, sizeof *one);
    if (!one)
        return NULL;
    atomic_init(&one->refs, 1);
    list_init(&one->link);
    one->model = key->model;
    one->n = n + n_more;
    one->scope = strdup(key->scope);
    one->base = strdup(key->base);
    one->adjusted = strdup(key->adjusted);
    one->tokens = calloc(one->n, sizeof *one->tokens);
    if (!one->scope || !one->base || !one->adjusted || !one->tokens) {
        session_unref(one);
        return NULL;
    }
    if (n)
        memcpy(one->tokens, tokens, n * sizeof *tokens);
    if (n_more)
        memcpy(one->tokens + n, more, n_more * sizeof *more);
    return one;
}

/* Puts one into the list, unless its like is there, and takes out what is then too much. guard: lock
 */
static void insert(struct sessions *s, struct session *one, const struct session_key *key,
                   struct list *out)
{
    const struct session *like = longest(s, key, one->tokens, one->n);
    if (like && like->n == one->n) {
        list_push(out, &one->link);
        return;
    }
    list_push(&s->all, &one->link);
    s->counts.n++;
    s->counts.parked++;
    s->counts.bytes += one->bytes;
    while (s->counts.n > s->max_count || s->counts.bytes > s->max_bytes) {
        struct session *old = LIST_OWNER(list_pop(&s->all), struct session, link);
        s->counts.n--;
        s->counts.evicted++;
        s->counts.bytes -= old->bytes;
        list_push(out, &old->link);
    }
}

void sessions_park(struct sessions *s, const struct session_key *key, const uint32_t *tokens,
                   size_t n, const uint32_t *more, size_t n_more, const float *state,
                   const float *logits)
{
    const struct rwkv_info *info = key->model->rwkv_info;
    size_t floats = rwkv_state_floats(info);
    uint64_t bytes = sizeof(struct session) + (floats + info->n_vocab) * sizeof(float) +
                     (n + n_more) * sizeof *tokens;
    struct list out;
    if (!s->max_count || bytes > s->max_bytes || !(n + n_more))
        return;
    struct session *one = session_new(key, tokens, n, more, n_more);
    if (!one)
        return;
    one->bytes = bytes;
    one->state = copy_floats(state, floats);
    one->logits = copy_floats(logits, info->n_vocab);
    if (!one->state || !one->logits) {
        session_unref(one);
        return;
    }
    list_init(&out);
    pthread_mutex_lock(&s->lock);
    insert(s, one, key, &out);
    pthread_mutex_unlock(&s->lock);
    while (!list_empty(&out))
        session_unref(LIST_OWNER(list_pop(&out), struct session, link));
}

void sessions_get_counts(struct sessions *s, struct sessions_counts *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    pthread_mutex_unlock(&s->lock);
}
