/* Philox4x32-10 against the known answers of Random123 (kat_vectors), and what is built on it. */
#include "tests/lib/check.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>

static void test_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t key, stream, counter;
        uint32_t want[4];
    } kat[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t got[4];
        philox4x32(kat[i].key, kat[i].stream, kat[i].counter, got);
        assert_memory_equal(got, kat[i].want, sizeof got);
    }
}

static void test_sequence(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 42, 7);
    for (uint64_t block = 0; block < 5; block++) {
        uint32_t want[4];
        philox4x32(42, 7, block, want);
        for (int i = 0; i < 4; i++)
            assert_int_equal(rng_u32(&r), want[i]);
    }
    struct rng copy = r;
    for (int i = 0; i < 9; i++)
        assert_int_equal(rng_u32(&r), rng_u32(&copy));
}

static void test_below(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 1, 0);
    int count[7] = {0};
    for (int i = 0; i < 70000; i++)
        count[rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++) /* 10000 +- 5 sigma (93) */
        assert_true(abs(count[i] - 10000) < 465);
    assert_int_equal(rng_below(&r, 1), 0);
    for (int i = 0; i < 100; i++)
        assert_true(rng_below(&r, (uint64_t)3 << 62) < (uint64_t)3 << 62);
}

/* Moments of 200,000 normals, each within 5 standard errors. */
static void test_normal(void **state)
{
    (void)state;
    enum { N = 200000 };
    struct rng r;
    rng_init(&r, 3, 9);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, u = 0;
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&r), v = rng_uniform(&r);
        assert_true(isfinite(x) && v >= 0 && v < 1);
        m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x, u += v;
    }
    double se = 5 / sqrt(N);
    assert_true(fabs(m1 / N) < se);
    assert_true(fabs(m2 / N - 1) < se * sqrt(2));
    assert_true(fabs(m3 / N) < se * sqrt(15));
    assert_true(fabs(m4 / N - 3) < se * sqrt(96));
    assert_true(fabs(u / N - 0.5) < se * sqrt(1.0 / 12));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_sequence),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
