/* The record of everything that must outlive the process: named states and their bytes.
 *
 * One thread owns the database; every request is a typed message to it, and its answer comes back
 * through a callback. Nothing of the database's kind shows here: another backend can stand behind it.
 *
 * A state is a record (name, version, lineage, ...) that points to a blob by SHA-256. Versions of a
 * name only grow and are never used again, even after a delete. A write is answered after it is on
 * disk: `kill -9` at any moment loses no answered write and leaves none half done. Blobs are shared by
 * content and removed with their last record. The store does not hash or parse blobs: whoever loads one
 * checks it against its SHA-256 (that is how damage is found and reported).
 *
 * Threads: every function from any thread. Callbacks run on the store's thread: they hand the answer
 * over and return, and must not call store_close. Queues are bounded: a full one is ERR_BUSY, at once.
 * Ownership: arguments are copied unless the name says _take; what a callback receives is borrowed for
 * the call, except blobs, which become the receiver's (free). */
#ifndef STORE_H
#define STORE_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_NAME_MAX 128

struct store;

struct store_options {
    const char *dir;  /* made if it does not exist; NULL or "": in memory, gone with the process */
    size_t max_queue; /* requests waiting, of each of the two sizes; 0 = 256 */
};

/* Opens or creates the database in dir, migrates it to this version, checks it and starts the thread.
 * ERR_IO (in use by another process, not a database, newer than this program), ERR_NOMEM. */
int store_open(const struct store_options *o, struct store **out, struct err *e)
    __attribute__((warn_unused_result));
/* Answers what is queued, closes the database cleanly, joins the thread. */
void store_close(struct store *s);

struct store_state {
    char name[STORE_NAME_MAX + 1]; /* [A-Za-z0-9._-]{1,128} */
    uint64_t version;              /* 1, 2, ...; in a put: ignored */
    char model[STORE_NAME_MAX + 1];
    char fingerprint[65];          /* of the model's weights, hex */
    char weights_type[8];          /* "bf16", ...: what the state was computed with */
    uint32_t n_layer, n_embd, head_size;
    uint64_t n_tokens;             /* tokens the state has read, parents included */
    bool has_logits;
    char sha256[65];               /* of the blob, hex */
    uint64_t bytes;                /* of the blob */
    int64_t created_ms;            /* wall clock; set by put */
    const char *parents;           /* JSON array of "name@version"; "[]" */
    const char *origin;            /* JSON object: {"kind": "bake", ...} */
    const char *tags;              /* JSON array of strings; "[]" */
    const char *norms;             /* JSON object: Frobenius norm per part */
};

enum store_if_exists { STORE_EXISTS_ERROR, STORE_EXISTS_NEW_VERSION };

/* e->code is 0 on success; state (or NULL) and blob (or NULL, then yours) belong to the answer. */
typedef void store_state_fn(void *arg, const struct err *e, const struct store_state *state,
                            void *blob, size_t blob_bytes);
typedef void store_list_fn(void *arg, const struct err *e, const struct store_state *states, size_t n,
                           bool has_more);

/* Each returns 0 when queued (the callback will run, once), or ERR_BUSY / ERR_NOMEM / ERR_INVALID /
 * ERR_UNAVAILABLE (closing) with e filled (it will not, and blob stays the caller's).
 *
 * Requests of up to 4 MiB are answered in the order they came in; larger ones wait in a queue of their
 * own and are served a slice at a time between them. So a request does not see a larger one that was
 * queued before it and has not been answered. */

/* Adds a version of state->name with this blob (malloc'd; taken). Answer: the record as stored.
 * ERR_STATE_EXISTS, ERR_STORAGE_FULL, ERR_IO. Texts that are NULL are stored empty. */
int store_put_state_take(struct store *s, const struct store_state *state, void *blob,
                         size_t blob_bytes, enum store_if_exists mode, store_state_fn *done, void *arg,
                         struct err *e);
/* version 0 = the latest. ERR_STATE_NOT_FOUND. A blob that is gone or short is ERR_STATE_CORRUPT. One
 * that turns out to be large when the queue for large ones is full: ERR_BUSY. */
int store_get_state(struct store *s, const char *name, uint64_t version, bool with_blob,
                    store_state_fn *done, void *arg, struct err *e);
/* One version, or with version 0 all of the name. Answer: the (latest) record that went. */
int store_delete_state(struct store *s, const char *name, uint64_t version, store_state_fn *done,
                       void *arg, struct err *e);
/* The latest version of each name, in order of names, after `after` ("" = from the start), whose names
 * begin with `prefix`; at most limit (1..1000). */
int store_list_states(struct store *s, const char *after, const char *prefix, size_t limit,
                      store_list_fn *done, void *arg, struct err *e);

struct store_stats {
    uint64_t states, blobs, blob_bytes; /* now */
    uint64_t requests, errors;          /* since the start */
    uint64_t queued;                    /* waiting now */
    uint64_t busy_ns;                   /* spent answering */
};
/* At once, from counters: no database access. */
void store_get_stats(struct store *s, struct store_stats *out);
/* "sqlite 3.40.1" */
const char *store_backend(void);

#endif
