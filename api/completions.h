/* Completions, as text and as chat: what a request asks, and how its answer is put together.
 *
 * One request makes n_choices completions (each prompt n times), which run side by side; choice i is
 * prompt i / n and has the seed plus i % n.
 *
 *     completions_new          the request's from then on     (completions.c, chat.c: the handlers)
 *     asked_decode             the fields that both kinds share             (asked.c)
 *     asked_add_prompt ...     what is to be read                           (the handlers)
 *     completions_submit       makes the choices, then submits them all     (asked.c)
 *     form                     how the kind shows a choice                  (the handlers' files)
 *
 * Each choice gathers text and, where asked, logprobs as JSON fragments (its parts); a stream sends
 * and empties them at each token, a whole answer at its end (completions_out.c). */
#ifndef API_COMPLETIONS_H
#define API_COMPLETIONS_H

#include "api/prompt.h"

/* TOKENS, LOGPROBS, TOPS, OFFSETS are lists for the form's logprobs; chat uses the first only. */
enum part { PART_TEXT, PART_IDS, PART_TOKENS, PART_LOGPROBS, PART_TOPS, PART_OFFSETS, PART_END };

struct choice {
    struct completion *c; /* owned by the request's source */
    struct buf part[PART_END];
    uint64_t chars; /* code points of the tokens so far: text_offset */
    bool begun;     /* its first chunk was sent */
    bool trims;     /* white space is still left out: none was shown yet */
};

struct completions;

/* One kind of answer. */
struct form {
    const char *id_prefix, *object, *chunk_object;
    bool opens; /* a stream's first chunk of a choice announces it and has no text */
    bool trims; /* an answer begins behind its white space */
    /* One token's log-probabilities, to the choice's parts. tops: n_top struct token_logprob. */
    void (*gather_logprobs)(struct req *r, struct choice *ch, const struct token_event *t,
                            const char *tops);
    /* The members of a choice between its index and finish_reason. delta: in a stream. */
    void (*write)(struct jw *w, const struct completions *t, struct choice *ch, bool delta);
};

struct completions {
    const struct form *form;
    const struct model_info *model;
    char id[40], fingerprint[24];
    int64_t created;
    uint64_t seed;
    size_t n, n_choices;
    bool stream, include_usage, return_tokens;
    int n_logprobs;
    struct choice choices[REQ_SOURCES];
};

/* What every choice of the request shares, as decoded; strings and arrays inside o are borrowed. */
struct asked {
    const struct model_info *model;
    struct sampling_params sampling;
    int64_t max_tokens, n, seed, logprobs;
    const json_t *stop;   /* string, array of strings, or NULL */
    const json_t *bias;   /* object, or NULL */
    const char *stops[4]; /* [n_stops]: those that the template adds */
    size_t n_stops;
    struct schema *schema; /* one reference; NULL: any text */
    char *state, *save_state;
    struct state_file *state_file; /* one reference; in the place of `state` */
    struct adjustment *adjustment; /* one reference; NULL: the model as it is */
    bool new_version, echo, return_state, no_cache;
    bool reuse; /* go on from what earlier requests left behind; a holds the default */
    char *scope;
    struct {
        uint32_t *ids; /* malloc'd */
        size_t n;
    } prompt[REQ_SOURCES]; /* [n_prompts] */
    size_t n_prompts;
};

/* The task of r; freed with it. NULL: no memory. */
struct completions *completions_new(struct req *r, const struct form *f, struct err *e);
/* All but prompts, logprobs and max_tokens, for which a holds the defaults. ERR_INVALID,
 * ERR_MODEL_NOT_FOUND. asked_fini in every case. */
int asked_decode(struct req *r, const json_t *o, struct completions *t, struct asked *a,
                 struct err *e);
void asked_fini(struct asked *a);
/* Makes every completion, then submits them: what is wrong with any is told before any runs. */
int completions_submit(struct req *r, struct completions *t, struct asked *a, struct err *e);

/* For the forms: commas between the items of a part; a token as OpenAI shows it, its text, or
 * "bytes:\xe4\xbd" where it is not UTF-8 by itself; a part as an array. */
void part_comma(struct buf *b);
void quote_token(struct buf *b, const char *p, size_t n);
void append_logprob(struct buf *b, float v);
void write_part(struct jw *w, const char *key, const struct buf *items);

extern const struct task completions_whole, completions_stream;

#endif
