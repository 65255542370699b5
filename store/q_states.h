/* Records of named states. Inside store/ only. */
#ifndef STORE_Q_STATES_H
#define STORE_Q_STATES_H

#include "store/q_blobs.h"
#include "store/store.h"

/* What a change adds to or takes from the counters, valid once it is committed. */
struct q_counts {
    int64_t states, blobs, blob_bytes;
};
int q_count_all(struct db *db, struct q_counts *out, struct err *e);

/* A copy with its own texts; parents is the start of the one block that holds all four. */
int q_state_copy(struct store_state *dst, const struct store_state *src, struct err *e);
void q_state_fini(struct store_state *s);

/* version 0: the latest. On success *out is the caller's, to be ended with q_state_fini.
 * ERR_STATE_NOT_FOUND, ERR_STATE_CORRUPT (a record that makes no sense). */
int q_state_find(struct db *db, const char *name, uint64_t version, struct store_state *out,
                 struct err *e);
/* The blob of a record: its id. ERR_STATE_CORRUPT unless it is there in its full length, so that
 * state->bytes may then be allocated. */
int q_state_blob(struct db *db, const struct store_state *state, int64_t *id, struct err *e);
/* As store_list_states. The array of *n is the caller's: each to be ended, then freed. */
int q_state_list(struct db *db, const char *after, const char *prefix, size_t limit,
                 struct store_state **out, size_t *n, bool *has_more, struct err *e);
/* Within a transaction. */
int q_state_delete(struct db *db, const char *name, uint64_t version, struct store_state *out,
                   struct q_counts *change, struct err *e);

/* A put goes in steps. The first two only read, and run outside a transaction (SQLite forbids to
 * write in one that has met damage); the others write and run within one: several may share it, or
 * each has its own, with other requests in between. Nothing of a put can be found before its last
 * step, which must be durable.
 *
 *     FIND -> (the hash is new)           -> CREATE -> WRITE ... -> FINISH
 *          -> (known: compare) SAME ... ----------------------------^
 *                    | (what is stored differs: damage)
 *                    `-> CREATE -> WRITE ..., and the new bytes take the damaged ones' place */
struct q_put {
    enum { Q_PUT_FIND, Q_PUT_SAME, Q_PUT_CREATE, Q_PUT_WRITE, Q_PUT_FINISH } next;
    int64_t blob; /* being compared or written */
    size_t off;   /* bytes of it done */
};
bool q_put_only_reads(const struct q_put *put); /* the next step */
/* 1: more steps to go; 0: done, *out is the record as stored and *change the counters; negative:
 * failed. ERR_STATE_EXISTS leaves at most refuse; after any other failure of a writing step its
 * transaction must be rolled back. ERR_INVALID: the hash is known with another length. */
int q_put_step(struct db *db, struct q_put *put, const struct store_state *state, const void *blob,
               enum store_if_exists mode, struct store_state *out, struct q_counts *change,
               struct err *e);

#endif
