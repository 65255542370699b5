/* Records of named states. Inside store/ only.
 *
 * A record whose expires_ms has come, unless it is pinned, counts as gone everywhere here but in the
 * counters, until q_state_expire removes it. */
#ifndef STORE_Q_STATES_H
#define STORE_Q_STATES_H

#include "store/q_blobs.h"
#include "store/store.h"

/* What a change adds to or takes from the counters, valid once it is committed. */
struct q_counts {
    int64_t states, blobs, blob_bytes;
};
int q_count_all(struct db *db, struct q_counts *out, struct err *e);
void q_counts_add(struct q_counts *sum, const struct q_counts *change);

/* Gives a blob its name, within a transaction; another one that bore it until now (with damaged
 * bytes) loses it. */
int q_blob_take_name(struct db *db, int64_t id, const char *sha256, uint64_t bytes,
                     struct q_counts *change, struct err *e);
/* Takes the name of a blob that no record uses any more. */
int q_blob_release(struct db *db, const char *sha256, struct q_counts *change, struct err *e);

/* What a query needs to know beside its arguments. */
struct q_env {
    int64_t now_ms;
    uint64_t max_states, max_bytes; /* quotas; 0 = none */
    struct q_counts total;          /* with what the open transaction has changed so far */
};

/* ---- records in memory ---- */

/* A copy with its own texts; parents is the start of the one block that holds them all. */
int q_state_copy(struct store_state *dst, const struct store_state *src, struct err *e);
void q_state_fini(struct store_state *s);

/* Rows of an answer. */
struct q_page {
    struct store_state *rows;
    size_t n;
    bool has_more;
    uint64_t n_damaged; /* records met that make no sense, among the rows or left out */
};
void q_page_fini(struct q_page *page);

/* ---- reading (q_states.c) ---- */

/* version 0: the latest. On success *out is the caller's, to be ended with q_state_fini.
 * ERR_STATE_NOT_FOUND, ERR_STATE_CORRUPT (a record that makes no sense). */
int q_state_find(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                 struct store_state *out, struct err *e);
/* The same, but a record that makes no sense is found, too, and marked as damaged. */
int q_state_find_any(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                     struct store_state *out, struct err *e);
/* The blob of a record: its id. ERR_STATE_CORRUPT unless it is there in its full length, so that
 * state->bytes may then be allocated. */
int q_state_blob(struct db *db, const struct store_state *state, int64_t *id, struct err *e);
/* As store_list_states and store_list_versions, without NULLs. */
int q_state_list(struct db *db, const struct q_env *env, const struct store_query *query,
                 struct q_page *out, struct err *e);
int q_state_versions(struct db *db, const struct q_env *env, const char *name, uint64_t before,
                     size_t limit, struct q_page *out, struct err *e);
/* The revision of the latest record of a name; 0: there is none. */
int q_state_revision(struct db *db, const struct q_env *env, const char *name, uint64_t *out,
                     struct err *e);

/* ---- writing (q_write.c): within a transaction, which must be rolled back after any failure but
 * those that q_is_refusal names ---- */

/* The failures after which nothing has been changed. */
bool q_is_refusal(int code);

/* As store_delete_state. */
int q_state_delete(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                   uint64_t if_revision, struct store_state *out, struct q_counts *change,
                   struct err *e);
/* As store_patch_state. */
int q_state_patch(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                  const struct store_patch *patch, struct store_state *out, struct err *e);
/* As store_fork_state, or with `rollback` as store_rollback_state. */
struct q_fork {
    const char *name, *to;
    uint64_t version;
    bool rollback;
    const struct store_patch *changes;
    const struct store_write *how;
};
int q_state_fork(struct db *db, const struct q_env *env, const struct q_fork *fork,
                 struct store_state *out, struct q_counts *change, struct err *e);

/* Removes a few records whose time is over, in a transaction of its own. 1: *change was; 0: there
 * are none; negative: failed. */
int q_state_expire(struct db *db, const struct q_env *env, struct q_counts *change, struct err *e);
/* When the next record or key is over, ms; 0: none ever. */
int q_next_due(struct db *db, int64_t *ms, struct err *e);

/* ---- putting (q_put.c) ----
 *
 * A put goes in steps. The first two only read, and run outside a transaction (SQLite forbids to
 * write in one that has met damage); the others write and run within one: several may share it, or
 * each has its own, with other requests in between. Nothing of a put can be found before its last
 * step, which must be durable. A put whose key is known already ends at any step.
 *
 *     FIND -> (the hash is new)           -> CREATE -> WRITE ... -> FINISH -> DONE
 *          -> (known: compare) SAME ... ----------------------------^
 *                    | (what is stored differs: damage)
 *                    `-> CREATE -> WRITE ..., and the new bytes take the damaged ones' place */
struct q_put {
    /* Set before the first step: */
    const struct store_state *state;
    const void *blob;
    const struct store_write *how;
    /* Zero before it: */
    enum { Q_PUT_FIND, Q_PUT_SAME, Q_PUT_CREATE, Q_PUT_WRITE, Q_PUT_FINISH, Q_PUT_DONE } next;
    int64_t id; /* of the blob being compared or written */
    size_t off; /* bytes of it done */
};
bool q_put_only_reads(const struct q_put *put); /* the next step */
/* 1: more steps to go; 0: done, *out is the record as stored and *change the counters; negative:
 * failed. A refusal (q_is_refusal) leaves at most refuse; after any other failure of a writing step
 * its transaction must be rolled back. ERR_INVALID: the hash is known with another length. */
int q_put_step(struct db *db, const struct q_env *env, struct q_put *put, struct store_state *out,
               struct q_counts *change, struct err *e);

/* ---- what q_put.c and q_write.c share ---- */

/* Whether how lets a record be added to the name. ERR_STATE_EXISTS, ERR_VERSION_CONFLICT. */
int q_check_target(struct db *db, const struct q_env *env, const char *name,
                   const struct store_write *how, struct err *e);
/* Whether one more record, and so many bytes, are within the quotas. ERR_STORAGE_FULL. */
int q_check_quota(const struct q_env *env, uint64_t bytes, struct err *e);
/* Whether tags and expiry of a record make sense. ERR_INVALID. */
int q_check_record(struct db *db, const struct q_env *env, const struct store_state *s,
                   struct err *e);
/* Files the record under each of its tags. */
int q_tags_write(struct db *db, const struct store_state *s, struct err *e);
/* Gives out a version, a revision and its time, and writes it with its tags and how's key. */
int q_record_add(struct db *db, const struct q_env *env, const struct store_write *how,
                 struct store_state *out, struct err *e);

/* ---- keys (q_keys.c) ---- */

/* 1: the record that the write with how's key made; 0: how has no key, or it is not known;
 * negative: failed. ERR_KEY_REUSED, ERR_STATE_NOT_FOUND (the record is gone). */
int q_key_find(struct db *db, const struct q_env *env, const struct store_write *how,
               struct store_state *out, struct err *e);
/* Within a transaction; nothing if how has no key. Forgets the oldest beyond STORE_KEYS_MAX. */
int q_key_add(struct db *db, const struct q_env *env, const struct store_write *how,
              const struct store_state *made, struct err *e);
/* Removes keys that are over, in a transaction of its own. 1: some were; 0: there are none. */
int q_key_expire(struct db *db, const struct q_env *env, struct err *e);

#endif
