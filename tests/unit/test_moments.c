/* Statistics of a head, agreement of correlations across heads, bootstrap intervals: against figures
 * that are known beforehand. */
#include "tests/lib/points.h"

#include "engine/kernels/gemm.h"
#include "engine/manifold/bootstrap.h"
#include "engine/manifold/moments.h"

#include <math.h>
#include <stdlib.h>

static void test_stats(void **state)
{
    (void)state;
    /* two points of three numbers, a fourth between the rows */
    float x[] = {1, -2, 2, 99, 4, 0, -3, 99};
    struct points p = {x, 2, 3, 4};
    struct moments_stats s;
    moments_stats(&p, &s);
    assert_true(fabs(s.mean - 1. / 3) < 1e-12);
    assert_true(fabs(s.std - sqrt(34. / 6 - 1. / 9)) < 1e-12);
    assert_true(s.max == 4 && s.norm_min == 3 && s.norm_max == 5 && fabs(s.norm - 4) < 1e-12);
}

/* Two blocks of three numbers from two shared sources, so that blocks go together; then one block
 * shuffled among the points, which keeps each block's own statistics and breaks the joint ones. */
static void test_agreement(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    enum { N = 4000, D = 6 };
    float *z = draw_normal(2 * N * D, 1), *x = malloc(2 * N * D * sizeof *x);
    static const float mix[2][D] = {{1, .5f, -.7f, .9f, -.3f, .2f}, {.1f, -1, .4f, .3f, .8f, -.6f}};
    for (size_t i = 0; i < 2 * N; i++)
        for (size_t j = 0; j < D; j++)
            x[i * D + j] = z[i * D] * mix[0][j] + z[i * D + 1] * mix[1][j] + .5f * z[i * D + j];
    struct points a = {x, N, D, D}, b = {x + N * D, N, D, D};
    double same, broken;
    assert_int_equal(moments_agreement(&run, &a, &b, 3, &same, &e), 0);
    for (size_t i = 0; i < N; i++)
        memcpy(x + (N + i) * D, x + (N + (i + 17) % N) * D, 3 * sizeof *x);
    assert_int_equal(moments_agreement(&run, &a, &b, 3, &broken, &e), 0);
    printf("  agreement %.3f, of independent blocks %.3f\n", same, broken);
    assert_true(same > .98 && fabs(broken) < .9);
    assert_int_equal(moments_agreement(&run, &a, &b, 6, &same, &e), ERR_INVALID);
    struct points flat = {(float[20]){0}, 3, D, D};
    assert_int_equal(moments_agreement(&run, &a, &flat, 3, &same, &e), ERR_NUMERIC);
    size_t left = 0;
    struct manifold_run stop = {run.pool, stop_after, &left};
    assert_int_equal(moments_agreement(&stop, &a, &b, 3, &same, &e), ERR_CANCELLED);
    free(z), free(x);
    pool_free(run.pool);
}

/* The interval of a mean of normal numbers holds 1.96 standard errors on each side. */
static void test_bootstrap(void **state)
{
    (void)state;
    struct err e = {0};
    enum { N = 500 };
    float *x = draw_normal(N, 4);
    double v[N], mean = 0, square = 0, low, high, low2, high2;
    for (size_t i = 0; i < N; i++) {
        v[i] = (double)x[i] + 2;
        mean += v[i] / N;
        square += v[i] * v[i] / N;
    }
    double se = sqrt((square - mean * mean) / N);
    struct bootstrap b = {4000, .95, 1, bootstrap_mean, v};
    assert_int_equal(bootstrap_interval(&b, N, &low, &high, &e), 0);
    assert_true(fabs(low - (mean - 1.96 * se)) < .15 * se);
    assert_true(fabs(high - (mean + 1.96 * se)) < .15 * se);
    assert_int_equal(bootstrap_interval(&b, N, &low2, &high2, &e), 0);
    assert_true(low == low2 && high == high2);
    b.level = 1;
    assert_int_equal(bootstrap_interval(&b, N, &low, &high, &e), ERR_INVALID);
    b.level = .9;
    v[3] = INFINITY;
    assert_int_equal(bootstrap_interval(&b, N, &low, &high, &e), ERR_NUMERIC);
    free(x);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_bootstrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
