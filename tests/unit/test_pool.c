/* The pool: every part runs once, a barrier orders memory, any number of runs, slices cover. */
#include "tests/lib/check.h"

#include "engine/kernels/pool.h"

#include <stdlib.h>

enum { N = 1000, STEPS = 200 };

struct job {
    struct pool *pool;
    long a[N], b[N];
    int runs[256];
};

/* Each step makes b from its neighbours in a, then a from b: wrong unless the barriers hold. */
static void diffuse(void *ctx, int part, int parts)
{
    struct job *j = ctx;
    size_t lo, hi;
    pool_slice(N, 16, part, parts, &lo, &hi);
    j->runs[part]++;
    for (int s = 0; s < STEPS; s++) {
        for (size_t i = lo; i < hi; i++)
            j->b[i] = (j->a[(i + 1) % N] + 3 * j->a[(i + N - 1) % N]) % 10007;
        pool_barrier(j->pool);
        for (size_t i = lo; i < hi; i++)
            j->a[i] = (j->b[(i + 17) % N] + j->b[i]) % 10007;
        pool_barrier(j->pool);
    }
}

static void run_with(int threads, int runs, struct job *j)
{
    struct err e = {0};
    memset(j, 0, sizeof *j);
    j->pool = pool_new(threads, "test", 1, &e);
    if (!j->pool)
        fail_msg("%s", e.msg);
    assert_int_equal(pool_threads(j->pool), threads);
    for (size_t i = 0; i < N; i++)
        j->a[i] = (long)(i * i % 977);
    for (int r = 0; r < runs; r++)
        pool_run(j->pool, diffuse, j);
    for (int t = 0; t < threads; t++)
        assert_int_equal(j->runs[t], runs);
    pool_free(j->pool);
}

static void test_threads_agree(void **state)
{
    (void)state;
    struct job *one = malloc(sizeof *one), *many = malloc(sizeof *many);
    assert_true(one && many);
    run_with(1, 20, one);
    for (int threads = 2; threads <= 5; threads++) {
        run_with(threads, 20, many);
        assert_memory_equal(one->a, many->a, sizeof one->a);
    }
    free(one);
    free(many);
}

static void test_sizes(void **state)
{
    (void)state;
    struct err e = {0};
    assert_null(pool_new(0, "none", 0, &e));
    assert_int_equal(e.code, ERR_INVALID);
    assert_null(pool_new(257, "many", 0, &e));
    struct pool *p = pool_new(256, "all of fifteen+", 0, &e);
    if (!p)
        fail_msg("%s", e.msg);
    pool_free(p);
    pool_free(NULL);
}

static void test_slices(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++)
        for (size_t unit = 1; unit < 20; unit += 3)
            for (int parts = 1; parts < 9; parts++) {
                size_t next = 0;
                for (int p = 0; p < parts; p++) {
                    size_t lo, hi;
                    pool_slice(n, unit, p, parts, &lo, &hi);
                    assert_int_equal(lo, next);
                    assert_true(hi >= lo && (lo % unit == 0 || lo == n));
                    next = hi;
                }
                assert_int_equal(next, n);
            }
}

/* Some threads of a pool, any number in turn: the others take no part. */
static void test_some(void **state)
{
    (void)state;
    struct err e = {0};
    struct job *one = malloc(sizeof *one), *some = calloc(1, sizeof *some);
    assert_true(one && some);
    run_with(1, 12, one);
    some->pool = pool_new(4, "test", 0, &e);
    assert_non_null(some->pool);
    for (size_t i = 0; i < N; i++)
        some->a[i] = (long)(i * i % 977);
    for (int r = 0; r < 12; r++)
        pool_run_some(some->pool, 1 + r % 4, diffuse, some);
    assert_memory_equal(one->a, some->a, sizeof one->a);
    for (int t = 0; t < 4; t++)
        assert_int_equal(some->runs[t], 12 - 3 * t);
    pool_lost(some->pool);
    assert_int_equal(pool_lost(some->pool), 0);
    pool_free(some->pool);
    free(one);
    free(some);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_agree), cmocka_unit_test(test_some),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
