/* What a sequence of an embedding does: reads its texts one after the other, each from the same state,
 * and takes the mean of the final hidden states on the way; no [n_tokens, C] is ever kept.
 *
 * Threads: it belongs to the thread that has the sequence. */
#ifndef DAEMON_EMBEDDER_H
#define DAEMON_EMBEDDER_H

#include "daemon/registry.h"

struct embedder {
    struct embedding *to; /* borrowed */
    size_t n_embd;        /* C */
    double *sum;          /* [C] of the text at hand */
    float *start;         /* [rwkv_state_floats] the named state; NULL: the zero state */
    size_t at;            /* the text at hand */
    uint64_t n_tokens;    /* read, of all texts */
};

/* state: where every text begins (kept if there are several); NULL: the zero state. ERR_NOMEM;
 * embedder_fini in every case. */
int embedder_init(struct embedder *b, const struct rwkv_info *info, struct embedding *to,
                  const float *state, struct err *e);
void embedder_fini(struct embedder *b);

static inline const struct token_list *embedder_text(const struct embedder *b)
{
    return &b->to->texts[b->at];
}
/* The final hidden states [n, C] after n more tokens of the text at hand. */
void embedder_add(struct embedder *b, const float *hidden, size_t n);
/* The text at hand was read: writes its vector and puts `state` [n_floats] where the next begins.
 * False: it was the last. */
bool embedder_next(struct embedder *b, float *state, size_t n_floats);

#endif
