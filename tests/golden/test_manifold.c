/* Measures of sets of points against numpy and scikit-learn (tests/data/manifold), and the laws that
 * they must keep: the same bytes at any number of threads, cancellation, refusals. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/manifold/pca.h"

#include <math.h>
#include <stdlib.h>

static struct manifold_run run_of(int threads)
{
    struct err e = {0};
    struct manifold_run r = {.pool = pool_new(threads, "test", 0, &e)};
    assert_non_null(r.pool);
    return r;
}

static float *golden(const char *name, size_t count)
{
    struct tensor_file *f = golden_open("manifold/golden.safetensors");
    float *x = golden_f32(f, name, count);
    tensor_file_close(f);
    return x;
}

static float *draw(size_t n, uint64_t seed)
{
    struct rng rng;
    float *x = malloc(n * sizeof *x);
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&rng);
    return x;
}

/* n points of d numbers with variances falling as 1/j^4 in rotated directions, and a mean. */
static float *draw_falling(size_t n, size_t d, uint64_t seed)
{
    float *z = draw(n * d, seed), *w = draw(d * d, seed + 1), *x = malloc(n * d * sizeof *x);
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
    struct manifold_run run = run_of(2);
    snprintf(key, sizeof key, "pca.%s.x", name);
    float *x = golden(key, n * d);
    snprintf(key, sizeof key, "pca.%s.components", name);
    float *components = golden(key, k * d);
    snprintf(key, sizeof key, "pca.%s.variance", name);
    float *variance = golden(key, k);
    snprintf(key, sizeof key, "pca.%s.total", name);
    float *total = golden(key, 1);

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
    struct manifold_run run = run_of(3);
    size_t n = 700, d = 150, ld = 160;
    float *x = draw(n * ld, 5), *y = malloc(n * d * sizeof *y), *back = malloc(n * ld * sizeof *y);
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
    struct manifold_run run = run_of(2);
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
    struct manifold_run run = run_of(1);
    size_t n = 50, d = 30, k = 8;
    float *x = calloc(n * d, sizeof *x), *z = draw(n * 3, 9), *w = draw(3 * d, 10);
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
    float *x = draw(n * d, 11);
    for (int m = PCA_EXACT; m <= PCA_RANDOMISED; m++)
        for (size_t rows = 200; rows <= n; rows += 100) {
            struct pca p[2];
            for (int t = 0; t < 2; t++) {
                struct err e = {0};
                struct manifold_run run = run_of(1 + 2 * t);
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

static bool stop_at(void *arg, size_t step, size_t total)
{
    size_t *left = arg;
    assert_true(step <= total);
    return (*left)-- > 0;
}

static void test_pca_refused(void **state)
{
    (void)state;
    struct manifold_run run = run_of(1);
    float *x = draw(40 * 20, 13);
    struct points points = {x, 40, 20, 20}, one = {x, 1, 20, 20};
    struct pca p;
    struct err e = {0};
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){0}, &p, &e), ERR_INVALID);
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){21, 0, 0}, &p, &e), ERR_INVALID);
    assert_int_equal(pca_fit(&run, &one, &(struct pca_options){1, 0, 0}, &p, &e), ERR_INVALID);
    for (int m = PCA_EXACT; m <= PCA_RANDOMISED; m++) {
        size_t left = 1;
        struct manifold_run stop = {run.pool, stop_at, &left};
        assert_int_equal(pca_fit(&stop, &points, &(struct pca_options){2, m, 0}, &p, &e),
                         ERR_CANCELLED);
        assert_null(p.components);
    }
    x[45] = NAN;
    assert_int_equal(pca_fit(&run, &points, &(struct pca_options){2, 0, 0}, &p, &e), ERR_NUMERIC);
    free(x);
    pool_free(run.pool);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pca_golden),     cmocka_unit_test(test_pca_round_trip),
        cmocka_unit_test(test_pca_randomised), cmocka_unit_test(test_pca_rank),
        cmocka_unit_test(test_pca_threads),    cmocka_unit_test(test_pca_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
