/* The store's requests as calls that wait for their answer; states made from a seed. */
#ifndef TESTS_STORE_SYNC_H
#define TESTS_STORE_SYNC_H

#include "store/store.h"
#include "tests/lib/folder.h"

struct answer {
    struct err err;
    struct store_state state; /* texts are copies, the first heads the block: see answer_fini */
    void *blob;
    size_t blob_bytes;
};
void answer_fini(struct answer *a);

/* Each returns the answer's code (or the refusal's). a may be NULL. */
int sync_put(struct store *s, const struct store_state *state, const void *blob, size_t bytes,
             enum store_if_exists mode, struct answer *a);
int sync_get(struct store *s, const char *name, uint64_t version, bool with_blob, struct answer *a);
int sync_delete(struct store *s, const char *name, uint64_t version, struct answer *a);
int sync_put_how(struct store *s, const struct store_state *state, const void *blob, size_t bytes,
                 const struct store_write *how, struct answer *a);
int sync_patch(struct store *s, const char *name, uint64_t version, const struct store_patch *patch,
               struct answer *a);
/* to NULL: a rollback. */
int sync_fork(struct store *s, const char *name, uint64_t version, const char *to,
              const struct store_patch *changes, const struct store_write *how, struct answer *a);
int sync_find_key(struct store *s, const char *key, const char *sha256, struct answer *a);
/* The copy's size comes as blob_bytes. */
int sync_backup(struct store *s, const char *dir, struct answer *a);
extern const struct store_write new_version, must_be_new;
/* The names of one page, each followed by '@', its version, '!' if it is damaged, and a space, in
 * text [size]. */
int sync_list(struct store *s, const char *after, const char *prefix, size_t limit, char *text,
              size_t size, bool *has_more);
int sync_query(struct store *s, const struct store_query *query, char *text, size_t size,
               bool *has_more);
int sync_versions(struct store *s, const char *name, uint64_t before, size_t limit, char *text,
                  size_t size, bool *has_more);

/* Each of these fails the test if it does not succeed. */
struct store *opened_with(const struct store_options *o);
struct store *opened(const char *dir, size_t max_queue);
/* Puts n bytes of this seed and returns the version. */
uint64_t put_seeded(struct store *s, const char *name, uint64_t seed, size_t n);
/* The state reads back with exactly these bytes. */
void check_seeded(struct store *s, const char *name, uint64_t version, uint64_t seed, size_t n);
void check_stats(struct store *s, uint64_t states, uint64_t blobs, uint64_t bytes);
/* Opening fails; returns and fills in how. */
int open_fails(const char *dir, struct err *e);

/* SQL on a closed store's file, through a connection of its own; and the number that a query gives.
 */
void sql_on_file(const char *dir, const char *sql);
int64_t int_on_file(const char *dir, const char *sql);

/* Bytes that depend on the seed alone; free() them. */
void *seeded_bytes(uint64_t seed, size_t n);
uint64_t seeded_next(uint64_t *seed);
/* A record of this name for these bytes, with their SHA-256. */
struct store_state state_of(const char *name, const void *blob, size_t bytes);

#endif
