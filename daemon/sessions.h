/* Chats that go on: the states that requests left behind, in memory, found again by their tokens.
 *
 * Front ends send the whole conversation with every turn. A request that asks for it (reuse) parks
 * its state where its prompt ends and where its answer ends; a later one whose prompt begins with the
 * very tokens that a parked state has read goes on from there (the longest such state wins) and
 * evaluates the rest only. Tokens are compared, not hashes of them; what a state has read determines
 * its bytes (rwkv.h), so an answer is the same with and without reuse. The end of the prompt is worth
 * a state of its own: front ends strip an answer's outer white space, templates its empty lines, and
 * an answer may be asked for again.
 *
 * A state is found only by requests for the same model, from the same named state (name@version), under
 * the same context (a hybrid's vectors) and of the same scope (API key and user). Named states are never touched. Bounded in number and bytes;
 * the longest unused one goes first.
 *
 * Threads: any; the lock is a leaf, no state is copied under it. */
#ifndef DAEMON_SESSIONS_H
#define DAEMON_SESSIONS_H

#include "daemon/registry.h"

struct sessions;

/* max_count 0: nothing is ever parked. NULL: no memory. */
struct sessions *sessions_new(size_t max_count, uint64_t max_bytes);
void sessions_free(struct sessions *s); /* NULL is fine */

struct session_key {
    const struct model *model;
    const char *scope, *base; /* base: "name@version", "" for the zero state */
    const char *adjusted;     /* SHA-256 of the vectors it ran with, "" for the model's own */
};

/* Copies the state that has read the most of tokens [n] since base, and its logits. Returns how many
 * tokens it has read; 0: there is none. */
size_t sessions_find(struct sessions *s, const struct session_key *key, const uint32_t *tokens,
                     size_t n, float *state, float *logits);
/* Keeps a copy of the state that has read tokens [n] and then more [n_more]. It may be refused for
 * want of memory or room: then nothing changes. */
void sessions_park(struct sessions *s, const struct session_key *key, const uint32_t *tokens,
                   size_t n, const uint32_t *more, size_t n_more, const float *state,
                   const float *logits);

struct sessions_counts {
    size_t n;
    uint64_t bytes, parked, evicted;
};
void sessions_get_counts(struct sessions *s, struct sessions_counts *out);

#endif
