/* kill -9 in the middle of writing: ten rounds on one folder. A child keeps a few random puts and
 * deletes in flight and reports through a pipe what it begins to delete and what was answered;
 * after a number of answers drawn from the round's seed it is killed. Then
 *   - every state whose put was answered reads back, and its bytes have the SHA-256 of its record,
 *     unless a delete of it was begun; if that was answered, the state is gone;
 *   - nothing is half written: every record has its whole blob, the database is sound;
 *   - a version that was answered, deleted or not, is not given again. */
#include "tests/lib/check.h"

#include "daemon/base/sha256.h"
#include "tests/lib/store_sync.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_ROUNDS    10
#define N_WRITES    200
#define N_NAMES     12
#define N_IN_FLIGHT 6

/* Shorter than PIPE_BUF: written whole. */
struct message {
    enum { PUT_DONE, DELETE_BEGUN, DELETE_DONE, FAILED } kind;
    int name;
    uint64_t
        version; /* DELETE_BEGUN: 0 = all; DELETE_DONE of all: the latest that went, 0 = none */
    bool all;
    char sha256[65];
};

/* ---- the child ---- */

struct flight {
    struct writer *w;
    struct message m;
};
struct writer {
    struct store *s;
    int fd;
    uint64_t seed;
    uint64_t latest[N_NAMES]; /* guard: lock */
    pthread_mutex_t lock;
    pthread_cond_t landed;
    int in_flight; /* guard: lock */
};

static void tell(int fd, const struct message *m)
{
    ssize_t n;
    while ((n = write(fd, m, sizeof *m)) < 0 && errno == EINTR)
        ;
    if (n != sizeof *m)
        _exit(3);
}

static void on_written(void *arg, const struct err *e, const struct store_state *st, void *blob,
                       size_t n)
{
    struct flight *f = arg;
    struct writer *w = f->w;
    (void)blob, (void)n;
    bool not_there = f->m.kind == DELETE_DONE && e->code == ERR_STATE_NOT_FOUND;
    if (st) {
        f->m.version = st->version;
        memcpy(f->m.sha256, st->sha256, sizeof f->m.sha256);
    } else if (!not_there) {
        f->m.kind = FAILED;
        fprintf(stderr, "%s\n", e->msg);
    }
    tell(w->fd, &f->m);
    pthread_mutex_lock(&w->lock);
    if (f->m.kind == PUT_DONE && f->m.version > w->latest[f->m.name])
        w->latest[f->m.name] = f->m.version;
    w->in_flight--;
    pthread_cond_signal(&w->landed);
    pthread_mutex_unlock(&w->lock);
    free(f);
}

static size_t random_size(uint64_t *seed)
{
    const size_t limits[10] = {100,    5000,   60000,   60000,   60000,
                               300000, 300000, 1 << 20, 3 << 20, 5 << 20};
    size_t limit = limits[seeded_next(seed) % 10];
    return limit == 5 << 20 ? limit : 1 + seeded_next(seed) % limit;
}

static void name_of(int i, char name[24])
{
    snprintf(name, 24, "name-%d", i);
}

static void begin_put(struct writer *w, struct flight *f)
{
    char name[24];
    struct err e;
    size_t n = random_size(&w->seed);
    void *blob = seeded_bytes(seeded_next(&w->seed) % 300, n); /* some are shared */
    name_of(f->m.name, name);
    struct store_state st = state_of(name, blob, n);
    f->m.kind = PUT_DONE;
    if (store_put_state_take(w->s, &st, blob, n, &new_version, on_written, f, &e) < 0)
        _exit(4);
}

static void begin_delete(struct writer *w, struct flight *f, bool all)
{
    char name[24];
    struct err e;
    pthread_mutex_lock(&w->lock);
    uint64_t latest = w->latest[f->m.name];
    pthread_mutex_unlock(&w->lock);
    uint64_t version = all || latest == 0 ? 0 : 1 + seeded_next(&w->seed) % latest;
    f->m = (struct message){DELETE_BEGUN, f->m.name, version, version == 0, ""};
    tell(w->fd, &f->m);
    f->m.kind = DELETE_DONE;
    name_of(f->m.name, name);
    if (store_delete_state(w->s, name, version, 0, on_written, f, &e) < 0)
        _exit(4);
}

static void write_at_random(const char *dir, int fd, uint64_t seed)
{
    struct err e;
    struct writer w = {.fd = fd, .seed = seed};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.landed, NULL);
    if (store_open(&(struct store_options){.dir = dir}, &w.s, &e) < 0)
        _exit(5);
    for (int i = 0; i < N_WRITES; i++) {
        pthread_mutex_lock(&w.lock);
        while (w.in_flight >= N_IN_FLIGHT)
            pthread_cond_wait(&w.landed, &w.lock);
        w.in_flight++;
        pthread_mutex_unlock(&w.lock);
        struct flight *f = calloc(1, sizeof *f);
        if (!f)
            _exit(6);
        f->w = &w;
        f->m.name = (int)(seeded_next(&w.seed) % N_NAMES);
        uint64_t what = seeded_next(&w.seed) % 10;
        if (what < 7)
            begin_put(&w, f);
        else
            begin_delete(&w, f, what == 9);
    }
    store_close(w.s);
    _exit(0);
}

/* ---- the parent ---- */

/* What is known of a version from the messages. */
enum { UNKNOWN, STORED, MAY_BE_GONE, GONE };
#define MAX_VERSION (N_ROUNDS * N_WRITES + N_ROUNDS + 1)
struct known {
    unsigned char fate[N_NAMES][MAX_VERSION];
    char sha256[N_NAMES][MAX_VERSION][65];
    uint64_t latest[N_NAMES];
};

static void learn(struct known *k, int deleting_all[N_NAMES], const struct message *m)
{
    assert_in_range(m->name, 0, N_NAMES - 1);
    assert_true(m->version < MAX_VERSION);
    unsigned char *fate = k->fate[m->name];
    switch (m->kind) {
    case PUT_DONE:
        if (m->version > k->latest[m->name])
            k->latest[m->name] = m->version;
        memcpy(k->sha256[m->name][m->version], m->sha256, 65);
        if (fate[m->version] == UNKNOWN)
            fate[m->version] = deleting_all[m->name] ? MAY_BE_GONE : STORED;
        break;
    case DELETE_BEGUN:
        if (!m->all && fate[m->version] == STORED)
            fate[m->version] = MAY_BE_GONE;
        for (uint64_t v = 1; m->all && v <= k->latest[m->name]; v++)
            if (fate[v] == STORED)
                fate[v] = MAY_BE_GONE;
        deleting_all[m->name] += m->all;
        break;
    case DELETE_DONE:
        for (uint64_t v = m->all ? 1 : m->version; v <= m->version; v++)
            fate[v] = GONE;
        deleting_all[m->name] -= m->all;
        break;
    case FAILED:
        fail_msg("a write failed");
    }
}

/* Reads messages, kills the child after `answers` of them, reads the rest. */
static int watch(struct known *k, int fd, pid_t child, int answers)
{
    struct message m;
    int deleting_all[N_NAMES] = {0};
    int seen = 0;
    ssize_t n;
    while ((n = read(fd, &m, sizeof m)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        assert_int_equal(n, sizeof m);
        learn(k, deleting_all, &m);
        if (m.kind != DELETE_BEGUN && ++seen == answers)
            assert_int_equal(kill(child, SIGKILL), 0);
    }
    return seen;
}

static void check_blob(const struct answer *a)
{
    uint8_t digest[32];
    char hex[65];
    assert_int_equal(a->blob_bytes, a->state.bytes);
    sha256_of(a->blob, a->blob_bytes, digest);
    sha256_hex(digest, hex);
    assert_string_equal(hex, a->state.sha256);
}

/* Compares all versions that were ever answered, and a few more, with what the store holds now. */
static void check_all(struct known *k, struct store *s)
{
    uint64_t n_states = 0;
    for (int i = 0; i < N_NAMES; i++) {
        char name[24];
        name_of(i, name);
        for (uint64_t v = 1; v <= k->latest[i] + N_IN_FLIGHT && v < MAX_VERSION; v++) {
            struct answer a;
            int rc = sync_get(s, name, v, true, &a);
            if (rc == 0) {
                check_blob(&a);
                if (k->fate[i][v] == GONE)
                    fail_msg("%s@%llu is back", name, (unsigned long long)v);
                if (k->fate[i][v] != UNKNOWN)
                    assert_string_equal(a.state.sha256, k->sha256[i][v]);
                memcpy(k->sha256[i][v], a.state.sha256, 65);
                k->fate[i][v] = STORED;
                n_states++;
            } else {
                if (rc != ERR_STATE_NOT_FOUND || k->fate[i][v] == STORED)
                    fail_msg("%s@%llu was answered: %s", name, (unsigned long long)v, a.err.msg);
                if (k->fate[i][v] == MAY_BE_GONE)
                    k->fate[i][v] = GONE;
            }
            answer_fini(&a);
        }
        uint64_t version = put_seeded(s, name, 1, 100);
        assert_true(version > k->latest[i]);
        assert_int_equal(sync_delete(s, name, version, NULL), 0);
        k->latest[i] = version;
        k->fate[i][version] = GONE;
    }
    struct store_stats stats;
    store_get_stats(s, &stats);
    assert_int_equal(stats.states, n_states); /* no record but those looked at */
}

static void check_sound(const char *dir)
{
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM pragma_integrity_check"
                                      " WHERE integrity_check <> 'ok'"),
                     0);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_int_equal(
        int_on_file(dir, "SELECT count(*) FROM blobs b WHERE sha256 IS NOT NULL AND bytes"
                         " <> (SELECT sum(length(data)) FROM blob_slices WHERE blob = b.id)"),
        0);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs WHERE sha256 IS NOT NULL"
                                      " AND sha256 NOT IN (SELECT sha256 FROM states)"),
                     0);
}

static void test_kill(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct known *k = calloc(1, sizeof *k);
    assert_non_null(k);
    uint64_t seed = 20260119;
    for (int round = 0; round < N_ROUNDS; round++) {
        int fds[2], status;
        int answers = 1 + (int)(seeded_next(&seed) % (N_WRITES / 2));
        uint64_t child_seed = seeded_next(&seed);
        assert_int_equal(pipe(fds), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(fds[0]);
            write_at_random(dir, fds[1], child_seed);
        }
        close(fds[1]);
        int seen = watch(k, fds[0], child, answers);
        close(fds[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_true(seen >= answers);
        struct store *s = opened(dir, 0);
        check_all(k, s);
        store_close(s);
        check_sound(dir);
    }
    free(k);
    removed_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
