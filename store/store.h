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
 * A record also has a revision, a number that grows within its name with every put and every patch
 * and is never used again: it makes an ETag, and a write may name the one it expects. A record whose
 * expires_ms has come is as good as deleted, at once, and removed when the store has time; a pinned one
 * never expires.
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
    const char
        *dir; /* made with those above it, 0700; NULL or "": in memory, gone with the process */
    size_t max_queue;              /* requests waiting, of each of the two sizes; 0 = 256 */
    uint64_t max_states;           /* records, all versions; 0 = any number */
    uint64_t max_bytes;            /* of distinct blobs; 0 = any */
    int64_t (*wall_ms)(void *arg); /* the time, for tests; NULL = the wall clock. Store thread. */
    void *wall_arg;
};

/* Opens or creates the database in dir, migrates it to this version, checks it and starts the thread.
 * ERR_IO (in use by another process, not a database, newer than this program), ERR_NOMEM. */
int store_open(const struct store_options *o, struct store **out, struct err *e)
    __attribute__((warn_unused_result));
/* Is there a database in dir? (store_open makes one where there is none.) */
bool store_exists(const char *dir);
/* Answers what is queued, closes the database cleanly, joins the thread. */
void store_close(struct store *s);

struct store_state {
    char name[STORE_NAME_MAX + 1]; /* [A-Za-z0-9._-]{1,128} */
    uint64_t version;              /* 1, 2, ...; in a put: ignored */
    uint64_t revision;             /* in a put: ignored */
    char model[STORE_NAME_MAX + 1];
    char fingerprint[65]; /* of the model's weights, hex */
    char weights_type[8]; /* "bf16", ...: what the state was computed with */
    uint32_t n_layer, n_embd, head_size;
    uint64_t n_tokens; /* tokens the state has read, parents included */
    bool has_logits;
    bool pinned;
    bool damaged;            /* in a list, or deleted: the record made no sense; name and version
                                    * are true, the rest is empty */
    char sha256[65];         /* of the blob, hex */
    uint64_t bytes;          /* of the blob */
    int64_t created_ms;      /* wall clock; set by put */
    int64_t expires_ms;      /* wall clock; 0 = never */
    const char *parents;     /* JSON array of "name@version"; "[]" */
    const char *origin;      /* JSON object: {"kind": "bake", ...} */
    const char *tags;        /* JSON array of strings; "[]" */
    const char *norms;       /* JSON object: Frobenius norm per part */
    const char *description; /* text; "" */
};

/* How a write that adds a version meets what is there already. Zeroed: the name must be new. */
enum store_if_exists { STORE_EXISTS_ERROR, STORE_EXISTS_NEW_VERSION };
struct store_write {
    enum store_if_exists if_exists;
    uint64_t
        if_revision; /* the name's latest record must have it, else ERR_VERSION_CONFLICT; 0 = any */
    /* NULL, or 1..STORE_KEY_MAX bytes that name this write, with a SHA-256 (hex) of the request:
     * for STORE_KEY_MS after the write, another with this key and hash changes nothing and is answered
     * with the record that the first made (ERR_STATE_NOT_FOUND if that is gone); with this key and
     * another hash it is ERR_KEY_REUSED. The latest STORE_KEYS_MAX keys are remembered. */
    const char *key, *request_sha256;
};
#define STORE_KEY_MAX  255
#define STORE_KEYS_MAX 10000
#define STORE_KEY_MS   INT64_C(86400000)

/* What a patch changes of a record; zeroed: nothing. */
struct store_patch {
    const char *description, *tags; /* NULL: stays */
    bool set_pinned, pinned;
    bool set_expires;
    int64_t expires_ms;
    uint64_t if_revision; /* the record must have it, else ERR_VERSION_CONFLICT; 0 = any */
};

/* e->code is 0 on success; state (or NULL) and blob (or NULL, then yours) belong to the answer. */
typedef void store_state_fn(void *arg, const struct err *e, const struct store_state *state,
                            void *blob, size_t blob_bytes);
typedef void store_list_fn(void *arg, const struct err *e, const struct store_state *states,
                           size_t n, bool has_more);
typedef void store_backup_fn(void *arg, const struct err *e, uint64_t bytes);

/* Each returns 0 when queued (the callback will run, once), or ERR_BUSY / ERR_NOMEM / ERR_INVALID /
 * ERR_UNAVAILABLE (closing) with e filled (it will not, and blob stays the caller's).
 *
 * Requests of up to 4 MiB are answered in the order they came in; larger ones wait in a queue of their
 * own and are served a slice at a time between them. So a request does not see a larger one that was
 * queued before it and has not been answered. */

/* Adds a version of state->name with this blob (malloc'd; taken). Answer: the record as stored.
 * ERR_STATE_EXISTS, ERR_VERSION_CONFLICT, ERR_KEY_REUSED, ERR_STORAGE_FULL (the disk, or a quota of
 * store_options: the message says which), ERR_INVALID (tags that are no JSON array of strings, an
 * expiry that is over), ERR_IO. Texts that are NULL are stored empty. */
int store_put_state_take(struct store *s, const struct store_state *state, void *blob,
                         size_t blob_bytes, const struct store_write *how, store_state_fn *done,
                         void *arg, struct err *e);
/* version 0 = the latest. ERR_STATE_NOT_FOUND. A blob that is gone or short is ERR_STATE_CORRUPT. One
 * that turns out to be large when the queue for large ones is full: ERR_BUSY. */
int store_get_state(struct store *s, const char *name, uint64_t version, bool with_blob,
                    store_state_fn *done, void *arg, struct err *e);
/* One version, or with version 0 all of the name. if_revision: 0, or what the (latest) record must
 * have, else ERR_VERSION_CONFLICT. Answer: the (latest) record that went. */
int store_delete_state(struct store *s, const char *name, uint64_t version, uint64_t if_revision,
                       store_state_fn *done, void *arg, struct err *e);
/* Changes a record (version 0: the latest) and its revision. Answer: the record as it is now.
 * ERR_STATE_NOT_FOUND, ERR_VERSION_CONFLICT, ERR_INVALID. */
int store_patch_state(struct store *s, const char *name, uint64_t version,
                      const struct store_patch *patch, store_state_fn *done, void *arg,
                      struct err *e);
/* Adds a record under the name `to` that points to the same blob: costs a row, not bytes. Its
 * description and tags are those of name@version (0: the latest), pinned and expires_ms are not; then
 * `changes` (NULL: none) applies, whose if_revision is the source's. parents is ["name@version"], origin
 * {"kind": "fork", "of": "name@version"}. Errors as put; ERR_STATE_NOT_FOUND, ERR_STATE_CORRUPT. */
int store_fork_state(struct store *s, const char *name, uint64_t version, const char *to,
                     const struct store_patch *changes, const struct store_write *how,
                     store_state_fn *done, void *arg, struct err *e);
/* Adds a version of name that points to the blob of an older one: as a fork to the same name, with
 * origin {"kind": "rollback", "to": "name@version"}. how->if_exists has no meaning here. */
int store_rollback_state(struct store *s, const char *name, uint64_t version,
                         const struct store_patch *changes, const struct store_write *how,
                         store_state_fn *done, void *arg, struct err *e);
/* The record that a write with this key made: what that write would be answered again, before the
 * work for it is done. Answer: state NULL and no error for a key that is not known. */
int store_find_key(struct store *s, const char *key, const char *request_sha256,
                   store_state_fn *done, void *arg, struct err *e);

struct store_query {
    const char *after;  /* NULL, or a name: only names that come after it */
    const char *prefix; /* NULL, or what names begin with */
    const char *tag;    /* NULL, or a tag that the record has */
    const char *model;  /* NULL, or its model */
    size_t limit;       /* 1..1000 */
    bool newest;        /* those written last, the newest first; `after` must be NULL then */
};
/* The latest version of each name, if it matches, in order of names (bytes). A damaged record is
 * listed, marked, unless tag or model are given: they are not known of it. */
int store_list_states(struct store *s, const struct store_query *query, store_list_fn *done,
                      void *arg, struct err *e);
/* The versions of a name, the newest first, below `before` (0: from the newest); at most limit
 * (1..1000). ERR_STATE_NOT_FOUND for a name without any. */
int store_list_versions(struct store *s, const char *name, uint64_t before, size_t limit,
                        store_list_fn *done, void *arg, struct err *e);

/* ---- items ----
 * Everything with a name that is no state: jobs, data sets, conditions, diffusers, contexts, hybrids. An item has no
 * versions, and bytes only if its maker gives it some. */
enum store_kind {
    STORE_JOB,
    STORE_DATASET,
    STORE_DATASET_PART, /* its texts: see daemon/datasets.h */
    STORE_CONDITION,
    STORE_DIFFUSER,
    STORE_CONTEXT,
    STORE_HYBRID,
    STORE_KINDS
};
/* "job", ... */
const char *store_kind_name(enum store_kind kind);
/* ERR_JOB_NOT_FOUND, ... */
int store_kind_missing(enum store_kind kind);

struct store_item {
    enum store_kind kind;
    char name[STORE_NAME_MAX + 1];  /* as a state's */
    uint64_t seq;                   /* set when it is made: grows, never used again; */
    uint64_t revision;              /* set by every put of any item: the same */
    char type[32], status[16];      /* words to list by; "": none */
    char model[STORE_NAME_MAX + 1]; /* "": of none */
    char fingerprint[65];           /* of the model's weights, hex; "" */
    char sha256[65];                /* of the bytes, hex; "": it has none */
    uint64_t bytes;
    int64_t created_ms, changed_ms; /* wall clock; set by put */
    const char
        *meta; /* JSON that only its maker reads, at most 1 MiB; NULL in an answer: the record is
                       * damaged, its name is true */
};

/* How a put meets what is there. Zeroed: the name must be new. */
struct store_item_write {
    bool replace; /* an item of this name must be there and is replaced */
    uint64_t
        if_revision; /* with replace: it must have this one, else ERR_VERSION_CONFLICT; 0: any */
};

/* e->code is 0 on success; items (one, or a page) and data (or NULL, then yours) belong to the answer. */
typedef void store_items_fn(void *arg, const struct err *e, const struct store_item *items,
                            size_t n, bool has_more, void *data, size_t bytes);

/* Adds or replaces an item with these bytes (malloc'd; taken). data NULL: without, or with replace as
 * they are, as are sha256, model and fingerprint. Answer: the record as stored. Exists (by kind:
 * ERR_DATASET_EXISTS or ERR_NAME_EXISTS), not found (by kind), ERR_VERSION_CONFLICT, ERR_STORAGE_FULL,
 * ERR_STATE_CORRUPT (to be changed, and damaged), ERR_INVALID. */
int store_put_item_take(struct store *s, const struct store_item *item, void *data,
                        const struct store_item_write *how, store_items_fn *done, void *arg,
                        struct err *e);
/* Not found (by kind); ERR_STATE_CORRUPT: the record makes no sense, or its bytes are gone. */
int store_get_item(struct store *s, enum store_kind kind, const char *name, bool with_data,
                   store_items_fn *done, void *arg, struct err *e);
/* if_revision: 0, or what it must have. A damaged one can be deleted. Answer: the record that went. */
int store_delete_item(struct store *s, enum store_kind kind, const char *name, uint64_t if_revision,
                      store_items_fn *done, void *arg, struct err *e);
struct store_item_query {
    enum store_kind kind;
    const char *type, *status, *fingerprint; /* NULL or "": any */
    bool newest;       /* the newest first, made before the one with the seq `before` (0: all); */
    uint64_t before;   /* else in order of names (bytes), ... */
    const char *after; /* ... those after this one (NULL or "": from the first) */
    size_t limit;      /* 1..1000 */
};
int store_list_items(struct store *s, const struct store_item_query *query, store_items_fn *done,
                     void *arg, struct err *e);

/* Copies the database into dir (made if it does not exist), which can then be opened as a store's: in
 * slices on the store's thread, with other requests served in between. Everything answered before the
 * call is in it, what is written meanwhile too. The file appears under its name when it is whole and
 * on disk. One at a time: ERR_BUSY. Answer: its bytes. ERR_INVALID (dir holds a database already),
 * ERR_STORAGE_FULL, ERR_IO, ERR_UNAVAILABLE (the store was closed before the end). */
int store_backup(struct store *s, const char *dir, store_backup_fn *done, void *arg, struct err *e);

struct store_stats {
    uint64_t states, blobs, blob_bytes; /* now; expired ones until they are removed */
    uint64_t max_states, max_bytes;     /* the quotas */
    uint64_t requests, errors;          /* since the start */
    uint64_t expired;                   /* records removed since the start */
    uint64_t refused_full;              /* ERR_STORAGE_FULL since the start */
    uint64_t damaged; /* damaged records met in lists since the start, each time */
    uint64_t backups; /* finished since the start */
    uint64_t queued;  /* waiting now */
    uint64_t busy_ns; /* spent answering */
};
/* At once, from counters: no database access. */
void store_get_stats(struct store *s, struct store_stats *out);
/* Writes "sqlite 3.40.1", the library that is loaded, into text and returns it. */
const char *store_backend(char *text, size_t size);

#endif
