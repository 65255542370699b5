/* What befalls a store: damaged bytes, foreign files, a full or read-only disk, a second process,
 * other versions of the database, refuse of a killed process. */
#include "tests/lib/check.h"

#include "store/migrate.h"
#include "store/q_blobs.h"
#include "tests/lib/store_sync.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static void test_damaged_blobs(void **state)
{
    (void)state;
    static const char *const harm[] = {
        "UPDATE blob_slices SET data = substr(data, 1, 10) WHERE blob ="
        " (SELECT id FROM blobs WHERE sha256 = (SELECT sha256 FROM states WHERE name = 'hurt'))",
        "DELETE FROM blob_slices WHERE seq = 0 AND blob ="
        " (SELECT id FROM blobs WHERE sha256 = (SELECT sha256 FROM states WHERE name = 'hurt'))",
        "UPDATE blobs SET sha256 = NULL WHERE sha256 = (SELECT sha256 FROM states WHERE name = "
        "'hurt')",
        "UPDATE states SET bytes = 1 << 60 WHERE name = 'hurt'",
    };
    const size_t sizes[] = {5000, 6 * MIB};
    for (size_t i = 0; i < 2 * sizeof harm / sizeof harm[0]; i++) {
        char *dir = made_dir();
        size_t n = sizes[i % 2];
        struct answer a;
        struct store *s = opened(dir, 0);
        put_seeded(s, "well", 1, n);
        put_seeded(s, "hurt", 2, n);
        store_close(s);
        sql_on_file(dir, harm[i / 2]);
        s = opened(dir, 0);
        assert_int_equal(sync_get(s, "hurt", 0, true, &a), ERR_STATE_CORRUPT);
        assert_non_null(strstr(a.err.msg, "hurt"));
        assert_int_equal(sync_get(s, "hurt", 0, false, &a), 0); /* the record is there */
        answer_fini(&a);
        check_seeded(s, "well", 0, 1, n);
        assert_int_equal(put_seeded(s, "hurt", 2, n), 2); /* the same bytes again heal it */
        check_seeded(s, "hurt", 2, 2, n);
        assert_int_equal(sync_delete(s, "hurt", 0, NULL), 0);
        check_seeded(s, "well", 0, 1, n);
        store_close(s);
        assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 1);
        removed_dir(dir);
    }
}

/* Flipped bytes keep their length, so the store does not see them at a get; a put of the true bytes
 * compares, and does not share damaged ones. */
static void test_put_replaces_flipped_bytes(void **state)
{
    (void)state;
    const size_t sizes[] = {5000, 6 * MIB};
    for (size_t i = 0; i < 2; i++) {
        char *dir = made_dir();
        size_t n = sizes[i];
        struct store *s = opened(dir, 0);
        put_seeded(s, "a", 2, n);
        store_close(s);
        sql_on_file(dir, "UPDATE blob_slices SET data = zeroblob(length(data)) WHERE seq ="
                         " (SELECT max(seq) FROM blob_slices)");
        s = opened(dir, 0);
        put_seeded(s, "b", 2, n);
        check_stats(s, 2, 1, n);
        check_seeded(s, "b", 0, 2, n);
        check_seeded(s, "a", 0, 2, n);
        store_close(s);
        assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 1);
        removed_dir(dir);
    }
}

static void overwrite(const char *dir, off_t offset, size_t n)
{
    char path[300];
    char *junk = seeded_bytes(77, n);
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, junk, n, offset), n);
    close(fd);
    free(junk);
}

/* Where these bytes are in the database's file. */
static off_t find_in_file(const char *dir, const void *bytes, size_t n)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    int fd = open(path, O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    char *all = malloc((size_t)st.st_size);
    assert_int_equal(read(fd, all, (size_t)st.st_size), st.st_size);
    const char *p = memmem(all, (size_t)st.st_size, bytes, n);
    assert_non_null(p);
    off_t at = p - all;
    free(all);
    close(fd);
    return at;
}

/* A page that only this blob uses: it cannot be read, nor freed; the rest is unharmed. */
static void test_damaged_page(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct answer a;
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    put_seeded(s, "hurt", 2, 8 * MIB);
    store_close(s);
    char *blob = seeded_bytes(2, 8 * MIB);
    overwrite(dir, find_in_file(dir, blob + 3 * MIB + MIB / 2, 32) & ~(off_t)16383, 16384);
    free(blob);
    s = opened(dir, 0);
    assert_int_equal(sync_get(s, "hurt", 0, true, &a), ERR_STATE_CORRUPT);
    check_seeded(s, "a", 0, 1, 10000);
    put_seeded(s, "b", 3, 6 * MIB);
    check_seeded(s, "b", 0, 3, 6 * MIB);
    assert_int_equal(put_seeded(s, "hurt", 2, 8 * MIB), 2);
    check_seeded(s, "hurt", 1, 2, 8 * MIB);
    assert_int_equal(sync_delete(s, "hurt", 0, NULL), 0);
    put_seeded(s, "c", 4, 6 * MIB);
    store_close(s);
    s = opened(dir, 0);
    check_seeded(s, "a", 0, 1, 10000);
    check_seeded(s, "b", 0, 3, 6 * MIB);
    check_seeded(s, "c", 0, 4, 6 * MIB);
    store_close(s);
    removed_dir(dir);
}

static void write_in(const char *dir, const char *name, const void *p, size_t n)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void test_unusable_files(void **state)
{
    (void)state;
    struct err e;
    char *dir = made_dir();
    void *junk = seeded_bytes(1, 70000);
    write_in(dir, DB_FILE, junk, 70000);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "not a database"));
    removed_dir(dir);

    dir = made_dir(); /* the pages of the tables overwritten, the header left */
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    store_close(s);
    overwrite(dir, 2 * 16384, 65536);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "damaged"));
    removed_dir(dir);

    dir = made_dir(); /* a database of something else */
    sql_on_file(dir, "CREATE TABLE theirs (x)");
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "another program"));
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM sqlite_schema"), 1);
    char path[300];
    write_in(dir, "file", "x", 1);
    snprintf(path, sizeof path, "%s/file", dir);
    assert_int_equal(open_fails(path, &e), ERR_IO); /* not a folder */
    snprintf(path, sizeof path, "%s/file/below", dir);
    assert_int_equal(open_fails(path, &e), ERR_IO);
    removed_dir(dir);
    free(junk);
}

static mode_t mode_of(const char *dir, const char *file)
{
    char path[400];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

/* With the folders above that are not there. */
static void test_files_are_private(void **state)
{
    (void)state;
    char *parent = made_dir();
    char above[280], dir[300];
    mode_t old = umask(0);
    snprintf(above, sizeof above, "%s/above", parent);
    snprintf(dir, sizeof dir, "%s//data/", above);
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    assert_int_equal(mode_of(above, ""), 0700);
    assert_int_equal(mode_of(dir, ""), 0700);
    assert_int_equal(mode_of(dir, DB_FILE), 0600);
    assert_int_equal(mode_of(dir, DB_FILE "-wal"), 0600);
    store_close(s);
    umask(old);
    removed_dir(strdup(dir));
    removed_dir(strdup(above));
    removed_dir(parent);
}

/* ---- locks, limits, versions ---- */

/* Exit code of a child: 0 if the folder was refused for this reason. Frees dir. */
static int child_is_refused(char *dir, const char *reason)
{
    struct err e = {0};
    struct store *s = NULL;
    int rc = store_open(&(struct store_options){.dir = dir}, &s, &e);
    store_close(s);
    free(dir);
    return rc == ERR_IO && strstr(e.msg, reason) ? 0 : 1;
}

static void check_child(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_second_open_is_refused(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct err e;
    int go[2];
    assert_int_equal(pipe(go), 0);
    pid_t child = fork();
    if (child == 0) {
        char c;
        close(go[1]);
        _exit(read(go[0], &c, 1) == 1 ? child_is_refused(dir, "in use by another process") : 2);
    }
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 100);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "in use by another process"));
    assert_int_equal(write(go[1], "g", 1), 1);
    check_child(child);
    close(go[0]);
    close(go[1]);
    put_seeded(s, "b", 2, 100); /* and the first goes on */
    store_close(s);
    s = opened(dir, 0);
    check_seeded(s, "b", 0, 2, 100);
    store_close(s);
    removed_dir(dir);
}

static void set_file_limit(rlim_t bytes)
{
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes < r.rlim_max ? bytes : r.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static void full_disk(size_t bytes)
{
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct answer a;
    put_seeded(s, "first", 1, 1000);
    struct sigaction old, ignore = {.sa_handler = SIG_IGN};
    assert_int_equal(sigaction(SIGXFSZ, &ignore, &old), 0);
    set_file_limit(12 * MIB);
    void *blob = NULL;
    int rc = 0, n = 0;
    for (; rc == 0 && n < 40; n++) {
        free(blob);
        blob = seeded_bytes(100 + (uint64_t)n, bytes);
        struct store_state st = state_of("many", blob, bytes);
        rc = sync_put(s, &st, blob, bytes, STORE_EXISTS_NEW_VERSION, &a);
        if (rc < 0)
            break;
        answer_fini(&a);
    }
    if (rc != ERR_STORAGE_FULL)
        fail_msg("%d %s", rc, rc < 0 ? a.err.msg : "");
    struct store_stats t;
    store_get_stats(s, &t);
    assert_int_equal(t.states, 1 + n);
    check_seeded(s, "first", 0, 1, 1000); /* reading goes on */
    for (int i = 0; i < n; i++)
        check_seeded(s, "many", (uint64_t)i + 1, 100 + (uint64_t)i, bytes);
    set_file_limit(RLIM_INFINITY);
    sigaction(SIGXFSZ, &old, NULL);
    assert_int_equal(put_seeded(s, "many", 100 + (uint64_t)n, bytes),
                     n + 1); /* writing again, too */
    store_close(s);
    s = opened(dir, 0);
    for (int i = 0; i <= n; i++)
        check_seeded(s, "many", (uint64_t)i + 1, 100 + (uint64_t)i, bytes);
    store_close(s);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs WHERE sha256 IS NULL"), 0);
    free(blob);
    removed_dir(dir);
}

static void test_full_disk(void **state)
{
    (void)state;
    full_disk(MIB);
    full_disk(5 * MIB);
}

static void test_read_only(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 100);
    store_close(s);
    char path[300];
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(dir, 0555), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(geteuid() == 0 && setuid(65534) != 0 ? 2 : child_is_refused(dir, "read-only"));
    check_child(child);
    chmod(dir, 0700);
    removed_dir(dir);
}

static int64_t version_of(struct db *db)
{
    int64_t v = -1;
    assert_int_equal(db_int(db, &v, -1, NULL, "PRAGMA user_version", ""), 0);
    return v;
}

static void test_migrations(void **state)
{
    (void)state;
    static const char *const good[] = {"CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1)",
                                       "ALTER TABLE t ADD COLUMN y INTEGER DEFAULT 5"};
    static const char *const bad[] = {"CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1)",
                                      "INSERT INTO t VALUES (2); INSERT INTO none VALUES (1)"};
    char *dir = made_dir();
    struct db db;
    struct err e = {0};
    int64_t v;
    assert_int_equal(db_open(&db, dir, &e), 0);
    assert_int_equal(db_migrate_steps(&db, good, 1, &e), 0); /* a program that knows version 1 */
    assert_int_equal(version_of(&db), 1);
    assert_int_equal(db_migrate_steps(&db, bad, 2, &e), ERR_IO);
    assert_int_equal(version_of(&db), 1); /* the failed step left nothing */
    assert_int_equal(db_int(&db, &v, 0, &e, "SELECT count(*) FROM t", ""), 0);
    assert_int_equal(v, 1);
    db_close(&db);
    assert_int_equal(db_open(&db, dir, &e), 0);
    assert_int_equal(db_migrate_steps(&db, good, 2, &e), 0);
    assert_int_equal(version_of(&db), 2);
    assert_int_equal(db_int(&db, &v, 0, &e, "SELECT y FROM t", ""), 0);
    assert_int_equal(v, 5);
    assert_int_equal(db_migrate_steps(&db, good, 2, &e), 0); /* nothing to do */
    assert_int_equal(db_migrate_steps(&db, good, 1, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "newer"));
    db_close(&db);
    removed_dir(dir);
}

static void test_newer_database_is_refused(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 100);
    store_close(s);
    sql_on_file(dir, "PRAGMA user_version = 999");
    struct err e;
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "999"));
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM states"), 1); /* untouched */
    removed_dir(dir);
}

/* What a process killed in the middle of a large put leaves is collected. */
static void test_unfinished_blob_is_collected(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct db db;
    struct err e = {0};
    int64_t id;
    void *slice = seeded_bytes(1, BLOB_SLICE);
    assert_int_equal(db_open(&db, dir, &e), 0);
    assert_int_equal(db_migrate(&db, &e), 0);
    for (size_t k = 0; k < 2; k++) {
        assert_int_equal(db_begin(&db, DB_LAZY, &e), 0);
        assert_int_equal(q_blob_create(&db, 9 * BLOB_SLICE, &id, &e), 0);
        for (size_t i = 0; i < 5; i++)
            assert_int_equal(q_blob_write(&db, id, i * BLOB_SLICE, slice, BLOB_SLICE, &e), 0);
        assert_int_equal(db_commit(&db, &e), 0);
    }
    while (q_blob_collect(&db, id, 2, &e) > 0)
        ; /* all but the one given */
    sqlite3_stmt *st;
    assert_int_equal(db_query(&db, &st, &e, "SELECT count(*), min(blob) FROM blob_slices", ""), 0);
    assert_int_equal(db_step(&db, st, &e), 1);
    assert_int_equal(sqlite3_column_int64(st, 0), 5);
    assert_int_equal(sqlite3_column_int64(st, 1), id);
    db_done(st);
    db_close(&db);
    struct store *s = opened(dir, 0);
    check_stats(s, 0, 0, 0);
    store_close(s);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 0);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blob_slices"), 0);
    free(slice);
    removed_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damaged_blobs),
        cmocka_unit_test(test_put_replaces_flipped_bytes),
        cmocka_unit_test(test_damaged_page),
        cmocka_unit_test(test_unusable_files),
        cmocka_unit_test(test_files_are_private),
        cmocka_unit_test(test_second_open_is_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_migrations),
        cmocka_unit_test(test_newer_database_is_refused),
        cmocka_unit_test(test_unfinished_blob_is_collected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
