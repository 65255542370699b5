#include "store/db.h"

#include "daemon/base/assert.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In this order: with the lock set before the first look at the file, the log's index is in memory
 * and not in a file of its own, which a full disk has no room for. */
#define DB_PRAGMA_LOCK "PRAGMA locking_mode = EXCLUSIVE;"
/* Pages of 16 KiB suit blobs of megabytes. Both are without effect later, but the second would write. */
#define DB_PRAGMAS_NEW "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL;"
/* The log is moved into the database at the latest when it holds DB_LOG_PAGES (16 MiB): that bounds
 * both its size and the pause of a move. */
#define DB_PRAGMAS_FILE "PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 67108864;"
/* A small cache: a blob read passes through it once, and through pages that are in the CPU's cache
 * rather than in memory never used before. The rest is in the system's. */
#define DB_PRAGMAS                                                                                 \
    "PRAGMA synchronous = FULL;"                                                                   \
    "PRAGMA foreign_keys = ON;"                                                                    \
    "PRAGMA trusted_schema = OFF;"                                                                 \
    "PRAGMA cell_size_check = ON;"                                                                 \
    "PRAGMA temp_store = MEMORY;"                                                                  \
    "PRAGMA cache_size = -2048;"
#define DB_LOG_PAGES 1024

static bool is_full_errno(int n)
{
    return n == ENOSPC || n == EDQUOT || n == EFBIG;
}

int db_fail(struct db *db, struct err *e)
{
    int os_errno = errno; /* of the failing call: cleared before each */
    int rc = db->h ? sqlite3_extended_errcode(db->h) : SQLITE_NOMEM;
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return err_set(e, ERR_STORAGE_FULL, "no space is left in the data directory");
    case SQLITE_NOMEM:
        return err_set(e, ERR_NOMEM, "out of memory in the database");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_set(e, ERR_IO, "the database is in use by another process");
    case SQLITE_NOTADB:
        return err_set(e, ERR_IO, "the file " DB_FILE " is not a database");
    case SQLITE_CORRUPT:
        return err_set(e, ERR_IO, "the database file is damaged");
    case SQLITE_IOERR:
        if (rc == SQLITE_IOERR_NOMEM)
            return err_set(e, ERR_NOMEM, "out of memory in the database");
        /* A quota or a file size limit; sqlite3_system_errno is not set by a failing commit. */
        if (is_full_errno(os_errno))
            return err_set(e, ERR_STORAGE_FULL, "no space is left in the data directory");
        break;
    }
    return err_set(e, ERR_IO, "database: %s (%d)", sqlite3_errstr(rc), rc);
}

bool db_is_damage(struct db *db)
{
    return (sqlite3_extended_errcode(db->h) & 0xff) == SQLITE_CORRUPT;
}

int db_exec(struct db *db, const char *sql, struct err *e)
{
    errno = 0;
    return sqlite3_exec(db->h, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_fail(db, e);
}

/* ---- opening ---- */

/* Called by SQLite just before any commit: one by another road than db_commit is a bug of ours. */
static int on_commit(void *arg)
{
    const struct db *db = arg;
    ASSERT(db->committing);
    return 0;
}

static int fail_file(struct err *e, const char *what, const char *dir)
{
    int n = errno;
    return err_set(e, is_full_errno(n) ? ERR_STORAGE_FULL : ERR_IO, "%s %s: %s", what, dir,
                   strerror(n));
}

int db_make_folder(const char *dir, struct err *e)
{
    char *path = strdup(dir);
    struct stat st;
    int rc = path ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (char *p = path; rc == 0; *p = '/') {
        p += strspn(p, "/");
        p += strcspn(p, "/");
        bool last = !*p;
        *p = 0;
        /* What is there already may refuse in other words than "exists". */
        if (mkdir(path, 0700) < 0 && errno != EEXIST && stat(path, &st) < 0)
            rc = fail_file(e, "create the folder", dir);
        if (last)
            break;
    }
    free(path);
    return rc;
}

/* Makes the folder and, as an empty file, the database, for this user alone. A file that exists is
 * not opened here: closing it again would drop the locks that this process may hold on it. */
static int make_private(const char *dir, const char *path, struct err *e)
{
    int rc = db_make_folder(dir, e);
    if (rc < 0)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno != EEXIST)
        return fail_file(e, "create " DB_FILE " in", dir);
    if (fd >= 0)
        close(fd);
    return 0;
}

/* The pragma answers with the mode it could set, and no error. */
static int check_log_mode(struct db *db, struct err *e)
{
    sqlite3_stmt *st;
    int rc = db_query(db, &st, e, "PRAGMA journal_mode", "");
    if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        const char *mode = (const char *)sqlite3_column_text(st, 0);
        rc = mode && strcmp(mode, "wal") == 0
                 ? 0
                 : err_set(e, ERR_IO, "the file system cannot hold the database's log");
    }
    db_done(st);
    return rc;
}

/* What the file is set to. Writes nothing to one that is there: it may lie on a full disk. */
static int configure_file(struct db *db, struct err *e)
{
    int64_t n_pages;
    if (sqlite3_db_readonly(db->h, "main") == 1)
        return err_set(e, ERR_IO, "the database is read-only");
    int rc = db_exec(db, DB_PRAGMA_LOCK, e);
    if (rc == 0)
        rc = db_int(db, &n_pages, 0, e, "PRAGMA page_count", "");
    if (rc == 0 && n_pages == 0)
        rc = db_exec(db, DB_PRAGMAS_NEW, e);
    return rc < 0 ? rc : db_exec(db, DB_PRAGMAS_FILE, e);
}

static int db_configure(struct db *db, bool in_memory, struct err *e)
{
    static const int off[] = {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW};
    sqlite3_extended_result_codes(db->h, 1);
    sqlite3_db_config(db->h, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        sqlite3_db_config(db->h, off[i], 0, NULL);
    int rc = in_memory ? 0 : configure_file(db, e);
    if (rc == 0)
        rc = db_exec(db, DB_PRAGMAS, e);
    if (rc < 0 || (!in_memory && (rc = check_log_mode(db, e)) < 0))
        return rc;
    db->durable = true;
    sqlite3_wal_autocheckpoint(db->h, DB_LOG_PAGES);
    sqlite3_commit_hook(db->h, on_commit, db);
    /* With locking_mode EXCLUSIVE the lock of the first write stays until the close. */
    rc = db_begin(db, DB_DURABLE, e);
    return rc < 0 ? rc : db_commit(db, e);
}

int db_open(struct db *db, const char *dir, struct err *e)
{
    *db = (struct db){0};
    bool in_memory = !dir || !*dir;
    char *path = NULL;
    int rc = 0;
    if (!in_memory) {
        size_t n = strlen(dir) + sizeof "/" DB_FILE;
        if (!(path = malloc(n)))
            return err_set(e, ERR_NOMEM, "out of memory");
        snprintf(path, n, "%s/" DB_FILE, dir);
        rc = make_private(dir, path, e);
    }
    if (rc == 0 && sqlite3_open_v2(in_memory ? ":memory:" : path, &db->h,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                       SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                                   NULL) != SQLITE_OK)
        rc = db_fail(db, e);
    if (rc == 0)
        rc = db_configure(db, in_memory, e);
    free(path);
    if (rc < 0) {
        if (!in_memory && e)
            err_prefix(e, "data directory %s", dir);
        db_close(db);
    }
    return rc;
}

void db_close(struct db *db)
{
    if (db->h && db->in_txn)
        db_rollback(db);
    for (size_t i = 0; i < db->n_cached; i++)
        sqlite3_finalize(db->cache[i].st);
    int rc = sqlite3_close(db->h);
    ASSERT(rc == SQLITE_OK); /* else a statement was left open */
    *db = (struct db){0};
}

/* ---- statements ---- */

static int db_prepare(struct db *db, sqlite3_stmt **st, struct err *e, const char *sql)
{
    for (size_t i = 0; i < db->n_cached; i++)
        if (db->cache[i].sql == sql) {
            *st = db->cache[i].st;
            ASSERT(!sqlite3_stmt_busy(*st));
            return 0;
        }
    ASSERT(db->n_cached < DB_MAX_STATEMENTS);
    if (sqlite3_prepare_v3(db->h, sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK) {
        *st = NULL;
        return db_fail(db, e);
    }
    db->cache[db->n_cached].sql = sql;
    db->cache[db->n_cached++].st = *st;
    return 0;
}

static int db_query_v(struct db *db, sqlite3_stmt **st, struct err *e, const char *sql,
                      const char *types, va_list ap)
{
    *st = NULL;
    int rc = db_prepare(db, st, e, sql);
    if (rc < 0)
        return rc;
    rc = SQLITE_OK;
    for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
        const void *p;
        switch (*types) {
        case 'i':
            rc = sqlite3_bind_int64(*st, i, va_arg(ap, int64_t));
            break;
        case 't':
            rc = sqlite3_bind_text(*st, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
            break;
        case 'b':
            p = va_arg(ap, const void *);
            rc = sqlite3_bind_blob64(*st, i, p, va_arg(ap, size_t), SQLITE_STATIC);
            break;
        default:
            ASSERT(!"a type letter");
        }
    }
    return rc == SQLITE_OK ? 0 : db_fail(db, e);
}

int db_query(struct db *db, sqlite3_stmt **st, struct err *e, const char *sql, const char *types,
             ...)
{
    va_list ap;
    va_start(ap, types);
    int rc = db_query_v(db, st, e, sql, types, ap);
    va_end(ap);
    return rc;
}

int db_step(struct db *db, sqlite3_stmt *st, struct err *e)
{
    errno = 0;
    switch (sqlite3_step(st)) {
    case SQLITE_ROW:
        return 1;
    case SQLITE_DONE:
        return 0;
    default:
        return db_fail(db, e);
    }
}

void db_done(sqlite3_stmt *st)
{
    if (!st)
        return;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

int db_run(struct db *db, struct err *e, const char *sql, const char *types, ...)
{
    sqlite3_stmt *st;
    va_list ap;
    va_start(ap, types);
    int rc = db_query_v(db, &st, e, sql, types, ap);
    va_end(ap);
    if (rc == 0)
        rc = db_step(db, st, e);
    ASSERT(rc <= 0);
    db_done(st);
    return rc;
}

int db_int(struct db *db, int64_t *out, int64_t dflt, struct err *e, const char *sql,
           const char *types, ...)
{
    sqlite3_stmt *st;
    va_list ap;
    va_start(ap, types);
    int rc = db_query_v(db, &st, e, sql, types, ap);
    va_end(ap);
    *out = dflt;
    /* To the end, also of a RETURNING: its constraints are checked there. */
    for (bool first = true; rc == 0 && (rc = db_step(db, st, e)) > 0; first = false, rc = 0)
        if (first)
            *out = sqlite3_column_int64(st, 0);
    db_done(st);
    return rc;
}

/* ---- transactions ---- */

int db_begin(struct db *db, enum db_sync sync, struct err *e)
{
    ASSERT(!db->in_txn);
    bool durable = sync == DB_DURABLE;
    if (durable != db->durable) {
        int rc =
            db_exec(db, durable ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", e);
        if (rc < 0)
            return rc;
        db->durable = durable;
    }
    int rc = db_run(db, e, "BEGIN IMMEDIATE", "");
    db->in_txn = rc == 0;
    return rc;
}

int db_commit(struct db *db, struct err *e)
{
    ASSERT(db->in_txn);
    for (size_t i = 0; i < db->n_cached; i++)
        ASSERT(!sqlite3_stmt_busy(db->cache[i].st));
    db->committing = true;
    int rc = db_run(db, e, "COMMIT", "");
    db->committing = false;
    if (rc < 0)
        db_rollback(db);
    db->in_txn = false;
    return rc;
}

void db_rollback(struct db *db)
{
    /* Some failures (a full disk) have undone the transaction already. */
    if (!sqlite3_get_autocommit(db->h))
        sqlite3_exec(db->h, "ROLLBACK", NULL, NULL, NULL);
    db->in_txn = false;
}

/* ---- upkeep ---- */

int db_vacuum_step(struct db *db, int pages, struct err *e)
{
    char sql[64];
    int64_t before, after;
    int rc = db_int(db, &before, 0, e, "PRAGMA freelist_count", "");
    if (rc < 0 || before == 0)
        return rc;
    snprintf(sql, sizeof sql, "PRAGMA incremental_vacuum(%d)", pages);
    if ((rc = db_begin(db, DB_LAZY, e)) < 0)
        return rc;
    if ((rc = db_exec(db, sql, e)) < 0) {
        db_rollback(db);
        return rc;
    }
    if ((rc = db_commit(db, e)) < 0 ||
        (rc = db_int(db, &after, 0, e, "PRAGMA freelist_count", "")) < 0)
        return rc;
    return after > 0 && after < before;
}

int db_checkpoint(struct db *db, struct err *e)
{
    errno = 0;
    int rc = sqlite3_wal_checkpoint_v2(db->h, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return rc == SQLITE_OK ? 0 : db_fail(db, e);
}
