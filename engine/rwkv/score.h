/* How well a model predicts given token sequences: bits per token.
 *
 *     struct score_seq q = {.tokens = ids, .n_tokens = n, .bits = bits};
 *     rwkv_score(model, pool, &q, 1, &e);     bits[i] = -log2 p(ids[i + 1] | ids[0..i]), 0 <= i < n - 1
 *
 * Each sequence starts from the zero state or a given one, which is carried to its end; its first
 * token is given, not predicted. Many sequences are evaluated together; by rwkv.h's determinism rule the figures do not
 * depend on which. Threads: as rwkv_eval, with a session of its own. */
#ifndef ENGINE_SCORE_H
#define ENGINE_SCORE_H

#include "engine/rwkv/rwkv.h"

struct score_seq {
    const uint32_t *tokens; /* [n_tokens], each below n_vocab */
    size_t n_tokens;
    float *bits;            /* out: [n_tokens - 1] */
    const float *state;     /* where it starts (rwkv.h); NULL: at zero */
    const float *theta;     /* instead of the model's vectors (rwkv.h); NULL: those */
    size_t rank;            /* of theta */
};

/* Sequences of fewer than two tokens are passed over. ERR_INVALID, ERR_NUMERIC, ERR_NOMEM. */
int rwkv_score(const struct rwkv_model *m, struct pool *pool, const struct score_seq *seqs,
               size_t n_seqs, struct err *e) __attribute__((warn_unused_result));

#endif
