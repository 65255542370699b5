/* The store's interface: every operation, order, limits, damage, disk full, locks, migrations. */
#include "tests/lib/check.h"

#include "daemon/base/sha256.h"
#include "store/internal.h"
#include "store/migrate.h"
#include "tests/lib/store_sync.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static struct store *opened(const char *dir, size_t max_queue)
{
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&(struct store_options){.dir = dir, .max_queue = max_queue}, &s, &e) < 0)
        fail_msg("open: %s", e.msg);
    return s;
}

static int open_fails(const char *dir, struct err *e)
{
    struct store *s = NULL;
    *e = (struct err){0};
    int rc = store_open(&(struct store_options){.dir = dir}, &s, e);
    assert_null(s);
    assert_int_equal(rc, e->code);
    return rc;
}

/* Puts n bytes of this seed and returns the version. */
static uint64_t put_seeded(struct store *s, const char *name, uint64_t seed, size_t n)
{
    struct answer a;
    void *blob = seeded_bytes(seed, n);
    struct store_state st = state_of(name, blob, n);
    if (sync_put(s, &st, blob, n, STORE_EXISTS_NEW_VERSION, &a) < 0)
        fail_msg("put %s: %s", name, a.err.msg);
    uint64_t version = a.state.version;
    answer_fini(&a);
    free(blob);
    return version;
}

static void check_seeded(struct store *s, const char *name, uint64_t version, uint64_t seed, size_t n)
{
    struct answer a;
    if (sync_get(s, name, version, true, &a) < 0)
        fail_msg("get %s: %s", name, a.err.msg);
    void *want = seeded_bytes(seed, n);
    assert_int_equal(a.blob_bytes, n);
    assert_int_equal(a.state.bytes, n);
    assert_memory_equal(a.blob, want, n);
    free(want);
    answer_fini(&a);
}

/* Runs SQL on a closed store's file through a connection of its own. */
static void sql_on_file(const char *dir, const char *sql)
{
    char path[300];
    sqlite3 *h;
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    int rc = sqlite3_exec(h, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(h));
    sqlite3_close(h);
}

static int64_t int_on_file(const char *dir, const char *sql)
{
    char path[300];
    sqlite3 *h;
    sqlite3_stmt *st;
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(h, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(h);
    return v;
}

/* ---- the operations ---- */

static void check_record(const struct store_state *got, const struct store_state *want)
{
    assert_string_equal(got->name, want->name);
    assert_string_equal(got->model, want->model);
    assert_string_equal(got->fingerprint, want->fingerprint);
    assert_string_equal(got->weights_type, want->weights_type);
    assert_string_equal(got->sha256, want->sha256);
    assert_int_equal(got->n_layer, want->n_layer);
    assert_int_equal(got->n_embd, want->n_embd);
    assert_int_equal(got->head_size, want->head_size);
    assert_int_equal(got->n_tokens, want->n_tokens);
    assert_int_equal(got->has_logits, want->has_logits);
    assert_string_equal(got->parents, want->parents);
    assert_string_equal(got->origin, want->origin);
    assert_string_equal(got->tags, want->tags);
    assert_string_equal(got->norms, want->norms);
}

static void put_and_get(const char *dir)
{
    struct store *s = opened(dir, 0);
    struct answer a, b;
    void *blob = seeded_bytes(1, 1000);
    struct store_state st = state_of("Mixed.Case_-9", blob, 1000);
    assert_int_equal(sync_put(s, &st, blob, 1000, STORE_EXISTS_ERROR, &a), 0);
    assert_int_equal(a.state.version, 1);
    assert_true(a.state.created_ms > 1600000000000);
    check_record(&a.state, &st);
    assert_int_equal(sync_get(s, "Mixed.Case_-9", 0, true, &b), 0);
    check_record(&b.state, &st);
    assert_int_equal(b.state.created_ms, a.state.created_ms);
    assert_int_equal(b.blob_bytes, 1000);
    assert_memory_equal(b.blob, blob, 1000);
    answer_fini(&b);
    assert_int_equal(sync_get(s, "Mixed.Case_-9", 1, false, &b), 0);
    assert_null(b.blob);
    assert_int_equal(b.state.bytes, 1000);
    answer_fini(&b);
    assert_int_equal(sync_get(s, "mixed.case_-9", 0, true, &b), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_get(s, "Mixed.Case_-9", 2, true, &b), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_get(s, "Mixed.Case_-9", UINT64_MAX, true, &b), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_put(s, &st, blob, 1000, STORE_EXISTS_ERROR, &b), ERR_STATE_EXISTS);
    answer_fini(&a);
    free(blob);
    store_close(s);
}

static void test_put_get(void **state)
{
    (void)state;
    put_and_get(NULL);
    char *dir = made_dir();
    put_and_get(dir);
    struct store *s = opened(dir, 0);
    check_seeded(s, "Mixed.Case_-9", 0, 1, 1000); /* after a restart */
    store_close(s);
    removed_dir(dir);
}

static void test_null_texts_are_empty(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct answer a;
    struct store_state st = state_of("x", "abc", 3);
    st.parents = st.origin = st.tags = st.norms = NULL;
    assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_ERROR, &a), 0);
    assert_string_equal(a.state.parents, "[]");
    assert_string_equal(a.state.origin, "{}");
    assert_string_equal(a.state.tags, "[]");
    assert_string_equal(a.state.norms, "{}");
    answer_fini(&a);
    store_close(s);
}

static void test_bad_requests(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct store_state good = state_of("x", "abc", 3), st;
    static const char *const names[] = {"", "a b", "a/b", "a@1", "\xc3\xa9", "a\n", "a%"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        st = good;
        snprintf(st.name, sizeof st.name, "%s", names[i]);
        assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
        assert_int_equal(sync_get(s, names[i], 0, true, NULL), ERR_INVALID);
        assert_int_equal(sync_delete(s, names[i], 0, NULL), ERR_INVALID);
    }
    char longest[STORE_NAME_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[STORE_NAME_MAX + 1] = 0;
    assert_int_equal(sync_get(s, longest, 0, true, NULL), ERR_INVALID);
    longest[STORE_NAME_MAX] = 0;
    assert_int_equal(sync_get(s, longest, 0, true, NULL), ERR_STATE_NOT_FOUND);
    st = good;
    memset(st.name, 'n', sizeof st.name);
    assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
    st = good;
    st.sha256[3] = 'A';
    assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
    st = good;
    st.n_tokens = UINT64_MAX;
    assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
    assert_int_equal(sync_put(s, &good, "", 0, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
    char text[8];
    bool more;
    assert_int_equal(sync_list(s, "", "", 0, text, sizeof text, &more), ERR_INVALID);
    assert_int_equal(sync_list(s, "", "", 1001, text, sizeof text, &more), ERR_INVALID);
    struct store_stats stats;
    store_get_stats(s, &stats);
    assert_int_equal(stats.states, 0);
    store_close(s);
}

static void test_versions_never_return(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct answer a;
    for (uint64_t v = 1; v <= 3; v++)
        assert_int_equal(put_seeded(s, "a", v, 100), v);
    assert_int_equal(sync_delete(s, "a", 3, &a), 0);
    assert_int_equal(a.state.version, 3);
    answer_fini(&a);
    check_seeded(s, "a", 0, 2, 100); /* the latest is now 2 */
    assert_int_equal(put_seeded(s, "a", 4, 100), 4);
    assert_int_equal(sync_delete(s, "a", 0, &a), 0);
    assert_int_equal(a.state.version, 4);
    answer_fini(&a);
    for (uint64_t v = 0; v <= 4; v++)
        assert_int_equal(sync_get(s, "a", v, false, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_delete(s, "a", 0, NULL), ERR_STATE_NOT_FOUND);
    store_close(s);

    s = opened(dir, 0);
    void *blob = seeded_bytes(5, 100);
    struct store_state st = state_of("a", blob, 100);
    /* Nothing of this name is there, so this is no conflict; the count goes on. */
    assert_int_equal(sync_put(s, &st, blob, 100, STORE_EXISTS_ERROR, &a), 0);
    assert_int_equal(a.state.version, 5);
    answer_fini(&a);
    free(blob);
    assert_int_equal(sync_delete(s, "a", 2, NULL), ERR_STATE_NOT_FOUND);
    check_seeded(s, "a", 5, 5, 100);
    store_close(s);
    removed_dir(dir);
}

static void check_page(struct store *s, const char *after, const char *prefix, size_t limit,
                       const char *want, bool want_more)
{
    char text[512];
    bool more;
    assert_int_equal(sync_list(s, after, prefix, limit, text, sizeof text, &more), 0);
    assert_string_equal(text, want);
    assert_int_equal(more, want_more);
}

static void test_list(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    static const char *const names[] = {"b_1", "bx1", "B_1", "b.", "b_2", "ba", "a", "c", "b_1"};
    check_page(s, "", "", 10, "", false);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        put_seeded(s, names[i], i, 10);
    check_page(s, "", "", 10, "B_1@1 a@1 b.@1 b_1@2 b_2@1 ba@1 bx1@1 c@1 ", false);
    check_page(s, "", "", 8, "B_1@1 a@1 b.@1 b_1@2 b_2@1 ba@1 bx1@1 c@1 ", false);
    check_page(s, "", "", 3, "B_1@1 a@1 b.@1 ", true);
    check_page(s, "b.", "", 3, "b_1@2 b_2@1 ba@1 ", true);
    check_page(s, "ba", "", 3, "bx1@1 c@1 ", false);
    check_page(s, "", "b_", 10, "b_1@2 b_2@1 ", false); /* _ is no wildcard, case counts */
    check_page(s, "b_1", "b", 2, "b_2@1 ba@1 ", true);
    check_page(s, "", "b%", 10, "", false);
    check_page(s, "", "%", 10, "", false);
    check_page(s, "", "\xff", 10, "", false);
    check_page(s, "zz", "", 10, "", false);
    assert_int_equal(sync_delete(s, "b_1", 2, NULL), 0);
    assert_int_equal(sync_delete(s, "ba", 0, NULL), 0);
    check_page(s, "", "b", 10, "b.@1 b_1@1 b_2@1 bx1@1 ", false);
    store_close(s);
}

static void check_stats(struct store *s, uint64_t states, uint64_t blobs, uint64_t bytes)
{
    struct store_stats t;
    store_get_stats(s, &t);
    assert_int_equal(t.states, states);
    assert_int_equal(t.blobs, blobs);
    assert_int_equal(t.blob_bytes, bytes);
}

static void test_blobs_are_shared(void **state)
{
    (void)state;
    char *dir = made_dir();
    const size_t sizes[] = {1000, MIB, 6 * MIB + 5}; /* within a slice, one slice, a large request */
    for (size_t i = 0; i < 3; i++) {
        struct store *s = opened(dir, 0);
        size_t n = sizes[i];
        put_seeded(s, "a", 7, n);
        put_seeded(s, "b", 7, n);
        put_seeded(s, "b", 7, n);
        check_stats(s, 3, 1, n);
        assert_int_equal(sync_delete(s, "a", 0, NULL), 0);
        check_stats(s, 2, 1, n);
        check_seeded(s, "b", 1, 7, n);
        assert_int_equal(sync_delete(s, "b", 1, NULL), 0);
        check_seeded(s, "b", 0, 7, n);
        store_close(s);
        s = opened(dir, 0);
        check_stats(s, 1, 1, n);
        assert_int_equal(sync_delete(s, "b", 0, NULL), 0);
        check_stats(s, 0, 0, 0);
        store_close(s);
        assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 0);
        assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blob_slices"), 0);
        assert_int_equal(int_on_file(dir, "PRAGMA freelist_count"), 0); /* given back */
    }
    removed_dir(dir);
}

static void test_same_hash_other_size_is_refused(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct store_state st = state_of("a", "abc", 3);
    assert_int_equal(sync_put(s, &st, "abc", 3, STORE_EXISTS_NEW_VERSION, NULL), 0);
    assert_int_equal(sync_put(s, &st, "abcd", 4, STORE_EXISTS_NEW_VERSION, NULL), ERR_INVALID);
    check_stats(s, 1, 1, 3);
    store_close(s);
}

/* ---- queues ---- */

/* Holds the store's thread inside a callback until it is let go. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool entered, open;
};
#define GATE {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false}

static void on_gate(void *arg, const struct err *e, const struct store_state *st, void *blob, size_t n)
{
    struct gate *g = arg;
    (void)e, (void)st, (void)n;
    free(blob);
    pthread_mutex_lock(&g->lock);
    g->entered = true;
    pthread_cond_broadcast(&g->wake);
    while (!g->open)
        pthread_cond_wait(&g->wake, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_shut(struct gate *g, struct store *s)
{
    struct err e = {0};
    assert_int_equal(store_get_state(s, "gate", 0, false, on_gate, g, &e), 0);
    pthread_mutex_lock(&g->lock);
    while (!g->entered)
        pthread_cond_wait(&g->wake, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->wake);
    pthread_mutex_unlock(&g->lock);
}

/* What was answered, in order: written by the store's thread, read after store_close. */
struct diary {
    char text[256];
    struct store *chain; /* submits another get from within the callback while set */
    size_t chained;
};
struct entry {
    struct diary *diary;
    char mark;
};

static void diary_add(struct diary *d, char c)
{
    size_t n = strlen(d->text);
    if (n + 1 < sizeof d->text)
        d->text[n] = c;
}

static void on_entry(void *arg, const struct err *e, const struct store_state *st, void *blob, size_t n)
{
    struct entry *x = arg;
    (void)st, (void)n;
    free(blob);
    diary_add(x->diary, e->code ? '!' : x->mark);
}

static void put_entry(struct store *s, struct entry *x, const char *name, uint64_t seed, size_t n)
{
    struct err e = {0};
    void *blob = seeded_bytes(seed, n);
    struct store_state st = state_of(name, blob, n);
    if (store_put_state_take(s, &st, blob, n, STORE_EXISTS_NEW_VERSION, on_entry, x, &e) < 0)
        fail_msg("%s", e.msg);
}

static void test_full_queue_is_busy(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 2);
    struct diary d = {0};
    struct entry small = {&d, 's'}, large = {&d, 'L'};
    struct gate g = GATE;
    struct err e = {0};
    struct store_stats stats;
    gate_shut(&g, s);
    put_entry(s, &small, "a", 1, 10);
    put_entry(s, &small, "b", 2, 10);
    assert_int_equal(store_get_state(s, "a", 0, true, on_entry, &small, &e), ERR_BUSY);
    assert_int_equal(e.code, ERR_BUSY);
    put_entry(s, &large, "c", 3, 5 * MIB); /* the other queue has room of its own */
    put_entry(s, &large, "d", 3, 5 * MIB);
    void *blob = seeded_bytes(4, 5 * MIB);
    struct store_state st = state_of("e", blob, 5 * MIB);
    assert_int_equal(store_put_state_take(s, &st, blob, 5 * MIB, STORE_EXISTS_ERROR, on_entry,
                                          &large, &e),
                     ERR_BUSY);
    free(blob); /* still ours */
    store_get_stats(s, &stats);
    assert_int_equal(stats.queued, 4);
    gate_open(&g);
    store_close(s); /* answers what is queued */
    assert_string_equal(d.text, "ssLL");
}

/* A get that turns out large finds the large queue full: told through its callback. */
static void test_large_get_with_full_queue(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 2);
    struct diary d = {0};
    struct entry large = {&d, 'L'}, get = {&d, 'g'};
    struct gate g = GATE;
    struct err e = {0};
    put_seeded(s, "big", 1, 5 * MIB);
    gate_shut(&g, s);
    assert_int_equal(store_get_state(s, "big", 0, true, on_entry, &get, &e), 0);
    put_entry(s, &large, "c", 2, 5 * MIB);
    put_entry(s, &large, "d", 3, 5 * MIB);
    gate_open(&g);
    store_close(s);
    assert_string_equal(d.text, "!LL");
}

static void test_small_before_large(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct diary d = {0};
    struct entry large = {&d, 'L'}, small = {&d, 's'}, del = {&d, 'd'}, get = {&d, 'g'};
    struct gate g = GATE;
    struct err e = {0};
    gate_shut(&g, s);
    put_entry(s, &large, "big", 1, 5 * MIB);
    put_entry(s, &small, "a", 2, 10);
    put_entry(s, &small, "a", 3, 10);
    assert_int_equal(store_get_state(s, "a", 2, true, on_entry, &get, &e), 0);
    assert_int_equal(store_delete_state(s, "a", 0, on_entry, &del, &e), 0);
    assert_int_equal(store_get_state(s, "a", 0, true, on_entry, &get, &e), 0);
    put_entry(s, &small, "a", 4, 10);
    gate_open(&g);
    store_close(s);
    assert_string_equal(d.text, "ssgd!sL"); /* in order, and before the large one */
}

static void on_chain(void *arg, const struct err *e, const struct store_state *st, void *blob, size_t n)
{
    struct diary *d = arg;
    struct err ignored;
    (void)st, (void)n;
    free(blob);
    assert_int_equal(e->code, 0);
    d->chained++;
    if (d->chain)
        assert_int_equal(store_get_state(d->chain, "small", 0, true, on_chain, d, &ignored), 0);
}

struct big {
    struct diary *diary;
    size_t before; /* small requests answered before this one began to be served */
    size_t during;
    void *blob;
};

static void on_big(void *arg, const struct err *e, const struct store_state *st, void *blob, size_t n)
{
    struct big *b = arg;
    (void)st, (void)n;
    if (e->code)
        fail_msg("%s", e->msg);
    b->during = b->diary->chained - b->before;
    b->before = b->diary->chained;
    b->diary->chain = NULL;
    b->blob = blob;
}

/* While 40 MiB move, a client that asks again whenever it is answered is served between the slices:
 * counted by callbacks, all on the store's thread. */
static void test_large_moves_in_slices(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    const size_t n = 40 * MIB;
    put_seeded(s, "small", 1, 100);
    for (int get = 0; get < 2; get++) {
        struct gate g = GATE, end = GATE;
        struct diary d = {.chain = s};
        struct big b = {.diary = &d};
        struct err e = {0};
        gate_shut(&g, s);
        if (get) {
            assert_int_equal(store_get_state(s, "big", 0, true, on_big, &b, &e), 0);
        } else {
            void *blob = seeded_bytes(9, n);
            struct store_state st = state_of("big", blob, n);
            assert_int_equal(store_put_state_take(s, &st, blob, n, STORE_EXISTS_ERROR, on_big, &b, &e), 0);
        }
        assert_int_equal(store_get_state(s, "small", 0, true, on_chain, &d, &e), 0);
        gate_open(&g);
        /* The large one is answered when this one, queued behind it, is. */
        put_seeded(s, "fence", 2, 5 * MIB);
        gate_shut(&end, s);
        gate_open(&end);
        assert_true(b.during >= 40); /* one at least for each slice */
        free(b.blob);
    }
    check_seeded(s, "big", 1, 9, n);
    store_close(s);
    removed_dir(dir);
}

/* A large get goes on although its state is deleted while it is read. */
static void test_delete_during_large_get(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct diary d = {0};
    struct entry del = {&d, 'd'}, small = {&d, 's'};
    struct gate g = GATE, end = GATE;
    struct big b = {.diary = &d};
    struct err e = {0};
    put_seeded(s, "big", 9, 5 * MIB);
    put_seeded(s, "gate", 1, 10);
    gate_shut(&g, s);
    /* 32 small runs, then a slice: the delete comes after the first slice. */
    assert_int_equal(store_get_state(s, "big", 0, true, on_big, &b, &e), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(store_get_state(s, "gate", 0, false, on_entry, &small, &e), 0);
    assert_int_equal(store_delete_state(s, "big", 0, on_entry, &del, &e), 0);
    gate_open(&g);
    put_seeded(s, "fence", 2, 6 * MIB);
    gate_shut(&end, s);
    gate_open(&end);
    assert_non_null(strchr(d.text, 'd'));
    void *want = seeded_bytes(9, 5 * MIB);
    assert_non_null(b.blob);
    assert_memory_equal(b.blob, want, 5 * MIB);
    assert_int_equal(sync_get(s, "big", 0, true, NULL), ERR_STATE_NOT_FOUND);
    free(want);
    free(b.blob);
    store_close(s);
}

/* The error of one write of a group is its own. */
static void test_group_of_writes(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct diary d = {0};
    struct entry w[5] = {{&d, '0'}, {&d, '1'}, {&d, '2'}, {&d, '3'}, {&d, '4'}};
    struct gate g = GATE;
    struct err e = {0};
    gate_shut(&g, s);
    put_entry(s, &w[0], "a", 1, 10);
    void *blob = seeded_bytes(2, 10);
    struct store_state st = state_of("a", blob, 10);
    assert_int_equal(store_put_state_take(s, &st, blob, 10, STORE_EXISTS_ERROR, on_entry, &w[1], &e), 0);
    put_entry(s, &w[2], "b", 1, 10); /* the blob of the first, not yet committed */
    assert_int_equal(store_delete_state(s, "none", 0, on_entry, &w[3], &e), 0);
    assert_int_equal(store_delete_state(s, "a", 0, on_entry, &w[4], &e), 0);
    gate_open(&g);
    store_close(s);
    assert_string_equal(d.text, "0!2!4");
    s = opened(dir, 0);
    check_stats(s, 1, 1, 10);
    check_seeded(s, "b", 1, 1, 10);
    store_close(s);
    removed_dir(dir);
}

#define N_THREADS 4
#define N_ROUNDS 25
struct worker {
    struct store *s;
    int id;
    int failed;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    char own[32];
    snprintf(own, sizeof own, "own-%d", w->id);
    for (uint64_t i = 1; i <= N_ROUNDS; i++) {
        uint64_t seed = (uint64_t)w->id * 1000 + i;
        size_t n = i % 10 == 0 ? 5 * MIB : 1000 + i;
        void *blob = seeded_bytes(seed, n);
        struct store_state mine = state_of(own, blob, n), shared = state_of("shared", blob, n);
        struct answer a;
        w->failed += sync_put(w->s, &mine, blob, n, STORE_EXISTS_NEW_VERSION, &a) != 0 ||
                     a.state.version != i;
        answer_fini(&a);
        w->failed += sync_put(w->s, &shared, blob, n, STORE_EXISTS_NEW_VERSION, NULL) != 0;
        w->failed += sync_get(w->s, own, i, true, &a) != 0 || a.blob_bytes != n ||
                     memcmp(a.blob, blob, n) != 0;
        answer_fini(&a);
        if (i % 3 == 0)
            w->failed += sync_delete(w->s, own, i, NULL) != 0;
        struct store_stats t;
        store_get_stats(w->s, &t);
        free(blob);
    }
    return NULL;
}

static void test_many_threads(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    pthread_t t[N_THREADS];
    struct worker w[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        w[i] = (struct worker){.s = s, .id = i};
        assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(w[i].failed, 0);
    }
    struct answer a;
    assert_int_equal(sync_get(s, "shared", 0, false, &a), 0);
    assert_int_equal(a.state.version, N_THREADS * N_ROUNDS);
    answer_fini(&a);
    struct store_stats st;
    store_get_stats(s, &st);
    assert_int_equal(st.states, N_THREADS * (N_ROUNDS + N_ROUNDS - N_ROUNDS / 3));
    assert_int_equal(st.blobs, N_THREADS * N_ROUNDS);
    assert_int_equal(st.requests, N_THREADS * (3 * N_ROUNDS + N_ROUNDS / 3) + 1);
    assert_int_equal(st.errors, 0);
    store_close(s);
    removed_dir(dir);
}

/* ---- damage ---- */

static void test_damaged_blobs(void **state)
{
    (void)state;
    static const char *const harm[] = {
        "UPDATE blob_slices SET data = substr(data, 1, 10) WHERE blob ="
        " (SELECT id FROM blobs WHERE sha256 = (SELECT sha256 FROM states WHERE name = 'hurt'))",
        "DELETE FROM blob_slices WHERE seq = 0 AND blob ="
        " (SELECT id FROM blobs WHERE sha256 = (SELECT sha256 FROM states WHERE name = 'hurt'))",
        "UPDATE blobs SET sha256 = NULL WHERE sha256 = (SELECT sha256 FROM states WHERE name = 'hurt')",
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

/* Overwrites the pages in the middle of the file, where only slices are. */
static void test_damaged_pages(void **state)
{
    (void)state;
    char *dir = made_dir();
    char path[300];
    struct answer a;
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    put_seeded(s, "hurt", 2, 8 * MIB);
    store_close(s);
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    int fd = open(path, O_RDWR);
    static char junk[MIB];
    memset(junk, 0xa5, sizeof junk);
    assert_int_equal(pwrite(fd, junk, sizeof junk, 4 * (off_t)MIB), sizeof junk);
    close(fd);
    s = opened(dir, 0);
    assert_int_equal(sync_get(s, "hurt", 0, true, &a), ERR_STATE_CORRUPT);
    check_seeded(s, "a", 0, 1, 10000);
    assert_int_equal(put_seeded(s, "b", 3, 6 * MIB), 1);
    check_seeded(s, "b", 0, 3, 6 * MIB);
    assert_int_equal(sync_delete(s, "hurt", 0, NULL), 0);
    put_seeded(s, "c", 4, 6 * MIB);
    check_seeded(s, "c", 0, 4, 6 * MIB);
    store_close(s);
    s = opened(dir, 0);
    check_seeded(s, "a", 0, 1, 10000);
    check_seeded(s, "b", 0, 3, 6 * MIB);
    check_seeded(s, "c", 0, 4, 6 * MIB);
    store_close(s);
    removed_dir(dir);
}

static void write_file(const char *dir, const char *name, const void *p, size_t n)
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
    write_file(dir, DB_FILE, junk, 70000);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "not a database"));
    removed_dir(dir);

    dir = made_dir(); /* the pages of the tables overwritten, the header left */
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    store_close(s);
    char path[300];
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, junk, 65536, 2 * 16384), 65536);
    close(fd);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "damaged"));
    removed_dir(dir);

    dir = made_dir(); /* a database of something else */
    sql_on_file(dir, "CREATE TABLE theirs (x)");
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "another program"));
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM sqlite_schema"), 1);
    write_file(dir, "file", "x", 1);
    snprintf(path, sizeof path, "%s/file", dir);
    assert_int_equal(open_fails(path, &e), ERR_IO); /* not a folder */
    snprintf(path, sizeof path, "%s/none/below", dir);
    assert_int_equal(open_fails(path, &e), ERR_IO);
    removed_dir(dir);
    free(junk);
}

static void test_files_are_private(void **state)
{
    (void)state;
    char *parent = made_dir();
    char dir[280], path[300];
    struct stat st;
    mode_t old = umask(0);
    snprintf(dir, sizeof dir, "%s/data", parent);
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 10000);
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    static const char *const files[] = {DB_FILE, DB_FILE "-wal"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    store_close(s);
    umask(old);
    removed_dir(strdup(dir));
    removed_dir(parent);
}

/* ---- locks, limits, versions ---- */

static void test_second_open_is_refused(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct err e;
    put_seeded(s, "a", 1, 100);
    assert_int_equal(open_fails(dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "in use by another process"));
    pid_t child = fork();
    if (child == 0) {
        struct store *second = NULL;
        int rc = store_open(&(struct store_options){.dir = dir}, &second, &e);
        _exit(rc == ERR_IO && strstr(e.msg, "in use by another process") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
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
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
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
    assert_int_equal(rc, ERR_STORAGE_FULL);
    struct store_stats t;
    store_get_stats(s, &t);
    assert_int_equal(t.states, 1 + n);
    check_seeded(s, "first", 0, 1, 1000); /* reading goes on */
    for (int i = 0; i < n; i++)
        check_seeded(s, "many", (uint64_t)i + 1, 100 + (uint64_t)i, bytes);
    set_file_limit(RLIM_INFINITY);
    signal(SIGXFSZ, old);
    assert_int_equal(put_seeded(s, "many", 100 + (uint64_t)n, bytes), n + 1); /* writing again, too */
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
    if (child == 0) {
        struct err e = {0};
        struct store *second = NULL;
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        int rc = store_open(&(struct store_options){.dir = dir}, &second, &e);
        _exit(rc == ERR_IO && strstr(e.msg, "read-only") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
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
    int64_t id, n;
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
    assert_int_equal(db_int(&db, &n, 0, &e, "SELECT count(*) FROM blob_slices", ""), 0);
    assert_int_equal(n, 5);
    db_close(&db);
    struct store *s = opened(dir, 0);
    check_stats(s, 0, 0, 0);
    store_close(s);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 0);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blob_slices"), 0);
    free(slice);
    removed_dir(dir);
}

static void test_backend(void **state)
{
    (void)state;
    assert_int_equal(strncmp(store_backend(), "sqlite 3.", 9), 0);
    store_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get),
        cmocka_unit_test(test_null_texts_are_empty),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_versions_never_return),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_blobs_are_shared),
        cmocka_unit_test(test_same_hash_other_size_is_refused),
        cmocka_unit_test(test_full_queue_is_busy),
        cmocka_unit_test(test_large_get_with_full_queue),
        cmocka_unit_test(test_small_before_large),
        cmocka_unit_test(test_large_moves_in_slices),
        cmocka_unit_test(test_delete_during_large_get),
        cmocka_unit_test(test_group_of_writes),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_damaged_blobs),
        cmocka_unit_test(test_put_replaces_flipped_bytes),
        cmocka_unit_test(test_damaged_pages),
        cmocka_unit_test(test_unusable_files),
        cmocka_unit_test(test_files_are_private),
        cmocka_unit_test(test_second_open_is_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_migrations),
        cmocka_unit_test(test_newer_database_is_refused),
        cmocka_unit_test(test_unfinished_blob_is_collected),
        cmocka_unit_test(test_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
