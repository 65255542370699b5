/* One prompt for several completions (n > 1): the first that gets a place reads it, the others go on from
 * a copy of its state and logits, whose bytes are those that each would have computed.
 *
 *     sp = shared_prompt_new(n);   every completion holds a reference, its sequence one claim
 *     shared_prompt_take           what a sequence is to do: read it, wait, or it has the state now
 *     shared_prompt_give           who read it
 *     shared_prompt_drop           a sequence that ends without; another reads it then
 *
 * The copy lives until the last claim is taken or dropped: one state more than there are sequences.
 *
 * Threads: any; copies are made under the lock (only the model's thread takes and gives). */
#ifndef DAEMON_SHARED_PROMPT_H
#define DAEMON_SHARED_PROMPT_H

#include "daemon/service.h"
#include "engine/rwkv/rwkv.h"

#define SHARED_START 160 /* bytes of what names a start */

enum shared_prompt_way { SHARED_LEAD, SHARED_WAIT, SHARED_TAKEN, SHARED_OTHER };

/* A state with its logits, in the taker's or the giver's memory. */
struct shared_state {
    const struct rwkv_info *info;
    const char *start; /* "name@version" of the state before the prompt, or "" */
    float *state, *logits;
    uint64_t n_read;
};

/* TAKEN: s is filled. LEAD: the caller reads the prompt from now on. OTHER: those before it started from
 * another version of the state, so it is on its own. TAKEN and OTHER use its claim up. */
enum shared_prompt_way shared_prompt_take(struct shared_prompt *p, struct shared_state *s);
/* The leader has read it; its claim is used up. Without memory for the copy another will lead. */
void shared_prompt_give(struct shared_prompt *p, const struct shared_state *s);
void shared_prompt_drop(struct shared_prompt *p, bool leads);

#endif
