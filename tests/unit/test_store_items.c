/* Items of the store: with bytes and without, across restarts and from the tables of earlier schemas. */
#include "store/migrate.h"
#include "store/q_items.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"
#include "tests/lib/store_sync.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGE ((size_t)9 << 20) /* its own queue, ten slices */

/* A request and its answer, waited for. */
struct reply {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done, has_more;
    struct err err;
    struct store_item first; /* without meta: */
    char meta[64], names[64];
    void *data;
    size_t n, bytes;
};

static void on_items(void *arg, const struct err *e, const struct store_item *items, size_t n,
                     bool has_more, void *data, size_t bytes)
{
    struct reply *r = arg;
    pthread_mutex_lock(&r->lock);
    r->err = *e;
    r->n = n;
    r->has_more = has_more;
    r->data = data;
    r->bytes = bytes;
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(r->names);
        snprintf(r->names + used, sizeof r->names - used, "%s%s ", items[i].name,
                 items[i].meta ? "" : "!");
    }
    if (n) {
        r->first = items[0];
        snprintf(r->meta, sizeof r->meta, "%s", items[0].meta ? items[0].meta : "");
        r->first.meta = NULL;
    }
    r->done = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

static struct reply begin(void)
{
    return (struct reply){.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
}

static int end(struct reply *r, int rc, const struct err *e)
{
    if (rc < 0) {
        r->err = *e;
        return rc;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->done)
        pthread_cond_wait(&r->wake, &r->lock);
    pthread_mutex_unlock(&r->lock);
    return r->err.code;
}

static struct store_item item_of(enum store_kind kind, const char *name, uint64_t seed, size_t n)
{
    void *bytes = seeded_bytes(seed, n);
    struct store_state s = state_of("x", bytes, n);
    struct store_item i = {
        .kind = kind, .bytes = n, .model = "m", .fingerprint = "f", .meta = "{}"};
    snprintf(i.name, sizeof i.name, "%s", name);
    memcpy(i.sha256, s.sha256, sizeof i.sha256);
    free(bytes);
    return i;
}

static int put(struct store *s, const struct store_item *i, uint64_t seed,
               struct store_item_write how, struct reply *r)
{
    struct err e = {0};
    void *data = seed ? seeded_bytes(seed, i->bytes) : NULL;
    *r = begin();
    int rc = store_put_item_take(s, i, data, &how, on_items, r, &e);
    if (rc < 0)
        free(data);
    return end(r, rc, &e);
}

static int get(struct store *s, enum store_kind kind, const char *name, bool data, struct reply *r)
{
    struct err e = {0};
    *r = begin();
    return end(r, store_get_item(s, kind, name, data, on_items, r, &e), &e);
}

static int drop(struct store *s, enum store_kind kind, const char *name, uint64_t revision)
{
    struct err e = {0};
    struct reply r = begin();
    return end(&r, store_delete_item(s, kind, name, revision, on_items, &r, &e), &e);
}

static void check_list(struct store *s, struct store_item_query q, const char *want, bool more)
{
    struct err e = {0};
    struct reply r = begin();
    assert_int_equal(end(&r, store_list_items(s, &q, on_items, &r, &e), &e), 0);
    assert_string_equal(r.names, want);
    assert_int_equal(r.has_more, more);
}

static void check_bytes(struct store *s, enum store_kind kind, const char *name, uint64_t seed,
                        size_t n)
{
    struct reply r;
    void *want = seeded_bytes(seed, n);
    assert_int_equal(get(s, kind, name, true, &r), 0);
    assert_int_equal(r.bytes, n);
    assert_memory_equal(r.data, want, n);
    free(r.data);
    free(want);
}

static void test_life(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct reply r;
    struct store_item a = item_of(STORE_CONDITION, "a", 1, 100);
    struct store_item big = item_of(STORE_DIFFUSER, "big", 2, LARGE);
    assert_int_equal(put(s, &a, 1, (struct store_item_write){0}, &r), 0);
    uint64_t first = r.first.revision;
    assert_int_equal(put(s, &a, 1, (struct store_item_write){0}, &r), ERR_NAME_EXISTS);
    assert_int_equal(put(s, &big, 2, (struct store_item_write){0}, &r), 0);
    check_bytes(s, STORE_CONDITION, "a", 1, 100);
    check_bytes(s, STORE_DIFFUSER, "big", 2, LARGE);
    check_stats(s, 0, 2, 100 + LARGE);
    assert_int_equal(get(s, STORE_DIFFUSER, "a", false, &r), ERR_DIFFUSER_NOT_FOUND);
    assert_int_equal(get(s, STORE_CONDITION, "b", true, &r), ERR_CONDITION_NOT_FOUND);
    /* the record alone; then other bytes */
    a.meta = "{\"x\":1}";
    assert_int_equal(put(s, &a, 0, (struct store_item_write){true, first + 7}, &r),
                     ERR_VERSION_CONFLICT);
    assert_int_equal(put(s, &a, 0, (struct store_item_write){true, first}, &r), 0);
    assert_true(r.first.revision > first);
    assert_string_equal(r.meta, "{\"x\":1}");
    check_bytes(s, STORE_CONDITION, "a", 1, 100);
    struct store_item b = item_of(STORE_CONDITION, "a", 3, 50);
    assert_int_equal(put(s, &b, 3, (struct store_item_write){.replace = true}, &r), 0);
    check_stats(s, 0, 2, 50 + LARGE);
    store_close(s);
    s = opened(dir, 0);
    check_bytes(s, STORE_CONDITION, "a", 3, 50);
    check_bytes(s, STORE_DIFFUSER, "big", 2, LARGE);
    assert_int_equal(drop(s, STORE_CONDITION, "a", first), ERR_VERSION_CONFLICT);
    assert_int_equal(drop(s, STORE_CONDITION, "a", 0), 0);
    assert_int_equal(drop(s, STORE_CONDITION, "a", 0), ERR_CONDITION_NOT_FOUND);
    assert_int_equal(drop(s, STORE_DIFFUSER, "big", 0), 0);
    check_stats(s, 0, 0, 0);
    /* the revision of what is gone is not given again */
    assert_int_equal(put(s, &b, 3, (struct store_item_write){0}, &r), 0);
    assert_true(r.first.revision > first + 2);
    store_close(s);
    removed_dir(dir);
}

static void test_list(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct reply r;
    for (int i = 0; i < 5; i++) {
        char name[2] = {(char)('e' - i), 0};
        struct store_item x = item_of(STORE_CONDITION, name, 5, 10);
        snprintf(x.fingerprint, sizeof x.fingerprint, "%s", i % 2 ? "odd" : "even");
        assert_int_equal(put(s, &x, 5, (struct store_item_write){0}, &r), 0);
    }
    check_list(s, (struct store_item_query){.kind = STORE_CONDITION, .limit = 3}, "a b c ", true);
    check_list(s, (struct store_item_query){.kind = STORE_CONDITION, .after = "c", .limit = 2},
               "d e ", false);
    check_list(s,
               (struct store_item_query){.kind = STORE_CONDITION, .fingerprint = "odd", .limit = 9},
               "b d ", false);
    check_list(s, (struct store_item_query){.kind = STORE_DIFFUSER, .limit = 9}, "", false);
    check_stats(s, 0, 1, 10); /* one blob for all */
    assert_int_equal(drop(s, STORE_CONDITION, "a", 0), 0);
    check_stats(s, 0, 1, 10);
    check_bytes(s, STORE_CONDITION, "b", 5, 10);
    /* a state of the same bytes holds them, too */
    put_seeded(s, "state", 5, 10);
    for (const char *n = "bcde"; *n; n++)
        assert_int_equal(drop(s, STORE_CONDITION, (char[]){*n, 0}, 0), 0);
    check_seeded(s, "state", 1, 5, 10);
    store_close(s);
}

/* ---- without bytes ---- */

static int put_word(struct store *s, enum store_kind kind, const char *name, const char *status,
                    bool replace, struct reply *r)
{
    struct store_item i = {.kind = kind, .type = "t", .meta = "{\"n\": 1}"};
    snprintf(i.name, sizeof i.name, "%s", name);
    snprintf(i.status, sizeof i.status, "%s", status);
    return put(s, &i, 0, (struct store_item_write){.replace = replace}, r);
}

static void test_without_bytes(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct reply r;
    assert_int_equal(put_word(s, STORE_JOB, "z", "queued", false, &r), 0);
    uint64_t first = r.first.seq;
    assert_int_equal(r.first.revision, first);
    assert_int_equal(put_word(s, STORE_DATASET, "z", "", false, &r), 0);
    assert_int_equal(put_word(s, STORE_DATASET, "z", "", false, &r), ERR_DATASET_EXISTS);
    assert_int_equal(put_word(s, STORE_JOB, "z", "", false, &r), ERR_NAME_EXISTS);
    assert_int_equal(put_word(s, STORE_JOB, "c", "", true, &r), ERR_JOB_NOT_FOUND);
    assert_int_equal(put_word(s, STORE_JOB, "b", "running", false, &r), 0);
    uint64_t second = r.first.seq;
    assert_true(second > first);
    assert_int_equal(put_word(s, STORE_JOB, "z", "running", true, &r), 0);
    check_stats(s, 0, 0, 0);
    store_close(s);
    s = opened(dir, 0);
    assert_int_equal(get(s, STORE_JOB, "z", true, &r), 0);
    assert_string_equal(r.meta, "{\"n\": 1}");
    assert_string_equal(r.first.status, "running");
    assert_int_equal(r.first.seq, first);
    assert_true(r.first.revision > second);
    assert_true(!r.data && r.bytes == 0);
    struct store_item_query q = {.kind = STORE_JOB, .newest = true, .limit = 9};
    check_list(s, q, "b z ", false);
    q.status = "queued";
    check_list(s, q, "", false);
    q = (struct store_item_query){.kind = STORE_JOB, .newest = true, .limit = 1};
    check_list(s, q, "b ", true);
    q.before = second;
    q.type = "t";
    q.status = "running";
    check_list(s, q, "z ", false);
    q.type = "u";
    check_list(s, q, "", false);
    q.type = "a word that is longer than a type may be";
    struct err e;
    assert_int_equal(store_list_items(s, &q, on_items, &r, &e), ERR_INVALID);
    assert_int_equal(drop(s, STORE_JOB, "b", 0), 0);
    assert_int_equal(drop(s, STORE_JOB, "b", 0), ERR_JOB_NOT_FOUND);
    assert_int_equal(put_word(s, STORE_JOB, "b", "", false, &r), 0);
    assert_true(r.first.seq > second);
    /* bytes can come later */
    struct store_item with = item_of(STORE_DATASET, "z", 4, 30);
    assert_int_equal(put(s, &with, 4, (struct store_item_write){.replace = true}, &r), 0);
    check_bytes(s, STORE_DATASET, "z", 4, 30);
    check_stats(s, 0, 1, 30);
    store_close(s);
    removed_dir(dir);
}

/* ---- from earlier schemas ---- */

static void written_by(const char *dir, int version, const char *sql)
{
    struct db db;
    struct err e = {0};
    assert_int_equal(db_open(&db, dir, &e), 0);
    assert_int_equal(db_migrate_to(&db, version, &e), 0);
    db_close(&db);
    sql_on_file(dir, sql);
}

static const char some_documents[] =
    "INSERT INTO documents VALUES (1, 'job', 'a', 'train_state', 'running', 10, 11, '{}'),"
    " (3, 'job', 'b', 'train_state', 'queued', 12, 13, '{\"n\": 2}'),"
    " (5, 'dataset', 'a', '', '', 14, 15, '{}');"
    "DELETE FROM documents WHERE seq = 5;";

static void check_documents(struct store *s, uint64_t first_seq)
{
    struct reply r;
    struct store_item_query q = {.kind = STORE_JOB, .newest = true, .limit = 9};
    check_list(s, q, "b a ", false);
    q.status = "queued";
    check_list(s, q, "b ", false);
    assert_int_equal(get(s, STORE_JOB, "b", true, &r), 0);
    assert_string_equal(r.meta, "{\"n\": 2}");
    assert_string_equal(r.first.type, "train_state");
    assert_int_equal(r.first.created_ms, 12);
    assert_int_equal(r.first.changed_ms, 13);
    assert_int_equal(r.first.seq, first_seq + 2);
    assert_int_equal(get(s, STORE_DATASET, "a", true, &r), ERR_DATASET_NOT_FOUND);
}

static void test_from_documents(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct reply r;
    written_by(dir, 3, some_documents);
    struct store *s = opened(dir, 0);
    check_documents(s, 1);
    assert_int_equal(put_word(s, STORE_DATASET, "c", "", false, &r), 0);
    assert_int_equal(r.first.seq, 6); /* of the one that went, it is not given again */
    store_close(s);
    removed_dir(dir);
}

static void test_from_items(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct reply r;
    char sql[2048];
    struct store_item a = item_of(STORE_CONDITION, "a", 7, 10);
    snprintf(
        sql, sizeof sql,
        "%s INSERT INTO blobs VALUES (1, '%s', 10);"
        "INSERT INTO blob_slices VALUES (1, 0, zeroblob(10));"
        "INSERT INTO items VALUES (4, 'condition', 'a', '%s', 10, 'm', 'f', '{}', 1, 2),"
        " (8, 'diffuser', 'd', '%s', 10, 'm', 'f', '{\"x\":1}', 3, 4);"
        "DELETE FROM items WHERE id = 8;"
        "INSERT INTO items VALUES (7, 'diffuser', 'd', '%s', 10, 'm', 'f', '{\"x\":1}', 3, 4);",
        some_documents, a.sha256, a.sha256, a.sha256, a.sha256);
    written_by(dir, 4, sql);
    struct store *s = opened(dir, 0);
    check_documents(s, 9);
    check_stats(s, 0, 1, 10);
    assert_int_equal(get(s, STORE_CONDITION, "a", true, &r), 0);
    assert_int_equal(r.first.revision, 4);
    assert_int_equal(r.bytes, 10);
    free(r.data);
    assert_int_equal(get(s, STORE_DIFFUSER, "d", false, &r), 0);
    assert_int_equal(r.first.revision, 7);
    assert_string_equal(r.meta, "{\"x\":1}");
    assert_int_equal(put_word(s, STORE_DATASET, "c", "", false, &r), 0);
    assert_int_equal(r.first.seq, 14); /* 8 + 5, both given once */
    assert_int_equal(drop(s, STORE_CONDITION, "a", 4), 0);
    assert_int_equal(drop(s, STORE_DIFFUSER, "d", 7), 0);
    check_stats(s, 0, 0, 0);
    store_close(s);
    removed_dir(dir);
}

static void test_refused(void **state)
{
    (void)state;
    struct store *s = opened_with(&(struct store_options){.max_bytes = 100, .max_states = 1});
    struct reply r;
    struct err e;
    struct store_item a = item_of(STORE_CONDITION, "a", 1, 90),
                      b = item_of(STORE_CONDITION, "b", 2, 20);
    put_seeded(s, "state", 9, 5);
    assert_int_equal(put(s, &a, 1, (struct store_item_write){0}, &r), 0); /* is no state */
    assert_int_equal(put(s, &b, 2, (struct store_item_write){0}, &r), ERR_STORAGE_FULL);
    check_stats(s, 1, 2, 95);
    static const char *const bad[] = {"", "a b", "a@1", "\xc3\xa4", "a/b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(get(s, STORE_CONDITION, bad[i], false, &r), ERR_INVALID);
        assert_string_equal(r.err.param, "name");
    }
    assert_int_equal(put(s, &b, 0, (struct store_item_write){0}, &r), ERR_INVALID);
    assert_int_equal(put(s, &b, 0, (struct store_item_write){.replace = true}, &r),
                     ERR_CONDITION_NOT_FOUND);
    struct store_item_query q = {.kind = STORE_CONDITION};
    assert_int_equal(store_list_items(s, &q, on_items, &r, &e), ERR_INVALID);
    store_close(s);
}

static void test_damage(void **state)
{
    (void)state;
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    struct reply r;
    for (const char *n = "abc"; *n; n++) {
        struct store_item x = item_of(STORE_CONDITION, (char[]){*n, 0}, (uint64_t)*n, 10);
        assert_int_equal(put(s, &x, (uint64_t)*n, (struct store_item_write){0}, &r), 0);
    }
    store_close(s);
    sql_on_file(dir, "UPDATE items SET meta = '{' WHERE name = 'a';"
                     "DELETE FROM blob_slices WHERE blob = (SELECT id FROM blobs WHERE sha256 ="
                     " (SELECT sha256 FROM items WHERE name = 'b'));");
    s = opened(dir, 0);
    assert_int_equal(get(s, STORE_CONDITION, "a", false, &r), ERR_STATE_CORRUPT);
    assert_int_equal(get(s, STORE_CONDITION, "b", false, &r), 0);
    assert_int_equal(get(s, STORE_CONDITION, "b", true, &r), ERR_STATE_CORRUPT);
    check_bytes(s, STORE_CONDITION, "c", 'c', 10);
    check_list(s, (struct store_item_query){.kind = STORE_CONDITION, .limit = 9}, "a! b c ", false);
    /* written again it is whole again; what is damaged can be deleted */
    struct store_item b = item_of(STORE_CONDITION, "b2", 'b', 10);
    assert_int_equal(put(s, &b, 'b', (struct store_item_write){0}, &r), 0);
    check_bytes(s, STORE_CONDITION, "b", 'b', 10);
    assert_int_equal(drop(s, STORE_CONDITION, "a", 0), 0);
    store_close(s);
    removed_dir(dir);
}

/* ---- without memory ---- */

struct asked {
    struct store *s;
    struct store_item item;
    void *data;
    struct db *db;
};

static int submit_put(void *arg)
{
    struct asked *a = arg;
    struct err e;
    static struct reply r;
    r = begin();
    return store_put_item_take(a->s, &a->item, NULL, &(struct store_item_write){true, 999},
                               on_items, &r, &e);
}

static int submit_get(void *arg)
{
    struct asked *a = arg;
    struct err e;
    static struct reply r;
    r = begin();
    return store_get_item(a->s, STORE_CONDITION, "none", false, on_items, &r, &e);
}

static int steps(void *arg)
{
    struct asked *a = arg;
    struct err e = {0};
    struct q_env env = {.now_ms = 1};
    struct q_counts change;
    struct store_item out = {0};
    struct q_items page = {0};
    struct q_item_put p = {.item = &a->item, .data = a->data, .how = {.replace = false}};
    int rc = db_begin(a->db, DB_LAZY, &e);
    q_item_put_begin(&p);
    while (rc == 0 && (rc = q_item_put_step(a->db, &env, &p, &out, &change, &e)) > 0)
        rc = 0;
    q_item_fini(&out);
    if (rc == 0)
        rc = q_item_find(a->db, &a->item, &out, &e);
    q_item_fini(&out);
    struct store_item any = {.kind = a->item.kind};
    if (rc == 0)
        rc = q_item_list(a->db, &any, false, 9, &page, &e);
    q_items_fini(&page);
    db_rollback(a->db);
    assert_int_equal(rc, e.code);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    struct db db;
    struct err e;
    struct asked a = {.s = opened(NULL, 0), .item = item_of(STORE_CONDITION, "a", 1, 100)};
    assert_int_equal(alloc_sweep(submit_put, &a), 2);
    assert_int_equal(alloc_sweep(submit_get, &a), 1);
    store_close(a.s);
    assert_int_equal(db_open(&db, NULL, &e), 0);
    assert_int_equal(db_migrate(&db, &e), 0);
    a.db = &db;
    a.data = seeded_bytes(1, 100);
    assert_true(alloc_sweep(steps, &a) >= 4);
    free(a.data);
    db_close(&db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),          cmocka_unit_test(test_list),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_damage),
        cmocka_unit_test(test_without_bytes), cmocka_unit_test(test_from_documents),
        cmocka_unit_test(test_from_items),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
