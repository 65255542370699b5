/* Principal components against numpy and scikit-learn (tests/data/manifold), exact against randomised;
 * the same bytes at any number of threads; degenerate sets, cancellation, refusals. */
#include "tests/lib/points.h"

#include "engine/kernels/gemm.h"
#include "engine/manifold/pca.h"

#include <math.h>
#include <stdlib.h>

/* n points of d numbers with variances falling as 1/j^4 in rotated directions, and a mean. */
static float *draw_falling(size_t n, size_t d, uint64_t seed)
{
    float *z = draw_normal(n * d, seed), *w = draw_normal(d * d, seed + 1),
          *x = malloc(n * d * sizeof *x);
    for (size_t i = 0; i < n * d; i++)
        z[i] /= (float)((i % d + 1) * (i % d + 1));
    for (size_t i = 0; i < n * d; i++)
        x[i] = 3;
    gemm_f32(false, false, n, d, d, 1 / sqrtf((float)d), z, d, w, d, 1, x, d);
    free(z), free(w);
    return x;
}

static void check_pca_golden(const char *name, size_t n, size_t d, size_t k, enum pca_method method)
{
    char key[64];
    struct err e = {0};
    struct manifold_run run = test_run(2);
    snprintf(key, sizeof key, "pca.%s.x", name);
    float *x = manifold_golden(key, n * d);
    snprintf(key, sizeof key, "pca.%s.components", name);
    float *components = manifold_golden(key, k * d);
    snprintf(key, sizeof key, "pca.%s.variance", name);
    float *variance = manifold_golden(key, k);
    snprintf(key, sizeof key, "pca.%s.total", name);
    float *total = manifold_golden(key, 1);

    struct pca p;
    struct points points = {x, n, d, d};
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){k, method, 1}, &p, &e), 0);
    check_close("components", p.components, components, k * d, 1e-5);
    for (size_t i = 0; i < k; i++)
        assert_true(fabs(p.variance[i] - (double)variance[i]) <= 1e-5 * (double)variance[0]);
    assert_true(fabs(p.total - (double)*total) <= 1e-5 * (double)*total);
    printf("  pca.%s: components off by %.2g\n", name,
           max_abs_diff(p.components, components, k * d));
    free(x), free(components), free(variance), free(total);
    pca_fini(&p);
    pool_free(run.pool);
}

static void test_pca_golden(void **state)
{
    (void)state;
    check_pca_golden("tall", 300, 20, 20, PCA_EXACT);
    check_pca_golden("wide", 60, 200, 12, PCA_EXACT);
    check_pca_golden("tall", 300, 20, 20, PCA_RANDOMISED);
}

/* All components: the points come back; the projection is what the definition says. */
static void test_pca_round_trip(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(3);
    size_t n = 700, d = 150, ld = 160;
    float *x = draw_normal(n * ld, 5), *y = malloc(n * d * sizeof *y),
          *back = malloc(n * ld * sizeof *y);
    struct pca p;
    struct points points = {x, n, d, ld};
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){.components = d}, &p, &e), 0);
    assert_int_equal(pca_transform(run.pool, &p, &points, y, &e), 0);
    double want = 0;
    for (size_t j = 0; j < d; j++)
        want += (double)((x[5 * ld + j] - p.mean[j]) * p.components[3 * d + j]);
    assert_true(fabs(want - (double)y[5 * d + 3]) < 1e-5);
    memcpy(back, x, n * ld * sizeof *x); /* what stands between the rows stays */
    pca_inverse(run.pool, &p, y, n, back, ld);
    check_close("inverse of transform", back, x, n * ld, 1e-5);
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += p.variance[i];
    assert_true(fabs(sum - p.total) < 1e-9 * p.total);
    free(x), free(y), free(back);
    pca_fini(&p);
    pool_free(run.pool);
}

static void test_pca_randomised(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    size_t n = 400, d = 300, k = 12;
    float *x = draw_falling(n, d, 7);
    struct points points = {x, n, d, d};
    struct pca exact, p;
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){k, PCA_EXACT, 0}, &exact, &e), 0);
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){k, PCA_RANDOMISED, 3}, &p, &e),
                     0);
    check_close("components", p.components, exact.components, k * d, 1e-5);
    for (size_t i = 0; i < k; i++)
        assert_true(fabs(p.variance[i] - exact.variance[i]) <= 1e-8 * exact.variance[0]);
    free(x);
    pca_fini(&p), pca_fini(&exact);
    pool_free(run.pool);
}

/* A rank of three: the rest is zero, nothing is not a number. Equal points: nothing at all. */
static void test_pca_rank(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(1);
    size_t n = 50, d = 30, k = 8;
    float *x = calloc(n * d, sizeof *x), *z = draw_normal(n * 3, 9), *w = draw_normal(3 * d, 10);
    gemm_f32(false, false, n, d, 3, 1, z, 3, w, d, 0, x, d);
    for (int m = PCA_EXACT; m <= PCA_RANDOMISED; m++)
        for (size_t rows = 20; rows <= n; rows += 30) {
            struct pca p;
            struct points points = {x, rows, d, d};
            assert_int_equal(pca_fit(&run, &points, &(struct pca_options){k, m, 0}, &p, &e), 0);
            assert_true(p.variance[2] > 1e-3 && p.variance[4] < 1e-10 * p.variance[0]);
            for (size_t i = 0; i < k * d; i++)
                assert_true(isfinite(p.components[i]));
            pca_fini(&p);
        }
    memset(x, 0, n * d * sizeof *x);
    struct pca p;
    struct points same = {x, n, d, d};
    assert_int_equal(pca_fit(&run, &same, &(struct pca_options){.components = 2}, &p, &e), 0);
    assert_true(p.total == 0 && p.variance[0] == 0 && p.components[0] == 0);
    pca_fini(&p);
    free(x), free(z), free(w);
    pool_free(run.pool);
}

static void test_pca_threads(void **state)
{
    (void)state;
    size_t n = 300, d = 280, k = 10;
    float *x = draw_normal(n * d, 11);
    for (int m = PCA_EXACT; m <= PCA_RANDOMISED; m++)
        for (size_t rows = 200; rows <= n; rows += 100) {
            struct pca p[2];
            for (int t = 0; t < 2; t++) {
                struct err e = {0};
                struct manifold_run run = test_run(1 + 2 * t);
                struct points points = {x, rows, d, d};
                assert_int_equal(pca_fit(&run, &points, &(struct pca_options){k, m, 4}, &p[t], &e),
                                 0);
                pool_free(run.pool);
            }
            assert_memory_equal(p[0].components, p[1].components, k * d * sizeof *x);
            assert_memory_equal(p[0].mean, p[1].mean, d * sizeof *x);
            assert_memory_equal(p[0].variance, p[1].variance, k * sizeof(double));
            pca_fini(&p[0]), pca_fini(&p[1]);
        }
    free(x);
}

static void test_pca_refused(void **state)
{
    (void)state;
    struct manifold_run run = test_run(1);
    float *x = draw_normal(40 * 20, 13);
    struct points points = {x, 40, 20, 20}, one = {x, 1, 20, 20};
    struct pca p;
    struct err e = {0};
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){0}, &p, &e), ERR_INVALID);
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){21, 0, 0}, &p, &e), ERR_INVALID);
    assert_int_equal(pca_fit(&run, &one, &(struct pca_options){1, 0, 0}, &p, &e), ERR_INVALID);
    for (int m = PCA_EXACT; m <= PCA_RANDOMISED; m++) {
        size_t left = 1;
        struct manifold_run stop = {run.pool, stop_after, &left};
        assert_int_equal(pca_fit(&stop, &points, &(struct pca_options){2, m, 0}, &p, &e),
                         ERR_CANCELLED);
        assert_null(p.components);
    }
    x[45] = NAN;
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){2, 0, 0}, &p, &e), ERR_NUMERIC);
    free(x);
    pool_free(run.pool);
}

/* The Gaussian of the fit: its draws have the points' mean and covariance. */
static void test_pca_sample(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    size_t n = 300, d = 20, m = 40000;
    float *x = manifold_golden("pca.tall.x", n * d), *y = malloc(m * d * sizeof *y), *again;
    struct points points = {x, n, d, d}, drawn = {y, m, d, d};
    struct pca p, q;
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){.components = d}, &p, &e), 0);
    assert_int_equal(pca_sample(run.pool, &p, 7, m, y, d, &e), 0);
    assert_int_equal(pca_fit(&run, &drawn, &(struct pca_options){.components = d}, &q, &e), 0);
    for (size_t i = 0; i < d; i++) {
        double sd = sqrt(p.variance[0]);
        assert_true(fabs((double)(p.mean[i] - q.mean[i])) < 5 * sd / sqrt((double)m));
        assert_true(fabs(p.variance[i] / q.variance[i] - 1) < .05);
    }
    for (size_t i = 0; i < 3; i++) { /* the three widest stand apart: their directions too */
        double dot = 0;
        for (size_t j = 0; j < d; j++)
            dot += (double)(p.components[i * d + j] * q.components[i * d + j]);
        assert_true(fabs(dot) > .99);
    }
    again = malloc(m * d * sizeof *again);
    assert_int_equal(pca_sample(run.pool, &p, 7, m, again, d, &e), 0);
    assert_memory_equal(y, again, m * d * sizeof *y);
    free(x), free(y), free(again);
    pca_fini(&p), pca_fini(&q);
    pool_free(run.pool);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pca_golden),     cmocka_unit_test(test_pca_round_trip),
        cmocka_unit_test(test_pca_randomised), cmocka_unit_test(test_pca_rank),
        cmocka_unit_test(test_pca_threads),    cmocka_unit_test(test_pca_refused),
        cmocka_unit_test(test_pca_sample),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
