/* Without memory: every allocation of our own code in the store fails once, on the caller's side
 * and (by calling what the store's thread calls) on the thread's. */
#include "store/migrate.h"
#include "store/q_states.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"
#include "tests/lib/store_sync.h"

#include <stdlib.h>

static int open_and_close(void *arg)
{
    struct store *s = NULL;
    struct err e = {0};
    int rc = store_open(&(struct store_options){.dir = arg}, &s, &e);
    assert_int_equal(rc, e.code);
    assert_true((s == NULL) == (rc < 0));
    store_close(s);
    return rc;
}

static void test_open(void **state)
{
    (void)state;
    char *dir = made_dir();
    assert_true(alloc_sweep(open_and_close, NULL) >= 1);
    assert_true(alloc_sweep(open_and_close, dir) >= 2); /* the path, too */
    removed_dir(dir);
}

static void on_state(void *arg, const struct err *e, const struct store_state *st, void *blob,
                     size_t n)
{
    (void)arg, (void)e, (void)st, (void)n;
    free(blob);
}

static void on_list(void *arg, const struct err *e, const struct store_state *st, size_t n,
                    bool more)
{
    (void)arg, (void)e, (void)st, (void)n, (void)more;
}

struct put_args {
    struct store *s;
    void *blob; /* the next to give away */
};

static int submit_put(void *arg)
{
    struct put_args *a = arg;
    struct err e;
    struct store_state st = state_of("a", a->blob, 100);
    int rc =
        store_put_state_take(a->s, &st, a->blob, 100, STORE_EXISTS_NEW_VERSION, on_state, NULL, &e);
    if (rc == 0) { /* taken: make another, which the sweep must not disturb */
        alloc_fail_stop();
        a->blob = seeded_bytes(2, 100);
    }
    return rc;
}

static int submit_get(void *arg)
{
    struct err e;
    return store_get_state(arg, "a", 0, true, on_state, NULL, &e);
}

static int submit_list(void *arg)
{
    struct err e;
    return store_list_states(arg, "", "", 10, on_list, NULL, &e);
}

static void test_submit(void **state)
{
    (void)state;
    struct store *s = opened(NULL, 0);
    struct put_args a = {s, seeded_bytes(1, 100)};
    int rc;
    for (size_t n = 1; n <= 2; n++) { /* the request, the copy of the texts */
        alloc_fail_start(n, false);
        rc = submit_put(&a);
        alloc_fail_stop();
        assert_int_equal(rc, ERR_NOMEM);
    }
    alloc_fail_start(3, false);
    assert_int_equal(submit_put(&a), 0);
    free(a.blob);
    assert_true(alloc_sweep(submit_get, s) >= 1);
    assert_true(alloc_sweep(submit_list, s) >= 1);
    store_close(s);
}

/* A put of one slice, whole or not at all. */
static int put(struct db *db, const struct store_state *st, const void *blob)
{
    struct err e = {0};
    struct store_state out = {0};
    struct q_counts change;
    struct q_put p = {0};
    int rc = 1;
    while (rc > 0 && q_put_only_reads(&p))
        rc = q_put_step(db, &p, st, blob, STORE_EXISTS_NEW_VERSION, &out, &change, &e);
    assert_int_equal(db_begin(db, DB_DURABLE, NULL), 0);
    while (rc > 0)
        rc = q_put_step(db, &p, st, blob, STORE_EXISTS_NEW_VERSION, &out, &change, &e);
    if (rc == 0)
        rc = db_commit(db, &e);
    else
        db_rollback(db);
    assert_int_equal(rc, e.code);
    q_state_fini(&out);
    return rc;
}

static int put_find_list_delete(void *arg)
{
    struct db *db = arg;
    struct err e = {0};
    struct store_state st = state_of("a", "abc", 3), found = {0}, gone = {0}, *list = NULL;
    struct q_counts change;
    size_t n = 0;
    bool more;
    st.bytes = 3;
    int rc = put(db, &st, "abc");
    if (rc == 0)
        rc = q_state_find(db, "a", 0, &found, &e);
    if (rc == 0)
        rc = q_state_list(db, "", "", 10, &list, &n, &more, &e);
    assert_int_equal(db_begin(db, DB_DURABLE, NULL), 0);
    if (rc == 0)
        rc = q_state_delete(db, "a", 0, &gone, &change, &e);
    assert_int_equal(db_commit(db, NULL), 0);
    for (size_t i = 0; i < n; i++)
        q_state_fini(&list[i]);
    free(list);
    q_state_fini(&found);
    q_state_fini(&gone);
    return rc;
}

static void test_queries(void **state)
{
    (void)state;
    struct db db;
    struct err e = {0};
    assert_int_equal(db_open(&db, NULL, &e), 0);
    assert_int_equal(db_migrate(&db, &e), 0);
    assert_true(alloc_sweep(put_find_list_delete, &db) >= 5);
    db_close(&db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_submit),
        cmocka_unit_test(test_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
