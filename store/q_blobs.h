/* Blobs: bytes by their SHA-256, in slices of 1 MiB. Inside store/ only.
 *
 * A slice is a row of its own, not a part of one long value: SQLite's incremental blob I/O has to
 * write a long value as zeros first, in one go, and could not be spread over transactions. So a
 * blob of any size is written and read a slice at a time, with other requests in between.
 *
 * A blob gets its name, the hash, in the transaction that also adds the first record that uses it.
 * One without a name is refuse: unfinished when the process died, or left by its last record.
 * Nothing finds it any more; the collector removes it slice by slice. */
#ifndef STORE_Q_BLOBS_H
#define STORE_Q_BLOBS_H

#include "store/db.h"

#define BLOB_SLICE ((size_t)1 << 20)

/* 1: found, id and bytes set; 0: there is none; negative: failed. */
int q_blob_find(struct db *db, const char *sha256, int64_t *id, uint64_t *bytes, struct err *e);
/* Whether the slices are there and their lengths make up `bytes`. 1, 0, negative. */
int q_blob_is_whole(struct db *db, int64_t id, uint64_t bytes, struct err *e);
/* A new blob without a name. */
int q_blob_create(struct db *db, uint64_t bytes, int64_t *id, struct err *e);
int q_blob_set_name(struct db *db, int64_t id, const char *sha256, struct err *e);
int q_blob_clear_name(struct db *db, int64_t id, struct err *e);

/* Bytes [off, off + q_blob_slice_len) of a blob; off is a multiple of BLOB_SLICE. */
size_t q_blob_slice_len(size_t off, size_t bytes);
int q_blob_write(struct db *db, int64_t id, size_t off, const void *p, size_t n, struct err *e);
/* ERR_STATE_CORRUPT: the slice is gone, of another length, or on a damaged page. */
int q_blob_read(struct db *db, int64_t id, size_t off, void *p, size_t n, struct err *e);
/* 1: the slice holds exactly these bytes; 0: others, or it is damaged; negative: failed. */
int q_blob_is_same(struct db *db, int64_t id, size_t off, const void *p, size_t n, struct err *e);

/* Removes up to max_slices of one nameless blob (not `except`; 0: any), then its row, in a
 * transaction of its own. 1: something was removed; 0: nothing is left; negative: failed. */
int q_blob_collect(struct db *db, int64_t except, int64_t max_slices, struct err *e);

#endif
