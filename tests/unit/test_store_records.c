/* What is done with records beside putting and getting: patches, versions, forks, filters, expiry,
 * quotas, idempotency keys, the migration from the first schema. */
#include "tests/lib/check.h"

#include "store/migrate.h"
#include "store/q_states.h"
#include "tests/lib/store_sync.h"

#include <pthread.h>
#include <stdlib.h>

#define HASH_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* A clock that stands until it is set. */
struct clock {
    pthread_mutex_t lock;
    pthread_cond_t read;
    int64_t ms;
};

static int64_t clock_read(void *arg)
{
    struct clock *c = arg;
    pthread_mutex_lock(&c->lock);
    int64_t ms = c->ms;
    pthread_cond_broadcast(&c->read);
    pthread_mutex_unlock(&c->lock);
    return ms;
}

static void clock_set(struct clock *c, int64_t ms)
{
    pthread_mutex_lock(&c->lock);
    c->ms = ms;
    pthread_mutex_unlock(&c->lock);
}

#define CLOCK(ms)                                                                                  \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, ms                                    \
    }

/* Puts the bytes of a text as a state of this name. */
static int put_text(struct store *s, struct store_state *st, const char *name, const char *text,
                    const struct store_write *how, struct answer *a)
{
    struct store_state made = state_of(name, text, strlen(text));
    memcpy(st->name, made.name, sizeof st->name);
    memcpy(st->sha256, made.sha256, sizeof st->sha256);
    return sync_put_how(s, st, text, strlen(text), how, a);
}

static void put_plain(struct store *s, const char *name, const char *text)
{
    struct store_state st = state_of(name, text, strlen(text));
    assert_int_equal(put_text(s, &st, name, text, &new_version, NULL), 0);
}

static void check_query(struct store *s, const struct store_query *q, const char *want,
                        bool want_more)
{
    char text[512];
    bool more;
    assert_int_equal(sync_query(s, q, text, sizeof text, &more), 0);
    assert_string_equal(text, want);
    assert_int_equal(more, want_more);
}

static void check_versions(struct store *s, const char *name, uint64_t before, size_t limit,
                           const char *want, bool want_more)
{
    char text[512];
    bool more;
    assert_int_equal(sync_versions(s, name, before, limit, text, sizeof text, &more), 0);
    assert_string_equal(text, want);
    assert_int_equal(more, want_more);
}

/* ---- patches ---- */

static void test_patch(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct answer a;
    put_plain(s, "a", "one");
    assert_int_equal(sync_get(s, "a", 0, false, &a), 0);
    assert_int_equal(a.state.revision, 1);
    assert_string_equal(a.state.description, "");
    assert_false(a.state.pinned);
    answer_fini(&a);

    struct store_patch p = {.description = "de\"s", .tags = "[\"x\",\"y\"]", .if_revision = 1};
    assert_int_equal(sync_patch(s, "a", 0, &p, &a), 0);
    assert_int_equal(a.state.revision, 2);
    assert_string_equal(a.state.description, "de\"s");
    assert_string_equal(a.state.tags, "[\"x\",\"y\"]");
    answer_fini(&a);
    assert_int_equal(sync_patch(s, "a", 0, &p, &a), ERR_VERSION_CONFLICT);
    assert_int_equal(err_http(a.err.code), 412);
    p = (struct store_patch){.set_pinned = true, .pinned = true};
    assert_int_equal(sync_patch(s, "a", 1, &p, &a), 0);
    assert_int_equal(a.state.revision, 3);
    assert_true(a.state.pinned);
    assert_string_equal(a.state.description, "de\"s"); /* what is not named stays */
    answer_fini(&a);
    put_plain(s, "a", "two"); /* a new version has a revision of its own */
    store_close(s);

    s = opened(dir, 0);
    assert_int_equal(sync_get(s, "a", 0, false, &a), 0);
    assert_int_equal(a.state.revision, 4);
    answer_fini(&a);
    assert_int_equal(sync_get(s, "a", 1, false, &a), 0);
    assert_int_equal(a.state.revision, 3);
    assert_true(a.state.pinned);
    answer_fini(&a);
    assert_int_equal(sync_patch(s, "b", 0, &p, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_patch(s, "a", 3, &p, NULL), ERR_STATE_NOT_FOUND);
    p = (struct store_patch){.set_expires = true, .expires_ms = 1};
    assert_int_equal(sync_patch(s, "a", 0, &p, NULL), ERR_INVALID);
    p.expires_ms = -1;
    assert_int_equal(sync_patch(s, "a", 0, &p, NULL), ERR_INVALID);
    store_close(s);
    removed_dir(dir);
}

static void test_tags_are_strings(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    static const char *const bad[] = {"", "[", "{}", "\"a\"", "[1]", "[\"a\",null]", "[[\"a\"]]"};
    put_plain(s, "a", "one");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct answer a;
        const struct store_patch p = {.tags = bad[i]};
        struct store_state st = state_of("b", "x", 1);
        assert_int_equal(sync_patch(s, "a", 0, &p, &a), ERR_INVALID);
        assert_string_equal(a.err.param, "tags");
        st.tags = bad[i];
        assert_int_equal(sync_put(s, &st, "x", 1, STORE_EXISTS_ERROR, NULL), ERR_INVALID);
    }
    check_stats(s, 1, 1, 3);
    store_close(s);
}

/* A write may name the revision that it expects. */
static void test_if_revision(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct store_state st = state_of("a", "x", 1);
    struct store_write how = {.if_exists = STORE_EXISTS_NEW_VERSION, .if_revision = 1};
    struct answer a;
    assert_int_equal(put_text(s, &st, "a", "one", &how, NULL), ERR_VERSION_CONFLICT);
    put_plain(s, "a", "one");
    assert_int_equal(put_text(s, &st, "a", "two", &how, &a), 0);
    assert_int_equal(a.state.revision, 2);
    answer_fini(&a);
    assert_int_equal(put_text(s, &st, "a", "three", &how, NULL), ERR_VERSION_CONFLICT);
    assert_int_equal(sync_fork(s, "a", 1, NULL, NULL, &how, NULL), ERR_VERSION_CONFLICT);
    struct store_patch p = {.if_revision = 2}; /* of the source, which is version 1 */
    assert_int_equal(sync_fork(s, "a", 1, "b", &p, &must_be_new, NULL), ERR_VERSION_CONFLICT);
    check_stats(s, 2, 2, 6);
    store_close(s);
}

/* ---- versions ---- */

static void test_versions(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    char text[64];
    bool more;
    for (int i = 0; i < 5; i++)
        put_plain(s, "a", "same");
    put_plain(s, "a2", "other");
    check_versions(s, "a", 0, 10, "a@5 a@4 a@3 a@2 a@1 ", false);
    check_versions(s, "a", 0, 2, "a@5 a@4 ", true);
    check_versions(s, "a", 4, 2, "a@3 a@2 ", true);
    check_versions(s, "a", 2, 2, "a@1 ", false);
    check_versions(s, "a", 1, 2, "", false);
    check_versions(s, "a", UINT64_MAX, 1, "a@5 ", true);
    assert_int_equal(sync_delete(s, "a", 3, NULL), 0); /* one version */
    check_versions(s, "a", 0, 10, "a@5 a@4 a@2 a@1 ", false);
    assert_int_equal(sync_delete(s, "a", 3, NULL), ERR_STATE_NOT_FOUND);
    check_stats(s, 5, 2, 9);
    assert_int_equal(sync_versions(s, "b", 0, 1, text, sizeof text, &more), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_versions(s, "b", 9, 1, text, sizeof text, &more), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_versions(s, "a", 0, 0, text, sizeof text, &more), ERR_INVALID);
    assert_int_equal(sync_versions(s, "a b", 0, 1, text, sizeof text, &more), ERR_INVALID);
    store_close(s);
}

static void test_fork(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct answer a;
    const struct store_patch keep = {.description = "kept", .set_pinned = true, .pinned = true};
    put_seeded(s, "a", 1, 5000);
    put_seeded(s, "a", 2, 7000);
    assert_int_equal(sync_patch(s, "a", 1, &keep, NULL), 0);
    assert_int_equal(sync_fork(s, "a", 1, "b", NULL, &must_be_new, &a), 0);
    assert_string_equal(a.state.name, "b");
    assert_int_equal(a.state.version, 1);
    assert_int_equal(a.state.bytes, 5000);
    assert_string_equal(a.state.parents, "[\"a@1\"]");
    assert_string_equal(a.state.origin, "{\"kind\":\"fork\",\"of\":\"a@1\"}");
    assert_string_equal(a.state.tags, "[\"a\"]");
    assert_string_equal(a.state.description, "kept");
    assert_int_equal(a.state.n_tokens, 11);
    assert_false(a.state.pinned); /* is of the one record */
    answer_fini(&a);
    check_stats(s, 3, 2, 12000); /* a row, no bytes */
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &must_be_new, NULL), ERR_STATE_EXISTS);
    const struct store_patch change = {.description = "new", .tags = "[\"z\"]"};
    assert_int_equal(sync_fork(s, "a", 0, "b", &change, &new_version, &a), 0);
    assert_int_equal(a.state.version, 2);
    assert_string_equal(a.state.description, "new");
    assert_string_equal(a.state.tags, "[\"z\"]");
    answer_fini(&a);
    assert_int_equal(sync_fork(s, "none", 0, "c", NULL, &must_be_new, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_fork(s, "a", 0, "c/d", NULL, &must_be_new, NULL), ERR_INVALID);
    assert_int_equal(sync_delete(s, "a", 0, NULL), 0); /* the forks live on */
    store_close(s);
    s = opened(dir, 0);
    check_seeded(s, "b", 1, 1, 5000);
    check_seeded(s, "b", 2, 2, 7000);
    check_stats(s, 2, 2, 12000);
    store_close(s);
    removed_dir(dir);
}

static void test_fork_of_damaged(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    put_seeded(s, "a", 1, 5000);
    store_close(s);
    sql_on_file(dir, "DELETE FROM blob_slices");
    s = opened(dir, 0);
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &must_be_new, NULL), ERR_STATE_CORRUPT);
    check_stats(s, 1, 1, 5000);
    store_close(s);
    removed_dir(dir);
}

static void test_rollback(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct answer a;
    put_seeded(s, "a", 1, 100);
    put_seeded(s, "a", 2, 100);
    assert_int_equal(sync_fork(s, "a", 1, NULL, NULL, &must_be_new, &a), 0);
    assert_int_equal(a.state.version, 3);
    assert_string_equal(a.state.parents, "[\"a@1\"]");
    assert_string_equal(a.state.origin, "{\"kind\":\"rollback\",\"to\":\"a@1\"}");
    answer_fini(&a);
    check_seeded(s, "a", 0, 1, 100);
    check_stats(s, 3, 2, 200);
    assert_int_equal(sync_fork(s, "a", 9, NULL, NULL, &must_be_new, NULL), ERR_STATE_NOT_FOUND);
    store_close(s);
}

/* ---- lists ---- */

static void put_filtered(struct store *s, const char *name, const char *model, const char *tags)
{
    struct store_state st = state_of(name, name, strlen(name));
    snprintf(st.model, sizeof st.model, "%s", model);
    st.tags = tags;
    assert_int_equal(sync_put(s, &st, name, strlen(name), STORE_EXISTS_NEW_VERSION, NULL), 0);
}

static void test_filters(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    put_filtered(s, "c", "m1", "[\"x\",\"y\",\"x\"]");
    put_filtered(s, "a", "m1", "[\"x\"]");
    put_filtered(s, "b", "m2", "[\"x\"]");
    put_filtered(s, "d", "m1", "[]");
    put_filtered(s, "e", "m1", "[\"x\"]");
    put_filtered(s, "e", "m2", "[\"y\"]"); /* only the latest counts */
    check_query(s, &(struct store_query){.limit = 9}, "a@1 b@1 c@1 d@1 e@2 ", false);
    check_query(s, &(struct store_query){.tag = "x", .limit = 9}, "a@1 b@1 c@1 ", false);
    check_query(s, &(struct store_query){.tag = "x", .limit = 2}, "a@1 b@1 ", true);
    check_query(s, &(struct store_query){.tag = "x", .limit = 2, .after = "b"}, "c@1 ", false);
    check_query(s, &(struct store_query){.tag = "x", .limit = 2, .prefix = "b"}, "b@1 ", false);
    check_query(s, &(struct store_query){.tag = "y", .limit = 9}, "c@1 e@2 ", false);
    check_query(s, &(struct store_query){.tag = "X", .limit = 9}, "", false);
    check_query(s, &(struct store_query){.model = "m1", .limit = 9}, "a@1 c@1 d@1 ", false);
    check_query(s, &(struct store_query){.model = "m1", .limit = 1, .after = "a"}, "c@1 ", true);
    check_query(s, &(struct store_query){.model = "m2", .limit = 9}, "b@1 e@2 ", false);
    check_query(s, &(struct store_query){.model = "m2", .tag = "x", .limit = 9}, "b@1 ", false);
    put_filtered(s, "a", "m1", "[\"x\"]");
    check_query(s, &(struct store_query){.newest = true, .limit = 3}, "a@2 e@2 d@1 ", true);
    check_query(s, &(struct store_query){.newest = true, .limit = 9}, "a@2 e@2 d@1 b@1 c@1 ",
                false);
    check_query(s, &(struct store_query){.newest = true, .limit = 9, .tag = "x", .model = "m1"},
                "a@2 c@1 ", false);
    check_query(s, &(struct store_query){.newest = true, .limit = 9, .prefix = "d"}, "d@1 ", false);
    const struct store_patch p = {.tags = "[\"q\"]"};
    assert_int_equal(sync_patch(s, "c", 0, &p, NULL), 0); /* filed anew */
    check_query(s, &(struct store_query){.tag = "x", .limit = 9}, "a@2 b@1 ", false);
    check_query(s, &(struct store_query){.tag = "q", .limit = 9}, "c@1 ", false);
    assert_int_equal(sync_delete(s, "e", 2, NULL), 0);
    check_query(s, &(struct store_query){.tag = "x", .limit = 9}, "a@2 b@1 e@1 ", false);
    store_close(s);
}

/* A record that makes no sense is listed, marked, and can be deleted; the others are unharmed. */
static void test_damaged_record(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct answer a;
    struct store_stats t;
    put_filtered(s, "a", "m", "[\"x\"]");
    put_filtered(s, "hurt", "m", "[\"x\"]");
    put_filtered(s, "z", "m", "[\"x\"]");
    store_close(s);
    sql_on_file(dir, "UPDATE states SET n_layer = -1 WHERE name = 'hurt'");
    s = opened(dir, 0);
    check_query(s, &(struct store_query){.limit = 9}, "a@1 hurt@1! z@1 ", false);
    check_query(s, &(struct store_query){.limit = 2}, "a@1 hurt@1! ", true);
    check_query(s, &(struct store_query){.tag = "x", .limit = 9}, "a@1 z@1 ", false);
    store_get_stats(s, &t);
    assert_int_equal(t.damaged, 3);
    assert_int_equal(sync_get(s, "hurt", 0, false, NULL), ERR_STATE_CORRUPT);
    assert_int_equal(sync_delete(s, "hurt", 0, &a), 0);
    assert_true(a.state.damaged);
    assert_string_equal(a.state.name, "hurt");
    answer_fini(&a);
    check_query(s, &(struct store_query){.limit = 9}, "a@1 z@1 ", false);
    check_stats(s, 2, 2, 2);
    store_close(s);
    removed_dir(dir);
}

/* ---- expiry ---- */

static void put_expiring(struct store *s, const char *name, int64_t expires_ms, bool pinned)
{
    struct store_state st = state_of(name, "", 0);
    st.expires_ms = expires_ms;
    st.pinned = pinned;
    assert_int_equal(put_text(s, &st, name, name, &new_version, NULL), 0);
}

static void test_expiry(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct clock c = CLOCK(1000);
    const struct store_options o = {.dir = dir, .wall_ms = clock_read, .wall_arg = &c};
    struct store *s = opened_with(&o);
    struct answer a;
    put_expiring(s, "soon", 1000000, false);
    put_expiring(s, "soon", 0, false);
    put_expiring(s, "soon", 1000000, false);
    put_expiring(s, "late", 2000000, false);
    put_expiring(s, "pinned", 1000000, true);
    put_expiring(s, "only", 1000000, false);
    check_query(s, &(struct store_query){.limit = 9}, "late@1 only@1 pinned@1 soon@3 ", false);
    struct store_state st = state_of("x", "", 0);
    st.expires_ms = 1000;
    assert_int_equal(put_text(s, &st, "x", "x", &must_be_new, NULL), ERR_INVALID);

    clock_set(&c, 999999);
    assert_int_equal(sync_get(s, "only", 0, true, &a), 0);
    assert_int_equal(a.state.created_ms, 1000);
    answer_fini(&a);
    clock_set(&c, 1000000); /* as if they had been deleted */
    assert_int_equal(sync_get(s, "only", 0, true, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_get(s, "only", 1, true, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_get(s, "soon", 3, true, NULL), ERR_STATE_NOT_FOUND);
    assert_int_equal(sync_get(s, "soon", 0, false, &a), 0);
    assert_int_equal(a.state.version, 2);
    answer_fini(&a);
    check_query(s, &(struct store_query){.limit = 9}, "late@1 pinned@1 soon@2 ", false);
    check_query(s, &(struct store_query){.tag = "a", .limit = 9}, "late@1 pinned@1 soon@2 ", false);
    check_query(s, &(struct store_query){.model = "tiny", .limit = 9}, "late@1 pinned@1 soon@2 ",
                false);
    check_versions(s, "soon", 0, 9, "soon@2 ", false);
    st.expires_ms = 0;
    assert_int_equal(put_text(s, &st, "only", "again", &must_be_new, &a), 0);
    assert_int_equal(a.state.version, 2); /* never used again */
    answer_fini(&a);
    store_close(s);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM states"), 4);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM state_tags"), 4);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 4);
    removed_dir(dir);
}

/* Nobody asks for anything: the thread looks at the clock by itself. */
static void test_expired_is_removed_when_idle(void **state)
{
    (void)state;
    struct clock c = CLOCK(1000);
    const struct store_options o = {.wall_ms = clock_read, .wall_arg = &c};
    struct store *s = opened_with(&o);
    struct store_stats t = {0};
    put_expiring(s, "a", 1010, false); /* so it looks every 10 ms */
    put_expiring(s, "b", 0, false);
    check_stats(s, 2, 2, 2);
    pthread_mutex_lock(&c.lock);
    for (c.ms = 1010; t.expired == 0; store_get_stats(s, &t))
        pthread_cond_wait(&c.read, &c.lock);
    pthread_mutex_unlock(&c.lock);
    check_stats(s, 1, 1, 1);
    store_close(s);
}

/* ---- quotas ---- */

static void test_quota_of_states(void **state)
{
    (void)state;
    struct clock c = CLOCK(1000);
    const struct store_options o = {.max_states = 3, .wall_ms = clock_read, .wall_arg = &c};
    struct store *s = opened_with(&o);
    struct answer a;
    struct store_stats t;
    struct store_state st = state_of("x", "", 0);
    put_expiring(s, "a", 2000, false);
    put_plain(s, "b", "b");
    put_plain(s, "b", "b");
    assert_int_equal(put_text(s, &st, "c", "c", &new_version, &a), ERR_STORAGE_FULL);
    assert_non_null(strstr(a.err.msg, "quota of 3 states"));
    assert_int_equal(sync_fork(s, "b", 0, "c", NULL, &must_be_new, NULL), ERR_STORAGE_FULL);
    check_stats(s, 3, 2, 2);
    store_get_stats(s, &t);
    assert_int_equal(t.max_states, 3);
    assert_int_equal(t.refused_full, 2);
    clock_set(&c, 2000); /* what is over makes room */
    assert_int_equal(sync_fork(s, "b", 0, "c", NULL, &must_be_new, NULL), 0);
    assert_int_equal(sync_delete(s, "b", 1, NULL), 0);
    put_plain(s, "d", "d");
    assert_int_equal(put_text(s, &st, "e", "e", &new_version, NULL), ERR_STORAGE_FULL);
    store_close(s);
}

static void test_quota_of_bytes(void **state)
{
    (void)state;
    const size_t unit[] = {1000, 5 << 20}; /* a small and a large request */
    for (size_t i = 0; i < 2; i++) {
        char *dir = made_dir();
        size_t n = unit[i];
        const struct store_options o = {.dir = dir, .max_bytes = 3 * n};
        struct store *s = opened_with(&o);
        struct answer a;
        put_seeded(s, "a", 1, n);
        put_seeded(s, "b", 2, n);
        put_seeded(s, "b", 2, n); /* the same bytes again */
        void *blob = seeded_bytes(3, n + 1);
        struct store_state st = state_of("c", blob, n + 1);
        assert_int_equal(sync_put(s, &st, blob, n + 1, STORE_EXISTS_ERROR, &a), ERR_STORAGE_FULL);
        assert_non_null(strstr(a.err.msg, "quota"));
        free(blob);
        check_stats(s, 3, 2, 2 * n);
        put_seeded(s, "c", 3, n); /* exactly full */
        check_stats(s, 4, 3, 3 * n);
        assert_int_equal(sync_fork(s, "a", 0, "d", NULL, &must_be_new, NULL), 0);
        put_seeded(s, "d", 1, n);
        store_close(s);
        s = opened_with(&(struct store_options){.dir = dir, .max_bytes = n});
        st = state_of("e", "x", 1); /* a quota below what is there */
        assert_int_equal(sync_put(s, &st, "x", 1, STORE_EXISTS_ERROR, NULL), ERR_STORAGE_FULL);
        check_seeded(s, "c", 0, 3, n);
        store_close(s);
        assert_int_equal(int_on_file(dir, "SELECT count(*) FROM blobs"), 3);
        removed_dir(dir);
    }
}

/* ---- idempotency keys ---- */

static void check_made(const struct answer *a, const char *name, uint64_t version)
{
    assert_int_equal(a->err.code, 0);
    assert_string_equal(a->state.name, name);
    assert_int_equal(a->state.version, version);
}

static void test_keys(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct clock c = CLOCK(1000);
    const struct store_options o = {.dir = dir, .wall_ms = clock_read, .wall_arg = &c};
    const struct store_write once = {.key = "k", .request_sha256 = HASH_A};
    const struct store_write other = {.key = "k", .request_sha256 = HASH_B};
    struct store *s = opened_with(&o);
    struct store_state st = state_of("a", "", 0);
    struct answer a;
    assert_int_equal(sync_find_key(s, "k", HASH_A, &a), 0);
    assert_string_equal(a.state.name, ""); /* not known */
    assert_int_equal(put_text(s, &st, "a", "one", &once, &a), 0);
    check_made(&a, "a", 1);
    answer_fini(&a);
    assert_int_equal(put_text(s, &st, "a", "two", &once, &a), 0); /* not written */
    check_made(&a, "a", 1);
    answer_fini(&a);
    check_stats(s, 1, 1, 3);
    store_close(s);

    s = opened_with(&o);
    assert_int_equal(sync_find_key(s, "k", HASH_A, &a), 0);
    check_made(&a, "a", 1);
    answer_fini(&a);
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &once, &a), 0);
    check_made(&a, "a", 1);
    answer_fini(&a);
    assert_int_equal(sync_find_key(s, "k", HASH_B, NULL), ERR_KEY_REUSED);
    assert_int_equal(put_text(s, &st, "a", "two", &other, NULL), ERR_KEY_REUSED);
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &other, NULL), ERR_KEY_REUSED);
    check_stats(s, 1, 1, 3);
    clock_set(&c, 1000 + STORE_KEY_MS - 1);
    assert_int_equal(sync_find_key(s, "k", HASH_B, NULL), ERR_KEY_REUSED);
    clock_set(&c, 1000 + STORE_KEY_MS); /* over: the key may be used anew */
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &other, &a), 0);
    check_made(&a, "b", 1);
    answer_fini(&a);
    assert_int_equal(sync_delete(s, "b", 0, NULL), 0);
    assert_int_equal(sync_fork(s, "a", 0, "b", NULL, &other, NULL), ERR_STATE_NOT_FOUND);
    clock_set(&c, 1000 + 3 * STORE_KEY_MS);
    store_close(s);
    assert_int_equal(int_on_file(dir, "SELECT count(*) FROM write_keys"), 0); /* cleaned */
    removed_dir(dir);
}

static void test_bad_keys(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    char key[STORE_KEY_MAX + 2];
    memset(key, 'k', sizeof key);
    key[STORE_KEY_MAX + 1] = 0;
    assert_int_equal(sync_find_key(s, key, HASH_A, NULL), ERR_INVALID);
    key[STORE_KEY_MAX] = 0;
    assert_int_equal(sync_find_key(s, key, HASH_A, NULL), 0);
    assert_int_equal(sync_find_key(s, "", HASH_A, NULL), ERR_INVALID);
    assert_int_equal(sync_find_key(s, "k", NULL, NULL), ERR_INVALID);
    assert_int_equal(sync_find_key(s, "k", "ab", NULL), ERR_INVALID);
    store_close(s);
}

static void test_keys_are_bounded(void **state)
{
    (void)state;
    const int n = STORE_KEYS_MAX + 7;
    const struct q_env env = {.now_ms = 1000};
    struct store_state made = {.name = "a", .version = 1}, out;
    struct err e = {0};
    struct db db;
    char key[16];
    int64_t rows;
    assert_int_equal(db_open(&db, NULL, &e), 0);
    assert_int_equal(db_migrate(&db, &e), 0);
    assert_int_equal(db_begin(&db, DB_LAZY, &e), 0);
    for (int i = 0; i < n; i++) {
        const struct store_write how = {.key = key, .request_sha256 = HASH_A};
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(q_key_add(&db, &env, &how, &made, &e), 0);
    }
    assert_int_equal(db_commit(&db, &e), 0);
    assert_int_equal(db_int(&db, &rows, 0, &e, "SELECT count(*) FROM write_keys", ""), 0);
    assert_int_equal(rows, STORE_KEYS_MAX);
    const struct store_write oldest = {.key = "6", .request_sha256 = HASH_A};
    const struct store_write kept = {.key = "7", .request_sha256 = HASH_A};
    assert_int_equal(q_key_find(&db, &env, &oldest, &out, &e), 0);
    assert_int_equal(q_key_find(&db, &env, &kept, &out, &e), ERR_STATE_NOT_FOUND); /* is known */
    db_close(&db);
}

/* ---- the first schema ---- */

/* What the first release wrote: names, blobs and states as they were. */
static const char first_schema[] =
    "CREATE TABLE names (name TEXT PRIMARY KEY, last_version INTEGER NOT NULL CHECK (last_version "
    "> "
    "0)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE blobs (id INTEGER PRIMARY KEY, sha256 TEXT UNIQUE CHECK (length(sha256) = 64),"
    " bytes INTEGER NOT NULL CHECK (bytes > 0)) STRICT;"
    "CREATE TABLE blob_slices (blob INTEGER NOT NULL REFERENCES blobs(id), seq INTEGER NOT NULL "
    "CHECK"
    " (seq >= 0), data BLOB NOT NULL, PRIMARY KEY (blob, seq)) STRICT;"
    "CREATE TABLE states (id INTEGER PRIMARY KEY, name TEXT NOT NULL REFERENCES names(name), "
    "version"
    " INTEGER NOT NULL CHECK (version > 0), sha256 TEXT NOT NULL REFERENCES blobs(sha256) "
    "DEFERRABLE"
    " INITIALLY DEFERRED, bytes INTEGER NOT NULL, model TEXT NOT NULL, fingerprint TEXT NOT NULL,"
    " weights_type TEXT NOT NULL, n_layer INTEGER NOT NULL, n_embd INTEGER NOT NULL, head_size "
    "INTEGER"
    " NOT NULL, n_tokens INTEGER NOT NULL, has_logits INTEGER NOT NULL, created_ms INTEGER NOT "
    "NULL,"
    " parents TEXT NOT NULL, origin TEXT NOT NULL, tags TEXT NOT NULL, norms TEXT NOT NULL,"
    " UNIQUE (name, version)) STRICT;"
    "CREATE INDEX states_sha256 ON states(sha256);"
    "INSERT INTO names VALUES ('a', 7), ('gone', 4);"
    "INSERT INTO blobs VALUES (1, '" HASH_A "', 3);"
    "INSERT INTO blob_slices VALUES (1, 0, x'616263');"
    "INSERT INTO states VALUES (1, 'a', 5, '" HASH_A "', 3, 'tiny', 'f', 'bf16', 4, 192, 32, 11, 1,"
    " 1600000000000, '[]', '{}', '[\"x\",\"y\"]', '{}'),"
    " (2, 'a', 7, '" HASH_A
    "', 3, 'tiny', 'f', 'bf16', 4, 192, 32, 12, 1, 1600000000001, '[]', '{}',"
    " '[\"y\"]', '{}');"
    "PRAGMA user_version = 1; PRAGMA application_id = 0x44725374;";

static void test_migration_from_first(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct answer a;
    sql_on_file(dir, first_schema);
    struct store *s = opened(dir, 0);
    check_stats(s, 2, 1, 3);
    check_versions(s, "a", 0, 9, "a@7 a@5 ", false);
    check_query(s, &(struct store_query){.tag = "y", .limit = 9}, "a@7 ", false);
    check_query(s, &(struct store_query){.tag = "x", .limit = 9}, "", false);
    check_query(s, &(struct store_query){.model = "tiny", .limit = 9}, "a@7 ", false);
    assert_int_equal(sync_get(s, "a", 5, true, &a), 0);
    assert_memory_equal(a.blob, "abc", 3);
    assert_int_equal(a.state.revision, 5);
    assert_int_equal(a.state.created_ms, 1600000000000);
    assert_int_equal(a.state.expires_ms, 0);
    assert_false(a.state.pinned);
    assert_string_equal(a.state.description, "");
    assert_string_equal(a.state.tags, "[\"x\",\"y\"]");
    answer_fini(&a);
    assert_int_equal(sync_fork(s, "a", 5, NULL, NULL, &must_be_new, &a), 0);
    assert_int_equal(a.state.version, 8);
    assert_int_equal(a.state.revision, 8);
    answer_fini(&a);
    struct store_state st = state_of("gone", "", 0);
    assert_int_equal(put_text(s, &st, "gone", "x", &must_be_new, &a), 0);
    assert_int_equal(a.state.version, 5); /* counted on */
    answer_fini(&a);
    store_close(s);
    assert_int_equal(int_on_file(dir, "PRAGMA user_version"), 5);
    removed_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch),
        cmocka_unit_test(test_tags_are_strings),
        cmocka_unit_test(test_if_revision),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_fork_of_damaged),
        cmocka_unit_test(test_rollback),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_damaged_record),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_expired_is_removed_when_idle),
        cmocka_unit_test(test_quota_of_states),
        cmocka_unit_test(test_quota_of_bytes),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_keys_are_bounded),
        cmocka_unit_test(test_migration_from_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
