/* Training text: files of documents separated by a NUL byte, mixed by weight into windows of
 * tokens.
 *
 * Byte models only: a token is a byte. A document is read after a separator (newline), as the
 * daemon reads a prompt. A batch has `batch` streams; each either goes on where its last window
 * ended, with the recurrent state it had (probability `carry`), or starts anew: at a document's
 * first byte or after the first line or sentence end behind a random place, always with the
 * separator in front and the zero state. Corpora are drawn by weight, places uniformly over a
 * corpus's bytes. Windows at the end of a document are shorter.
 *
 * With probability `jump` a window breaks off somewhere in its middle half and goes on, behind a
 * separator, at another place of the same document or (half of the time) of the same corpus, the
 * recurrent state carried across. So a state learns to be of use to text other than its own
 * continuation: a model trained without takes every state for "the same document goes on here", and
 * continues new text from it worse than from the zero state.
 *
 * Every draw comes from the seed, the step and the stream, so the position of a run is the streams'
 * places alone. Threads: one at a time. */
#ifndef ENGINE_TRAIN_CORPUS_H
#define ENGINE_TRAIN_CORPUS_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CORPUS_SEPARATOR '\n'

struct corpus {
    char name[32];
    double weight;
    uint8_t *text; /* owned, followed by a NUL */
    size_t n;
    size_t *doc; /* [n_docs + 1]: first bytes; a document ends one byte before the next begins */
    size_t n_docs;
};

/* Reads a file whole. ERR_IO, ERR_FORMAT (no document in it), ERR_NOMEM. */
int corpus_open(struct corpus *c, const char *name, const char *path, double weight, struct err *e)
    __attribute__((warn_unused_result));
void corpus_close(struct corpus *c);

/* A place to begin: just behind the first line or sentence end after byte i of a text that ends at
 * `end`, else i itself. */
size_t corpus_boundary(const uint8_t *text, size_t i, size_t end);

struct corpus_stream {
    int64_t corpus, at,
        end; /* the next byte to predict and the end of its document; at == end: none */
};

struct sampler {
    const struct corpus *corpora;
    size_t n;
    uint64_t seed;
    double carry, at_start, jump; /* probabilities: of going on; of a new start being a document's
                                     first byte; of a jump within the window */
    size_t T;
};

/* The next window of a stream at a step: tokens [T + 1]. Returns its length in predicted tokens (1
 * to T); *fresh says that the state must be zero. */
size_t sampler_next(const struct sampler *s, struct corpus_stream *at, uint64_t step,
                    uint64_t stream, uint32_t *tokens, bool *fresh);

#endif
