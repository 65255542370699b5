/* What a sequence says: from tokens to the records of its stream.
 *
 *     token's bytes -> held (may yet become a stop string) -> shown (may yet be half a character)
 *       -> a record's text
 *
 * Records that the stream does not take now wait in `pending`, in order: the sequence is parked
 * until output_flush has given them all.
 *
 * Threads: a sequence's output belongs to the thread that has the sequence. */
#ifndef DAEMON_OUTPUT_H
#define DAEMON_OUTPUT_H

#include "daemon/registry.h"

struct output {
    const struct model *model;
    struct stream *stream;
    int n_logprobs;             /* -1: none */
    struct stop_matcher *stops; /* NULL: no stop strings */
    struct buf held, shown, record, text;
    struct buf pending; /* records behind their uint32_t lengths */
    size_t pending_at;
};

/* ERR_NOMEM. output_fini in every case. */
int output_init(struct output *o, const struct model *m, struct stream *s,
                const struct completion *c, struct err *e);
void output_fini(struct output *o);

/* An echoed token of the prompt. logits: those that predicted it, or NULL: none did. */
int output_prompt_token(struct output *o, uint32_t id, const float *logits, struct err *e);

/* What a sampled token did to the text. */
struct output_step {
    bool stopped;    /* a stop string was completed */
    size_t piece;    /* bytes of the token */
    size_t released; /* bytes of this and earlier tokens that are no longer held back */
};
int output_token(struct output *o, uint32_t id, const float *logits, bool is_end,
                 struct output_step *step, struct err *e);
/* Bytes of tokens that a stop string may still claim. */
size_t output_held(const struct output *o);
/* The text ends: shows what was held back (nothing after a stop string) and half characters. */
int output_end(struct output *o, bool stopped, struct err *e);

/* Gives waiting records to the stream; true when none are left. */
bool output_flush(struct output *o);

#endif
