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
    int rc = store_put_state_take(a->s, &st, a->blob, 100, &new_version, on_state, NULL, &e);
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
    return store_list_states(arg, &(struct store_query){.tag = "a", .limit = 10}, on_list, NULL,
                             &e);
}

static int submit_patch(void *arg)
{
    struct err e;
    const struct store_patch p = {.description = "d", .tags = "[]"};
    return store_patch_state(arg, "a", 0, &p, on_state, NULL, &e);
}

static int submit_fork(void *arg)
{
    struct err e;
    const struct store_patch p = {.description = "d"};
    return store_fork_state(arg, "a", 0, "b", &p, &new_version, on_state, NULL, &e);
}

static int submit_find_key(void *arg)
{
    struct err e;
    return store_find_key(arg, "key", state_of("", "x", 1).sha256, on_state, NULL, &e);
}

static void on_backup(void *arg, const struct err *e, uint64_t bytes)
{
    (void)arg, (void)e, (void)bytes;
}

/* Its folder is a file; until that is found, another is refused. */
static int submit_backup(void *arg)
{
    struct err e;
    int rc = store_backup(arg, "/dev/null", on_backup, NULL, &e);
    return rc == ERR_BUSY ? 0 : rc;
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
    assert_true(alloc_sweep(submit_list, s) >= 2);
    assert_true(alloc_sweep(submit_patch, s) >= 2);
    assert_true(alloc_sweep(submit_fork, s) >= 2);
    assert_true(alloc_sweep(submit_find_key, s) >= 1);
    assert_true(alloc_sweep(submit_backup, s) >= 2);
    store_close(s);
}

static const struct q_env env = {.now_ms = 1000};

/* A put of one slice, whole or not at all. */
static int put(struct db *db, const struct store_state *st, const void *blob)
{
    struct err e = {0};
    struct store_state out = {0};
    struct q_counts change;
    struct q_put p = {.state = st, .blob = blob, .how = &new_version};
    int rc = 1;
    while (rc > 0 && q_put_only_reads(&p))
        rc = q_put_step(db, &env, &p, &out, &change, &e);
    assert_int_equal(db_begin(db, DB_DURABLE, NULL), 0);
    while (rc > 0)
        rc = q_put_step(db, &env, &p, &out, &change, &e);
    if (rc == 0)
        rc = db_commit(db, &e);
    else
        db_rollback(db);
    assert_int_equal(rc, e.code);
    q_state_fini(&out);
    return rc;
}

/* Within one transaction, undone unless all of it succeeds. */
static int patch_fork_delete(struct db *db)
{
    struct err e = {0};
    struct store_state patched = {0}, copy = {0}, gone = {0}, copy_gone = {0};
    struct q_counts change;
    const struct store_patch patch = {.description = "longer than it was"}, none = {0};
    const struct q_fork fork = {.name = "a", .to = "b", .changes = &none, .how = &new_version};
    assert_int_equal(db_begin(db, DB_DURABLE, NULL), 0);
    int rc = q_state_patch(db, &env, "a", 0, &patch, &patched, &e);
    if (rc == 0)
        rc = q_state_fork(db, &env, &fork, &copy, &change, &e);
    if (rc == 0)
        rc = q_state_delete(db, &env, "a", 0, 0, &gone, &change, &e);
    if (rc == 0)
        rc = q_state_delete(db, &env, "b", 0, 0, &copy_gone, &change, &e);
    if (rc == 0)
        rc = db_commit(db, &e);
    else
        db_rollback(db);
    q_state_fini(&patched);
    q_state_fini(&copy);
    q_state_fini(&gone);
    q_state_fini(&copy_gone);
    return rc;
}

static int put_find_list_write(void *arg)
{
    struct db *db = arg;
    struct err e = {0};
    struct store_state st = state_of("a", "abc", 3), found = {0};
    struct q_page page = {0}, versions = {0};
    const struct store_query query = {"", "", "", "", 10, false};
    st.bytes = 3;
    int rc = put(db, &st, "abc");
    if (rc == 0)
        rc = q_state_find(db, &env, "a", 0, &found, &e);
    if (rc == 0)
        rc = q_state_list(db, &env, &query, &page, &e);
    if (rc == 0)
        rc = q_state_versions(db, &env, "a", 0, 1, &versions, &e);
    if (rc == 0)
        rc = patch_fork_delete(db);
    q_page_fini(&page);
    q_page_fini(&versions);
    q_state_fini(&found);
    return rc;
}

static void test_queries(void **state)
{
    (void)state;
    struct db db;
    struct err e = {0};
    assert_int_equal(db_open(&db, NULL, &e), 0);
    assert_int_equal(db_migrate(&db, &e), 0);
    assert_true(alloc_sweep(put_find_list_write, &db) >= 8);
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
