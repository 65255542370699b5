#include "daemon/state_cache.h"

#include "daemon/base/list.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024

struct entry {
    struct list used, chain; /* guard: lock; in `used` while it is in the cache */
    size_t refs;             /* guard: lock; one of the cache, one for each copy being made */
    char sha256[65], fingerprint[65];
    size_t n_state, n_logits; /* values; n_logits 0: none */
    uint64_t n_tokens;
    size_t bytes;
    float values[]; /* state, logits */
};

struct state_cache {
    pthread_mutex_t lock;
    size_t limit;                 /* set once */
    struct list used;             /* guard: lock; the least recently used first */
    struct list buckets[BUCKETS]; /* guard: lock */
    struct state_cache_stats st;  /* guard: lock */
};

struct state_cache *state_cache_new(size_t limit)
{
    struct state_cache *c = calloc(1, sizeof *c);
    if (!c || pthread_mutex_init(&c->lock, NULL) != 0) {
        free(c);
        return NULL;
    }
    c->limit = c->st.limit = limit;
    list_init(&c->used);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&c->buckets[i]);
    return c;
}

void state_cache_free(struct state_cache *c)
{
    if (!c)
        return;
    for (struct list *n; (n = list_pop(&c->used));)
        free(LIST_OWNER(n, struct entry, used));
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* SHA-256 is its own hash. */
static struct list *bucket(struct state_cache *c, const char *sha256)
{
    char head[6] = {0};
    memcpy(head, sha256, strnlen(sha256, 5));
    return &c->buckets[strtoul(head, NULL, 16) % BUCKETS];
}

/* [locked] */
static struct entry *find(struct state_cache *c, const char *sha256)
{
    LIST_FOR_EACH(n, bucket(c, sha256))
    {
        struct entry *e = LIST_OWNER(n, struct entry, chain);
        if (!strcmp(e->sha256, sha256))
            return e;
    }
    return NULL;
}

/* [locked] */
static void touch(struct state_cache *c, struct entry *e)
{
    list_remove(&e->used);
    list_push(&c->used, &e->used);
}

/* [locked] */
static void unref(struct entry *e)
{
    if (--e->refs == 0)
        free(e);
}

/* [locked] */
static void evict(struct state_cache *c)
{
    struct entry *e = LIST_OWNER(list_pop(&c->used), struct entry, used);
    list_remove(&e->chain);
    c->st.bytes -= e->bytes;
    c->st.entries--;
    c->st.evicted++;
    unref(e);
}

bool state_cache_get(struct state_cache *c, const char *sha256, const struct rwkv_info *info,
                     struct cached_state *s)
{
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, sha256);
    /* A record that gives another model's state as its own is for those who read it to refuse. */
    if (e && strcmp(e->fingerprint, info->fingerprint) != 0)
        e = NULL;
    if (e) {
        e->refs++;
        touch(c, e);
        c->st.hits++;
    } else {
        c->st.misses++;
    }
    pthread_mutex_unlock(&c->lock);
    if (!e)
        return false;
    memcpy(s->state, e->values, e->n_state * sizeof *e->values);
    memcpy(s->logits, e->values + e->n_state, e->n_logits * sizeof *e->values);
    s->has_logits = e->n_logits > 0;
    s->n_tokens = e->n_tokens;
    pthread_mutex_lock(&c->lock);
    unref(e);
    pthread_mutex_unlock(&c->lock);
    return true;
}

static struct entry *make_entry(const char *sha256, const struct rwkv_info *info,
                                const struct cached_state *s, size_t bytes)
{
    struct entry *e = malloc(bytes);
    if (!e)
        return NULL;
    *e = (struct entry){.refs = 1,
                        .n_state = rwkv_state_floats(info),
                        .n_logits = s->logits ? info->n_vocab : 0,
                        .n_tokens = s->n_tokens,
                        .bytes = bytes};
    memcpy(e->sha256, sha256, strnlen(sha256, 64));
    memcpy(e->fingerprint, info->fingerprint, sizeof e->fingerprint);
    memcpy(e->values, s->state, e->n_state * sizeof *s->state);
    if (s->logits)
        memcpy(e->values + e->n_state, s->logits, e->n_logits * sizeof *s->logits);
    return e;
}

void state_cache_put(struct state_cache *c, const char *sha256, const struct rwkv_info *info,
                     const struct cached_state *s)
{
    size_t bytes = sizeof(struct entry) +
                   (rwkv_state_floats(info) + (s->logits ? info->n_vocab : 0)) * sizeof(float);
    if (bytes > c->limit)
        return;
    pthread_mutex_lock(&c->lock);
    struct entry *there = find(c, sha256), *e = NULL;
    if (there)
        touch(c, there);
    pthread_mutex_unlock(&c->lock);
    if (there || !(e = make_entry(sha256, info, s, bytes)))
        return;
    pthread_mutex_lock(&c->lock);
    if (find(c, sha256)) { /* another was quicker */
        unref(e);
    } else {
        list_push(&c->used, &e->used);
        list_push(bucket(c, sha256), &e->chain);
        c->st.bytes += bytes;
        c->st.entries++;
        while (c->st.bytes > c->limit)
            evict(c);
    }
    pthread_mutex_unlock(&c->lock);
}

void state_cache_get_stats(struct state_cache *c, struct state_cache_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = c->st;
    pthread_mutex_unlock(&c->lock);
}
