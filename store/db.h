/* One SQLite connection: opening, statements, transactions, upkeep. Inside store/ only.
 *
 *     sqlite3_stmt *st;
 *     rc = db_query(db, &st, e, "SELECT n FROM t WHERE k = ?1", "t", key);
 *     if (rc == 0 && (rc = db_step(db, st, e)) > 0)
 *         n = sqlite3_column_int64(st, 0);
 *     db_done(st);
 *
 * Statements are prepared once and kept, found again by the address of their text: pass literals.
 * Every write happens between db_begin and db_commit (asserted). Messages name no SQL: they may
 * reach a client. One thread at a time. */
#ifndef STORE_DB_H
#define STORE_DB_H

#include "daemon/base/err.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DB_FILE           "dreamstate.db"
#define DB_MAX_STATEMENTS 64

struct db {
    sqlite3 *h;
    struct {
        const char *sql;
        sqlite3_stmt *st;
    } cache[DB_MAX_STATEMENTS];
    size_t n_cached;
    bool in_txn, committing;
    bool durable;          /* a commit waits for the disk now */
    int64_t collect_after; /* q_blob_collect leaves blobs up to this id alone: damaged ones */
};

/* Opens or creates dir/DB_FILE (NULL or "": in memory) and takes the lock that keeps every other
 * process out until db_close. Tables are db_migrate's matter. ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM.
 */
int db_open(struct db *db, const char *dir, struct err *e) __attribute__((warn_unused_result));
/* Makes a folder, and those above it that are not there, for this user alone. */
int db_make_folder(const char *dir, struct err *e) __attribute__((warn_unused_result));
/* Rolls back an open transaction; the last connection's close also checkpoints. */
void db_close(struct db *db);

/* Prepares (or finds) the statement and binds its parameters: for each letter of types one
 * argument: i int64_t, t const char *, b const void * and size_t. Bound memory must live until
 * db_done. */
int db_query(struct db *db, sqlite3_stmt **st, struct err *e, const char *sql, const char *types,
             ...);
/* 1: a row is there; 0: no more; negative: failed. */
int db_step(struct db *db, sqlite3_stmt *st, struct err *e);
/* Ends a use of the statement. NULL is fine. */
void db_done(sqlite3_stmt *st);
/* A statement without rows, from preparation to end. */
int db_run(struct db *db, struct err *e, const char *sql, const char *types, ...);
/* The first column of the first row, or dflt without one. */
int db_int(struct db *db, int64_t *out, int64_t dflt, struct err *e, const char *sql,
           const char *types, ...);
/* Uncached statements without parameters, several at once: pragmas, schema. */
int db_exec(struct db *db, const char *sql, struct err *e);
/* The connection's last failure as an error. */
int db_fail(struct db *db, struct err *e);
/* Whether that failure was damage found in the file. */
bool db_is_damage(struct db *db);

enum db_sync {
    DB_DURABLE, /* db_commit returns when the transaction, and all before it, are on disk */
    DB_LAZY     /* at a crash of the machine it may be lost, whole; later ones then too */
};
int db_begin(struct db *db, enum db_sync sync, struct err *e);
/* On failure everything since db_begin is undone. */
int db_commit(struct db *db, struct err *e);
void db_rollback(struct db *db);

/* Gives up to `pages` free pages back to the file system. 1: there may be more; 0: none; negative.
 */
int db_vacuum_step(struct db *db, int pages, struct err *e);
/* Moves the write-ahead log into the database and empties it. */
int db_checkpoint(struct db *db, struct err *e);

#endif
