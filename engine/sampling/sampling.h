/* From logits to the next token, reproducibly, and stop strings over the growing text.
 *
 *     struct sampler *s = sampler_new(&params, n_vocab, kern, &e);
 *     uint32_t id = sampler_pick(s, logits);
 *     sampler_accept(s, id);
 *
 * Order of the operations: penalties, logit bias, temperature (0: the largest logit, ties to the
 * lowest id), top-k, typical-p, top-p, min-p, then one draw among what is left, in the order of the
 * ids. Equal probabilities rank by id, lowest first; typical-p (Meister et al. 2022, "Locally
 * typical sampling") ranks what top-k left by |-log p - H|, H the entropy of its distribution, and
 * keeps the fewest tokens, least first, that hold typical_p of it; top-p keeps the fewest that hold
 * top_p of what is then left; min-p keeps those at least min_p times as likely as the best of them.
 * Tokens outside a mask (sampler_pick_allowed) are out before everything else. A NaN logit counts
 * as -inf; with no finite logit at all the pick is id 0, with a mask the lowest id it allows. The
 * draw of token i uses Philox4x32-10 keyed
 * by the seed with counter i, so that a request's text depends on its seed and logits alone, not on
 * the other requests.
 *
 * Threads: a sampler belongs to one thread at a time. Ownership: the caller frees. */
#ifndef ENGINE_SAMPLING_H
#define ENGINE_SAMPLING_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sampling_params {
    float temperature;       /* 0 to 2 and above; 0 = greedy */
    float top_p;             /* [0, 1]; 1 = off, 0 = only the most likely token */
    float min_p;             /* [0, 1]; 0 = off */
    float typical_p;         /* [0, 1]; 1 = off, 0 = only the most typical token */
    uint32_t top_k;          /* 0 = off */
    float presence_penalty;  /* subtracted once from the logit of a token that was sampled before */
    float frequency_penalty; /* subtracted for each of its (decayed) occurrences */
    float penalty_decay;     /* occurrences are multiplied by this at each token; 1 = no decay */
    float repeat_penalty;    /* llama's: logit > 0 ? logit / p : logit * p; 1 = off */
    uint64_t seed;
};
#define SAMPLING_DEFAULT                                                                           \
    ((struct sampling_params){                                                                     \
        .temperature = 1, .top_p = 1, .typical_p = 1, .penalty_decay = 1, .repeat_penalty = 1})

/* 0, or ERR_INVALID with the field's name in e->param. */
int sampling_check(const struct sampling_params *p, struct err *e);

struct sampler;
struct kern;
/* NULL: params are invalid or there is no memory (e says which). Memory is O(vocabulary). kern outlives it:
 * the model's, so that samples are as reproducible as logits (a level's exp is its own). */
struct sampler *sampler_new(const struct sampling_params *p, size_t n_vocab,
                            const struct kern *kern, struct err *e);
void sampler_free(struct sampler *s); /* NULL is fine */
struct logit_bias {
    uint32_t id;
    float bias; /* added to the logit; -INFINITY bans the token */
};
/* Copies the biases, in the place of earlier ones. ERR_INVALID with param "logit_bias" for an id
 * outside the vocabulary or a bias that is NaN or +inf; ERR_NOMEM. */
int sampler_set_bias(struct sampler *s, const struct logit_bias *bias, size_t n, struct err *e);
/* Picks from logits [n_vocab], which stay as they are. */
uint32_t sampler_pick(struct sampler *s, const float *logits);
/* The same among the ids whose bit is set in allowed: id i is bit i % 64 of word i / 64, in
 * (n_vocab + 63) / 64 words. NULL allows all; a mask without a bit gives id 0. */
uint32_t sampler_pick_allowed(struct sampler *s, const float *logits, const uint64_t *allowed);
/* Tells it which token was taken: counts for the penalties, and the next draw. */
void sampler_accept(struct sampler *s, uint32_t id);

/* Log-probabilities of the unmodified logits (OpenAI's meaning). */
struct token_logprob {
    uint32_t id;
    float logprob; /* natural logarithm */
};
/* The logprob of id, and the n <= n_vocab most likely tokens, best first (ties: lowest id), into
 * top [n]. Probability zero reads -9999, as with OpenAI: JSON has no infinity. */
float logprobs_of(const float *logits, size_t n_vocab, uint32_t id, struct token_logprob *top,
                  size_t n);

/* Stop strings: feed bytes as they come; text that may still become a stop string is held back.
 * Exact for overlaps (a naive search over the whole text gives the same). When the text ends
 * otherwise, what is held back may be shown. One thread at a time. */
struct stop_matcher;
/* stops [n], lengths lens [n], each at least one byte; copied. NULL: no memory. */
struct stop_matcher *stop_new(const char *const *stops, const size_t *lens, size_t n);
void stop_free(struct stop_matcher *m); /* NULL is fine */
/* Feeds n bytes; *release = how many bytes of everything fed so far and not yet released may be
 * shown now. Returns the index of the stop string that was completed (the earliest ending; of
 * several that end together the longest, of equal ones the first; nothing from its first byte on is
 * ever released), or -1. After a match the matcher takes no more: the same index again, nothing
 * released. */
int stop_feed(struct stop_matcher *m, const char *p, size_t n, size_t *release);

#endif
