/* api/limits.h: requests and tokens a minute, by a clock of our own. */
#include "api/limits.h"

#include "tests/lib/check.h"

#define S UINT64_C(1000000000)

static unsigned take(struct limits *l, const char *who, uint64_t requests, uint64_t tokens,
                     double at)
{
    const char *what = "";
    struct quota q = {requests, tokens};
    unsigned s = limits_take(l, who, &q, S + (uint64_t)(at * 1e9), &what);
    assert_true((s != 0) == (*what != 0));
    return s;
}

static void test_requests(void **state)
{
    (void)state;
    struct limits *l = limits_new();
    assert_non_null(l);
    for (int i = 0; i < 6; i++)
        assert_int_equal(take(l, "a", 6, 0, 0), 0);
    assert_int_equal(take(l, "a", 6, 0, 0), 10); /* one comes every ten seconds */
    assert_int_equal(take(l, "a", 6, 0, 4), 6);
    assert_int_equal(take(l, "b", 6, 0, 4), 0);
    assert_int_equal(take(l, "a", 6, 0, 10.01), 0);
    assert_int_equal(take(l, "a", 6, 0, 10.01), 10);
    /* No more than a minute's worth is saved up. */
    for (int i = 0; i < 6; i++)
        assert_int_equal(take(l, "a", 6, 0, 10000), 0);
    assert_true(take(l, "a", 6, 0, 10000) > 0);
    /* Another quota, as after a reload of the keys, counts from now on. */
    assert_int_equal(take(l, "a", 6000, 0, 10000.1), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(take(l, "a", 0, 0, 10000), 0);
    limits_free(l);
}

static void test_tokens(void **state)
{
    (void)state;
    struct limits *l = limits_new();
    struct quota q = {0, 60};
    assert_non_null(l);
    assert_int_equal(take(l, "a", 0, 60, 0), 0);
    assert_int_equal(take(l, "a", 0, 60, 0), 0); /* nothing was charged yet */
    limits_charge(l, "a", &q, 59, S);
    assert_int_equal(take(l, "a", 0, 60, 0), 0);
    limits_charge(l, "a", &q, 121, S); /* 120 below nothing */
    assert_int_equal(take(l, "a", 0, 60, 0), 120);
    assert_int_equal(take(l, "a", 0, 60, 100), 20);
    assert_int_equal(take(l, "a", 0, 60, 120.5), 0);
    limits_charge(l, "a", &q, UINT64_C(1) << 60, 2 * S);
    assert_int_equal(take(l, "a", 0, 60, 200), 3600); /* the longest that is told */
    limits_free(l);
}

/* More callers than places: all are served, those that came last are known. */
static void test_many_callers(void **state)
{
    (void)state;
    struct limits *l = limits_new();
    char name[32];
    assert_non_null(l);
    int n = 4 * LIMITS_CALLERS, refused = 0;
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "10.0.%d.%d", i / 256, i % 256);
        assert_int_equal(take(l, name, 1, 0, i * 1e-6), 0);
        refused += take(l, name, 1, 0, i * 1e-6) != 0;
    }
    assert_int_equal(refused, n);
    limits_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_many_callers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
