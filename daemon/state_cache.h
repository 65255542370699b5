/* States in memory, by the SHA-256 of their record: checked and unpacked, so that starting from one
 * costs a copy instead of a read, a hash and a parse. What it holds cannot go stale, as the name is the
 * content: deleting a state, or damage of its stored bytes, changes nothing here. The least recently
 * used go first when the limit is reached.
 *
 * Threads: any. Copies are made outside the lock. Limits: bytes of all entries, their keep included. */
#ifndef DAEMON_STATE_CACHE_H
#define DAEMON_STATE_CACHE_H

#include "engine/rwkv/rwkv.h"

struct state_cache;

/* limit: bytes. NULL: no memory. */
struct state_cache *state_cache_new(size_t limit);
void state_cache_free(struct state_cache *c); /* NULL is fine */

/* A state with what belongs to it. */
struct cached_state {
    float *state;  /* [rwkv_state_floats] */
    float *logits; /* [V]; in a put NULL where there are none */
    bool has_logits;
    uint64_t n_tokens;
};
/* Copies into s->state and, where there are some, s->logits; false if it is not there. */
bool state_cache_get(struct state_cache *c, const char *sha256, const struct rwkv_info *info,
                     struct cached_state *s);
/* Copies from there (a state that was checked, or just packed). One that does not fit, or for which
 * there is no memory, is not kept. */
void state_cache_put(struct state_cache *c, const char *sha256, const struct rwkv_info *info,
                     const struct cached_state *s);

struct state_cache_stats {
    uint64_t hits, misses, evicted;
    size_t entries, bytes, limit;
};
void state_cache_get_stats(struct state_cache *c, struct state_cache_stats *out);

#endif
