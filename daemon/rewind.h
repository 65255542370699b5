/* The way back to the last token that was shown whole, for a state that is to be saved.
 *
 * While bytes are held back because they may become a stop string, the tokens they came from must
 * be read to go on. If the stop string then completes, the saved state must not have read them. So
 * when the first byte is held back the state (which has read only shown tokens) is copied, and the
 * tokens since are kept; a completed stop string restores the copy and reads again those of the
 * tokens that were shown after all (fewer than the stop string has bytes). Nothing is done for
 * requests that save nothing or have no stop strings.
 *
 * Threads: the worker's that has the sequence. */
#ifndef DAEMON_REWIND_H
#define DAEMON_REWIND_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rewind {
    float *state, *logits; /* the copies */
    size_t n_state, n_logits;
    bool holding;           /* the copies are of use */
    struct buf ids;         /* uint32_t: tokens since the copy, each with ... */
    struct buf ends;        /* size_t: ... the bytes up to its end */
    size_t bytes, released; /* since the copy: of tokens, and of those shown */
    uint64_t n_read;        /* of the state when it was copied */
};

/* Allocates; only then the others do anything. */
int rewind_init(struct rewind *r, size_t n_state, size_t n_logits, struct err *e);
void rewind_fini(struct rewind *r);

/* After a sampled token: its bytes, how many were released, how many are held now. state and logits
 * are those before it is read. */
int rewind_note(struct rewind *r, uint32_t id, size_t piece, size_t released, size_t held,
                const float *state, const float *logits, uint64_t n_read, struct err *e);
/* After a stop string: exchanges *state and *logits with the copies. Returns the tokens, *ids [n],
 * that must be read again from there. */
size_t rewind_back(struct rewind *r, float **state, float **logits, uint64_t *n_read,
                   const uint32_t **ids);

#endif
