/* The store's interface: every operation, order, limits, many threads. */
#include "tests/lib/check.h"

#include "tests/lib/store_sync.h"

#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

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

static void test_blobs_are_shared(void **state)
{
    (void)state;
    char *dir = made_dir();
    const size_t sizes[] = {1000, MIB,
                            6 * MIB + 5}; /* within a slice, one slice, a large request */
    for (size_t i = 0; i < 3; i++) {
        struct store *s = opened(dir, 0);
        char name_a[8], name_b[8];
        snprintf(name_a, sizeof name_a, "a%zu", i);
        snprintf(name_b, sizeof name_b, "b%zu", i);
        size_t n = sizes[i];
        put_seeded(s, name_a, 7, n);
        put_seeded(s, name_b, 7, n);
        put_seeded(s, name_b, 7, n);
        check_stats(s, 3, 1, n);
        assert_int_equal(sync_delete(s, name_a, 0, NULL), 0);
        check_stats(s, 2, 1, n);
        check_seeded(s, name_b, 1, 7, n);
        assert_int_equal(sync_delete(s, name_b, 1, NULL), 0);
        check_seeded(s, name_b, 0, 7, n);
        store_close(s);
        s = opened(dir, 0);
        check_stats(s, 1, 1, n);
        assert_int_equal(sync_delete(s, name_b, 0, NULL), 0);
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
    bool entered, open, left;
};
#define GATE                                                                                       \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, false                   \
    }

static void on_gate(void *arg, const struct err *e, const struct store_state *st, void *blob,
                    size_t n)
{
    struct gate *g = arg;
    (void)e, (void)st, (void)n;
    free(blob);
    pthread_mutex_lock(&g->lock);
    g->entered = true;
    pthread_cond_broadcast(&g->wake);
    while (!g->open)
        pthread_cond_wait(&g->wake, &g->lock);
    g->left = true;
    pthread_cond_broadcast(&g->wake);
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
    while (!g->left)
        pthread_cond_wait(&g->wake, &g->lock);
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

static void on_entry(void *arg, const struct err *e, const struct store_state *st, void *blob,
                     size_t n)
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
    if (store_put_state_take(s, &st, blob, n, &new_version, on_entry, x, &e) < 0)
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
    assert_int_equal(
        store_put_state_take(s, &st, blob, 5 * MIB, &must_be_new, on_entry, &large, &e), ERR_BUSY);
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
    assert_int_equal(store_delete_state(s, "a", 0, 0, on_entry, &del, &e), 0);
    assert_int_equal(store_get_state(s, "a", 0, true, on_entry, &get, &e), 0);
    put_entry(s, &small, "a", 4, 10);
    gate_open(&g);
    store_close(s);
    assert_string_equal(d.text, "ssgd!sL"); /* in order, and before the large one */
}

static void on_chain(void *arg, const struct err *e, const struct store_state *st, void *blob,
                     size_t n)
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
    sem_t answered;
};

/* Waits until the large request, and then every small one queued so far, is answered. */
static void big_end(struct big *b, struct store *s)
{
    struct gate g = GATE;
    while (sem_wait(&b->answered) < 0)
        ;
    sem_destroy(&b->answered);
    gate_shut(&g, s);
    gate_open(&g);
}

static void on_big(void *arg, const struct err *e, const struct store_state *st, void *blob,
                   size_t n)
{
    struct big *b = arg;
    (void)st, (void)n;
    if (e->code)
        fail_msg("%s", e->msg);
    b->during = b->diary->chained - b->before;
    b->before = b->diary->chained;
    b->diary->chain = NULL;
    b->blob = blob;
    sem_post(&b->answered);
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
        struct gate g = GATE;
        struct diary d = {.chain = s};
        struct big b = {.diary = &d};
        struct err e = {0};
        sem_init(&b.answered, 0, 0);
        gate_shut(&g, s);
        if (get) {
            assert_int_equal(store_get_state(s, "big", 0, true, on_big, &b, &e), 0);
        } else {
            void *blob = seeded_bytes(9, n);
            struct store_state st = state_of("big", blob, n);
            assert_int_equal(store_put_state_take(s, &st, blob, n, &must_be_new, on_big, &b, &e),
                             0);
        }
        assert_int_equal(store_get_state(s, "small", 0, true, on_chain, &d, &e), 0);
        gate_open(&g);
        big_end(&b, s);
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
    struct gate g = GATE;
    struct big b = {.diary = &d};
    struct err e = {0};
    sem_init(&b.answered, 0, 0);
    put_seeded(s, "big", 9, 5 * MIB);
    put_seeded(s, "gate", 1, 10);
    gate_shut(&g, s);
    /* 32 small runs, then a slice: the delete comes after the first slice. */
    assert_int_equal(store_get_state(s, "big", 0, true, on_big, &b, &e), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(store_get_state(s, "gate", 0, false, on_entry, &small, &e), 0);
    assert_int_equal(store_delete_state(s, "big", 0, 0, on_entry, &del, &e), 0);
    gate_open(&g);
    big_end(&b, s);
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
    assert_int_equal(store_put_state_take(s, &st, blob, 10, &must_be_new, on_entry, &w[1], &e), 0);
    put_entry(s, &w[2], "b", 1, 10); /* the blob of the first, not yet committed */
    assert_int_equal(store_delete_state(s, "none", 0, 0, on_entry, &w[3], &e), 0);
    assert_int_equal(store_delete_state(s, "a", 0, 0, on_entry, &w[4], &e), 0);
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
#define N_ROUNDS  25
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

static void test_backend(void **state)
{
    (void)state;
    char text[32], want[32];
    snprintf(want, sizeof want, "sqlite %s", sqlite3_libversion());
    assert_string_equal(store_backend(text, sizeof text), want);
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
        cmocka_unit_test(test_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
