/* A text completion request: what it asks, and how its answer is put together. One request makes
 * n_choices completions (each prompt n times), which run side by side; choice i is prompt i / n and
 * has the seed plus i % n.
 *
 * Each choice gathers text and, where asked, logprobs as JSON fragments; a stream sends and empties
 * them at each token, a whole answer at its end. */
#ifndef API_COMPLETIONS_H
#define API_COMPLETIONS_H

#include "api/prompt.h"

struct choice {
    struct completion *c; /* owned by the request's source */
    struct buf text, ids, tokens, logprobs, tops, offsets;
    uint64_t chars; /* code points of the tokens so far: text_offset */
};

struct completions {
    const struct model_info *model;
    char id[32], fingerprint[24];
    int64_t created;
    uint64_t seed;
    size_t n, n_choices;
    bool stream, include_usage, return_tokens;
    int n_logprobs;
    struct choice choices[REQ_SOURCES];
};

extern const struct task completions_whole, completions_stream;

#endif
