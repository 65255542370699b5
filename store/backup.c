#include "store/backup.h"

#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PART_FILE   DB_FILE ".partial"
#define SLICE_PAGES 64 /* of 16 KiB */

struct backup {
    sqlite3 *to;
    sqlite3_backup *job;
    int dir, file;
    int left; /* pages to copy after the last step */
    bool whole;
};

static int fail_errno(struct err *e, const char *what)
{
    int n = errno;
    int code = n == ENOSPC || n == EDQUOT || n == EFBIG ? ERR_STORAGE_FULL : ERR_IO;
    return err_set(e, code, "backup: %s: %s", what, strerror(n));
}

/* errno is that of the failing call: cleared before it. */
static int fail_sqlite(struct err *e, int rc)
{
    if ((rc & 0xff) == SQLITE_FULL ||
        ((rc & 0xff) == SQLITE_IOERR && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)))
        return err_set(e, ERR_STORAGE_FULL, "backup: no space is left in its folder");
    if ((rc & 0xff) == SQLITE_NOMEM || rc == SQLITE_IOERR_NOMEM)
        return err_set(e, ERR_NOMEM, "backup: out of memory in the database");
    return err_set(e, ERR_IO, "backup: %s (%d)", sqlite3_errstr(rc), rc);
}

/* A log beside the copy would be taken for its own. */
static int check_empty(int dir, struct err *e)
{
    static const char *const files[] = {DB_FILE, DB_FILE "-wal", DB_FILE "-journal"};
    struct stat st;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (fstatat(dir, files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            return err_set_param(e, ERR_INVALID, "dir",
                                 "backup: the folder holds a database already");
    return 0;
}

bool store_exists(const char *dir)
{
    struct stat st;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool found = fd >= 0 && fstatat(fd, DB_FILE, &st, 0) == 0;
    if (fd >= 0)
        close(fd);
    return found;
}

static int make_file(struct backup *b, const char *dir, struct err *e)
{
    int rc = db_make_folder(dir, e);
    if (rc < 0)
        return e ? err_prefix(e, "backup") : rc;
    if ((b->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return fail_errno(e, "open its folder");
    if ((rc = check_empty(b->dir, e)) < 0)
        return rc;
    unlinkat(b->dir, PART_FILE, 0); /* of a process that was killed */
    b->file = openat(b->dir, PART_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return b->file < 0 ? fail_errno(e, "create its file") : 0;
}

/* Without a journal: an unfinished copy is thrown away. We sync the file ourselves. */
static int open_copy(struct backup *b, struct db *db, const char *dir, struct err *e)
{
    size_t n = strlen(dir) + sizeof "/" PART_FILE;
    char *path = malloc(n);
    if (!path)
        return err_set(e, ERR_NOMEM, "out of memory");
    snprintf(path, n, "%s/" PART_FILE, dir);
    errno = 0;
    int rc = sqlite3_open_v2(
        path, &b->to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    free(path);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(b->to,
                          "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                          "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -4096",
                          NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return fail_sqlite(e, rc);
    b->job = sqlite3_backup_init(b->to, "main", db->h, "main");
    return b->job ? 0 : fail_sqlite(e, sqlite3_extended_errcode(b->to));
}

int backup_begin(struct db *db, const char *dir, struct backup **out, struct err *e)
{
    struct backup *b = malloc(sizeof *b);
    *out = NULL;
    if (!b)
        return err_set(e, ERR_NOMEM, "out of memory");
    *b = (struct backup){.dir = -1, .file = -1, .left = INT_MAX};
    int rc = make_file(b, dir, e);
    if (rc == 0)
        rc = open_copy(b, db, dir, e);
    if (rc < 0) {
        backup_free(b);
        return rc;
    }
    *out = b;
    return 0;
}

static int finish(struct backup *b, uint64_t *bytes, struct err *e)
{
    struct stat st;
    errno = 0;
    int rc = sqlite3_backup_finish(b->job);
    b->job = NULL;
    if (rc == SQLITE_OK)
        rc = sqlite3_close(b->to);
    if (rc != SQLITE_OK)
        return fail_sqlite(e, rc);
    b->to = NULL;
    if (fsync(b->file) < 0 || fstat(b->file, &st) < 0)
        return fail_errno(e, "write its file");
    if ((rc = check_empty(b->dir, e)) < 0)
        return rc;
    if (renameat(b->dir, PART_FILE, b->dir, DB_FILE) < 0)
        return fail_errno(e, "name its file");
    b->whole = true;
    if (fsync(b->dir) < 0)
        return fail_errno(e, "write its folder");
    *bytes = (uint64_t)st.st_size;
    return 0;
}

int backup_step(struct backup *b, uint64_t *bytes, struct err *e)
{
    int rc, want = b->left - SLICE_PAGES / 2;
    errno = 0;
    do
        rc = sqlite3_backup_step(b->job, SLICE_PAGES);
    while (rc == SQLITE_OK && sqlite3_backup_remaining(b->job) > want);
    b->left = sqlite3_backup_remaining(b->job);
    if (rc == SQLITE_DONE)
        return finish(b, bytes, e);
    if (rc != SQLITE_OK)
        return fail_sqlite(e, rc);
    /* Bit by bit, so that the end does not wait for all of it. */
    return fdatasync(b->file) < 0 ? fail_errno(e, "write its file") : 1;
}

void backup_free(struct backup *b)
{
    if (!b)
        return;
    sqlite3_backup_finish(b->job);
    sqlite3_close(b->to);
    if (b->file >= 0 && !b->whole)
        unlinkat(b->dir, PART_FILE, 0);
    if (b->file >= 0)
        close(b->file);
    if (b->dir >= 0)
        close(b->dir);
    free(b);
}
