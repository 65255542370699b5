#include "store/q_blobs.h"

#include <errno.h>
#include <string.h>

int q_blob_find(struct db *db, const char *sha256, int64_t *id, uint64_t *bytes, struct err *e)
{
    sqlite3_stmt *st;
    int rc = db_query(db, &st, e, "SELECT id, bytes FROM blobs WHERE sha256 = ?1", "t", sha256);
    if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        *id = sqlite3_column_int64(st, 0);
        *bytes = (uint64_t)sqlite3_column_int64(st, 1);
    }
    db_done(st);
    return rc;
}

int q_blob_is_whole(struct db *db, int64_t id, uint64_t bytes, struct err *e)
{
    int64_t n_want = (int64_t)((bytes + BLOB_SLICE - 1) / BLOB_SLICE);
    sqlite3_stmt *st;
    struct err found = {0};
    /* The length is in the row's header: no slice is read. */
    int rc = db_query(db, &st, &found,
                      "SELECT count(*), coalesce(max(seq), -1), coalesce(sum(length(data)), 0)"
                      " FROM blob_slices WHERE blob = ?1",
                      "i", id);
    if (rc == 0 && (rc = db_step(db, st, &found)) > 0)
        rc = sqlite3_column_int64(st, 0) == n_want && sqlite3_column_int64(st, 1) == n_want - 1 &&
             (uint64_t)sqlite3_column_int64(st, 2) == bytes;
    else if (rc < 0 && db_is_damage(db))
        rc = 0;
    else if (rc < 0 && e)
        *e = found;
    db_done(st);
    return rc;
}

int q_blob_create(struct db *db, uint64_t bytes, int64_t *id, struct err *e)
{
    int rc = db_run(db, e, "INSERT INTO blobs (bytes) VALUES (?1)", "i", (int64_t)bytes);
    if (rc == 0)
        *id = sqlite3_last_insert_rowid(db->h);
    return rc;
}

int q_blob_set_name(struct db *db, int64_t id, const char *sha256, struct err *e)
{
    return db_run(db, e, "UPDATE blobs SET sha256 = ?2 WHERE id = ?1", "it", id, sha256);
}

int q_blob_clear_name(struct db *db, int64_t id, struct err *e)
{
    return db_run(db, e, "UPDATE blobs SET sha256 = NULL WHERE id = ?1", "i", id);
}

size_t q_blob_slice_len(size_t off, size_t bytes)
{
    return bytes - off < BLOB_SLICE ? bytes - off : BLOB_SLICE;
}

int q_blob_write(struct db *db, int64_t id, size_t off, const void *p, size_t n, struct err *e)
{
    return db_run(db, e, "INSERT INTO blob_slices (blob, seq, data) VALUES (?1, ?2, ?3)", "iib", id,
                  (int64_t)(off / BLOB_SLICE), p, n);
}

/* The statement on a row whose first column holds exactly n bytes; else ERR_STATE_CORRUPT. */
static int blob_slice(struct db *db, sqlite3_stmt **st, int64_t id, size_t off, size_t n,
                      struct err *e)
{
    int rc = db_query(db, st, e, "SELECT data FROM blob_slices WHERE blob = ?1 AND seq = ?2", "ii",
                      id, (int64_t)(off / BLOB_SLICE));
    if (rc < 0)
        return rc;
    if ((rc = db_step(db, *st, e)) < 0)
        return db_is_damage(db) ? err_set(e, ERR_STATE_CORRUPT, "damaged at byte %zu", off) : rc;
    if (rc == 0)
        return err_set(e, ERR_STATE_CORRUPT, "the bytes from %zu on are gone", off);
    const void *data = sqlite3_column_blob(*st, 0);
    if (data && sqlite3_column_bytes(*st, 0) == (int)n)
        return 0;
    int code = sqlite3_errcode(db->h) & 0xff;
    if (!data && (code == SQLITE_NOMEM || code == SQLITE_IOERR))
        return db_fail(db, e);
    return err_set(e, ERR_STATE_CORRUPT, "the bytes from %zu on are not whole", off);
}

/* Straight into p: a column's value would be a copy in fresh memory first. */
int q_blob_read(struct db *db, int64_t id, size_t off, void *p, size_t n, struct err *e)
{
    int64_t row;
    sqlite3_blob *slice = NULL;
    int rc = db_int(db, &row, -1, e, "SELECT rowid FROM blob_slices WHERE blob = ?1 AND seq = ?2",
                    "ii", id, (int64_t)(off / BLOB_SLICE));
    if (rc == 0 && row == -1)
        return err_set(e, ERR_STATE_CORRUPT, "the bytes from %zu on are gone", off);
    errno = 0;
    int code =
        rc ? SQLITE_OK : sqlite3_blob_open(db->h, "main", "blob_slices", "data", row, 0, &slice);
    if (rc == 0 && (code == SQLITE_ERROR || /* not a blob */
                    (code == SQLITE_OK && sqlite3_blob_bytes(slice) != (int)n)))
        rc = err_set(e, ERR_STATE_CORRUPT, "the bytes from %zu on are not whole", off);
    else if (rc == 0 && (code != SQLITE_OK || sqlite3_blob_read(slice, p, (int)n, 0)))
        rc = db_fail(db, e);
    if (rc < 0 && rc != ERR_STATE_CORRUPT && db_is_damage(db))
        rc = err_set(e, ERR_STATE_CORRUPT, "damaged at byte %zu", off);
    sqlite3_blob_close(slice);
    return rc;
}

int q_blob_is_same(struct db *db, int64_t id, size_t off, const void *p, size_t n, struct err *e)
{
    sqlite3_stmt *st;
    struct err found = {0};
    int rc = blob_slice(db, &st, id, off, n, &found);
    if (rc == 0)
        rc = memcmp(p, sqlite3_column_blob(st, 0), n) == 0;
    else if (rc == ERR_STATE_CORRUPT)
        rc = 0;
    else if (e)
        *e = found;
    db_done(st);
    return rc;
}

static int collect_from(struct db *db, int64_t id, int64_t max_slices, struct err *e)
{
    int64_t left;
    int rc = db_run(db, e,
                    "DELETE FROM blob_slices WHERE rowid IN"
                    " (SELECT rowid FROM blob_slices WHERE blob = ?1 LIMIT ?2)",
                    "ii", id, max_slices);
    if (rc == 0)
        rc = db_int(db, &left, 0, e, "SELECT EXISTS (SELECT 1 FROM blob_slices WHERE blob = ?1)",
                    "i", id);
    if (rc == 0 && !left)
        rc = db_run(db, e, "DELETE FROM blobs WHERE id = ?1", "i", id);
    return rc;
}

int q_blob_collect(struct db *db, int64_t except, int64_t max_slices, struct err *e)
{
    int64_t id;
    int rc = db_int(db, &id, 0, e,
                    "SELECT id FROM blobs WHERE sha256 IS NULL AND id <> ?1 AND id > ?2"
                    " ORDER BY id LIMIT 1",
                    "ii", except, db->collect_after);
    if (rc < 0 || id == 0)
        return rc;
    if ((rc = db_begin(db, DB_LAZY, e)) < 0)
        return rc;
    if ((rc = collect_from(db, id, max_slices, e)) < 0) {
        /* Pages that cannot be freed are lost space; the blobs after it still go. */
        bool damaged = db_is_damage(db);
        db_rollback(db);
        if (damaged)
            db->collect_after = id;
        return damaged ? 1 : rc;
    }
    rc = db_commit(db, e);
    return rc < 0 ? rc : 1;
}
