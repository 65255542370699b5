/* Copies of a store that is in use. */
#include "tests/lib/check.h"

#include "store/db.h"
#include "tests/lib/store_sync.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* What happens on the store's thread while a backup is made, counted there. */
struct during {
    struct store *s;
    pthread_mutex_t lock;
    pthread_cond_t end;
    int n_gets, n_puts, in_flight; /* guard: lock */
    bool whole;                    /* guard: lock */
    struct err err;
    uint64_t bytes;
};

static void put_next(struct during *d);

static void ended(struct during *d, int *counter)
{
    pthread_mutex_lock(&d->lock);
    (*counter)++;
    d->in_flight--;
    pthread_cond_signal(&d->end);
    pthread_mutex_unlock(&d->lock);
}

static bool begin(struct during *d)
{
    pthread_mutex_lock(&d->lock);
    bool go = !d->whole;
    d->in_flight += go;
    pthread_mutex_unlock(&d->lock);
    return go;
}

static void on_get(void *arg, const struct err *e, const struct store_state *st, void *blob,
                   size_t n)
{
    struct during *d = arg;
    (void)st;
    assert_int_equal(e->code, 0);
    assert_int_equal(n, 1000);
    free(blob);
    put_next(d);
    ended(d, &d->n_gets);
}

static void on_put(void *arg, const struct err *e, const struct store_state *st, void *blob,
                   size_t n)
{
    struct during *d = arg;
    struct err ignored;
    (void)st, (void)blob, (void)n;
    assert_int_equal(e->code, 0);
    if (begin(d))
        assert_int_equal(store_get_state(d->s, "during", 0, true, on_get, d, &ignored), 0);
    ended(d, &d->n_puts);
}

/* A put, then a get of it, then the next, until the backup is whole. */
static void put_next(struct during *d)
{
    struct err e;
    if (!begin(d))
        return;
    void *blob = seeded_bytes(1000 + (uint64_t)d->n_puts, 1000);
    struct store_state st = state_of("during", blob, 1000);
    assert_int_equal(store_put_state_take(d->s, &st, blob, 1000, &new_version, on_put, d, &e), 0);
}

static void on_backup(void *arg, const struct err *e, uint64_t bytes)
{
    struct during *d = arg;
    pthread_mutex_lock(&d->lock);
    d->err = *e;
    d->bytes = bytes;
    d->whole = true;
    pthread_cond_signal(&d->end);
    pthread_mutex_unlock(&d->lock);
}

static void during_end(struct during *d)
{
    pthread_mutex_lock(&d->lock);
    while (!d->whole || d->in_flight)
        pthread_cond_wait(&d->end, &d->lock);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_destroy(&d->end);
    pthread_mutex_destroy(&d->lock);
}

static void fill(struct store *s)
{
    put_seeded(s, "a", 1, 1000);
    put_seeded(s, "a", 2, 5 * MIB);
    for (uint64_t i = 0; i < 8; i++)
        put_seeded(s, "many", 10 + i, MIB);
    put_seeded(s, "gone", 3, 2 * MIB);
    assert_int_equal(sync_delete(s, "gone", 0, NULL), 0);
}

static void check_filled(struct store *s)
{
    check_seeded(s, "a", 1, 1, 1000);
    check_seeded(s, "a", 2, 2, 5 * MIB);
    for (uint64_t i = 0; i < 8; i++)
        check_seeded(s, "many", i + 1, 10 + i, MIB);
    assert_int_equal(sync_get(s, "gone", 0, false, NULL), ERR_STATE_NOT_FOUND);
}

static bool is_there(const char *dir, const char *file)
{
    char path[400];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return stat(path, &st) == 0;
}

/* Everything answered before the backup began is in it; others are served between its slices, and
 * what they wrote is whole or not there. */
static void backup_while_writing(const char *dir)
{
    struct store *s = opened(dir, 0);
    struct during d = {.s = s, .lock = PTHREAD_MUTEX_INITIALIZER, .end = PTHREAD_COND_INITIALIZER};
    struct err e = {0};
    struct store_stats t;
    char *parent = made_dir();
    char copy[300];
    snprintf(copy, sizeof copy, "%s/copy", parent);
    fill(s);
    put_next(&d);
    assert_int_equal(store_backup(s, copy, on_backup, &d, &e), 0);
    during_end(&d);
    assert_int_equal(d.err.code, 0);
    assert_true(d.n_gets >= 10 && d.n_puts >= 10); /* about one for each of 14 slices and more */
    store_get_stats(s, &t);
    assert_int_equal(t.backups, 1);
    check_filled(s); /* the original goes on */
    put_seeded(s, "after", 4, 1000);
    store_close(s);

    assert_true(d.bytes > 13 * MIB);
    assert_false(is_there(copy, DB_FILE ".partial"));
    s = opened(copy, 0);
    check_filled(s);
    assert_int_equal(sync_get(s, "after", 0, false, NULL), ERR_STATE_NOT_FOUND);
    struct answer a;
    assert_int_equal(sync_get(s, "during", 0, false, &a), 0);
    for (uint64_t v = 1; v <= a.state.version; v++)
        check_seeded(s, "during", v, 1000 + v - 1, 1000);
    answer_fini(&a);
    put_seeded(s, "after", 5, 1000); /* a store like any other */
    store_close(s);
    removed_dir(strdup(copy));
    removed_dir(parent);
}

static void test_backup_while_writing(void **state)
{
    (void)state;
    char *dir = made_dir();
    backup_while_writing(dir);
    removed_dir(dir);
    backup_while_writing(NULL); /* of one in memory, too */
}

static void test_refused_folders(void **state)
{
    (void)state;
    char *dir = made_dir(), *copy = made_dir();
    char path[300];
    struct answer a;
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 1000);
    assert_int_equal(sync_backup(s, dir, &a), ERR_INVALID); /* its own */
    assert_string_equal(a.err.param, "dir");
    check_seeded(s, "a", 0, 1, 1000);
    assert_int_equal(sync_backup(s, "", NULL), ERR_INVALID);
    assert_int_equal(sync_backup(s, copy, NULL), 0);
    assert_int_equal(sync_backup(s, copy, NULL), ERR_INVALID); /* nothing is overwritten */
    snprintf(path, sizeof path, "%s/" DB_FILE, copy);
    assert_int_equal(sync_backup(s, path, NULL), ERR_IO); /* a file */
    unlink(path);
    snprintf(path, sizeof path, "%s/" DB_FILE "-wal", copy);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(sync_backup(s, copy, NULL), ERR_INVALID); /* a log without its database */
    unlink(path);
    snprintf(path, sizeof path, "%s/" DB_FILE ".partial", copy);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(sync_backup(s, copy, NULL), 0); /* what a killed process left */
    store_close(s);
    s = opened(copy, 0);
    check_seeded(s, "a", 0, 1, 1000);
    store_close(s);
    removed_dir(dir);
    removed_dir(copy);
}

static void test_full_disk(void **state)
{
    (void)state;
    char *copy = made_dir();
    struct store *s = opened(NULL, 0);
    struct rlimit old, small;
    struct answer a;
    fill(s);
    struct sigaction before, ignore = {.sa_handler = SIG_IGN};
    assert_int_equal(sigaction(SIGXFSZ, &ignore, &before), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 8 * MIB;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(sync_backup(s, copy, &a), ERR_STORAGE_FULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(sigaction(SIGXFSZ, &before, NULL), 0);
    assert_false(is_there(copy, DB_FILE));
    assert_false(is_there(copy, DB_FILE ".partial"));
    check_filled(s);
    assert_int_equal(sync_backup(s, copy, &a), 0);
    store_close(s);
    removed_dir(copy);
}

struct closing {
    struct store *s;
    char *copy;
    int first, second, code;
    sem_t refused;
};

static void on_closed(void *arg, const struct err *e, uint64_t bytes)
{
    struct closing *c = arg;
    (void)bytes;
    c->code = e->code;
}

static void on_never(void *arg, const struct err *e, uint64_t bytes)
{
    (void)arg, (void)e, (void)bytes;
    fail_msg("a refused backup is answered");
}

static void on_large(void *arg, const struct err *e, const struct store_state *st, void *blob,
                     size_t n)
{
    struct closing *c = arg;
    struct err refused;
    (void)e, (void)st, (void)n;
    free(blob);
    c->second = store_backup(c->s, c->copy, on_never, NULL, &refused);
    sem_post(&c->refused);
}

/* Both begin on the store's thread together: a get of 5 slices and a backup of 14. */
static void on_begin(void *arg, const struct err *e, const struct store_state *st, void *blob,
                     size_t n)
{
    struct closing *c = arg;
    struct err ignored;
    (void)e, (void)st, (void)n;
    free(blob);
    c->first = store_backup(c->s, c->copy, on_closed, c, &ignored);
    assert_int_equal(store_get_state(c->s, "a", 2, true, on_large, c, &ignored), 0);
}

/* A second one is refused; one that the close cuts short leaves nothing. */
static void test_one_at_a_time_and_close(void **state)
{
    (void)state;
    char *copy = made_dir();
    struct store *s = opened(NULL, 0);
    struct closing c = {.s = s, .copy = copy};
    struct err e = {0};
    fill(s);
    sem_init(&c.refused, 0, 0);
    assert_int_equal(store_get_state(s, "a", 1, true, on_begin, &c, &e), 0);
    while (sem_wait(&c.refused) < 0)
        ;
    store_close(s);
    sem_destroy(&c.refused);
    assert_int_equal(c.first, 0);
    assert_int_equal(c.second, ERR_BUSY);
    if (c.code != 0) /* it may have been quicker than the close */
        assert_int_equal(c.code, ERR_UNAVAILABLE);
    assert_int_equal(is_there(copy, DB_FILE), c.code == 0);
    assert_false(is_there(copy, DB_FILE ".partial"));
    removed_dir(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backup_while_writing),
        cmocka_unit_test(test_refused_folders),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_one_at_a_time_and_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
