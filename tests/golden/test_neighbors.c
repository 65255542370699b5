/* Distances, neighbours, votes and silhouettes against scikit-learn (tests/data/manifold); the
 * two-sample test on sets whose answer is known; the same bytes at any number of threads. */
#include "tests/lib/points.h"

#include "engine/kernels/gemm.h"
#include "engine/manifold/neighbors.h"

#include <math.h>
#include <stdlib.h>

enum { N = 300, D = 20, K = 7 };

static const struct {
    enum metric metric;
    const char *name;
} METRICS[] = {{METRIC_EUCLIDEAN, "euclidean"}, {METRIC_COSINE, "cosine"}};

static float *golden_of(const char *metric, const char *what, size_t count)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", metric, what);
    return manifold_golden(key, count);
}

static void check_neighbors(const struct manifold_run *run, const struct points *p, size_t m)
{
    struct err e = {0};
    char key[64];
    snprintf(key, sizeof key, "%s.knn.index", METRICS[m].name);
    uint32_t *want = manifold_golden_ids(key, N * K), *index = malloc(N * K * sizeof *index);
    float *far = golden_of(METRICS[m].name, "knn.distance", N * K), *d = malloc(N * K * sizeof *d);
    struct neighbors_options o = {K, METRICS[m].metric, true};
    assert_int_equal(neighbors_find(run, p, p, &o, index, d, &e), 0);
    assert_memory_equal(index, want, N * K * sizeof *index);
    check_close("distances of neighbours", d, far, N * K, 1e-5);
    free(want), free(index), free(far), free(d);
}

static void check_vote(const struct manifold_run *run, const struct points *p, size_t m,
                       const uint32_t *label)
{
    struct err e = {0};
    char key[64];
    snprintf(key, sizeof key, "%s.knn.predicted", METRICS[m].name);
    uint32_t *want = manifold_golden_ids(key, N), index[N * 5], predicted[N];
    struct neighbors_options o = {5, METRICS[m].metric, true};
    assert_int_equal(neighbors_find(run, p, p, &o, index, NULL, &e), 0);
    double accuracy = neighbors_vote(index, N, 5, label, 5, predicted), right = 0;
    assert_memory_equal(predicted, want, sizeof predicted);
    for (size_t i = 0; i < N; i++)
        right += want[i] == label[i];
    assert_true(accuracy == right / N && accuracy > .5);
    free(want);
}

static void check_silhouette(const struct manifold_run *run, const struct points *p, size_t m,
                             const uint32_t *label)
{
    struct err e = {0};
    double mean;
    float sample[N], *want = golden_of(METRICS[m].name, "silhouette.samples", N);
    float *want_mean = golden_of(METRICS[m].name, "silhouette", 1);
    struct silhouette_options o = {METRICS[m].metric, label, 6}; /* one label has no point */
    assert_int_equal(neighbors_silhouette(run, p, &o, sample, &mean, &e), 0);
    check_close("silhouettes", sample, want, N, 1e-6);
    assert_true(fabs(mean - (double)*want_mean) < 1e-6);
    free(want), free(want_mean);
}

static void test_golden(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    float *x = manifold_golden("pca.tall.x", N * D), *got = malloc(50 * 50 * sizeof *got);
    uint32_t *label = manifold_golden_ids("label", N);
    struct points p = {x, N, D, D}, head = {x, 50, D, D};
    for (size_t m = 0; m < 2; m++) {
        float *want = golden_of(METRICS[m].name, "distances", 50 * 50);
        assert_int_equal(neighbors_distances(&run, &head, &head, METRICS[m].metric, got, &e), 0);
        check_close(METRICS[m].name, got, want, 50 * 50, 1e-5);
        check_neighbors(&run, &p, m);
        check_vote(&run, &p, m, label);
        check_silhouette(&run, &p, m, label);
        free(want);
    }
    free(x), free(got), free(label);
    pool_free(run.pool);
}

/* Many numbers a point (chunks), more points than a stripe, other queries than base. */
static void test_definition(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(3);
    size_t n = 1100, m = 140, d = 600;
    float *a = draw_normal(n * d, 1), *b = draw_normal(m * d, 2),
          *got = malloc(n * m * sizeof *got);
    struct points pa = {a, n, d, d}, pb = {b, m, d, d};
    assert_int_equal(neighbors_distances(&run, &pa, &pb, METRIC_SQUARED, got, &e), 0);
    for (size_t i = 0; i < n; i += 53)
        for (size_t j = 0; j < m; j += 7) {
            double sum = 0;
            for (size_t t = 0; t < d; t++)
                sum += pow((double)a[i * d + t] - (double)b[j * d + t], 2);
            assert_true(fabs(sum - (double)got[i * m + j]) < 1e-6 * sum);
        }
    free(a), free(b), free(got);
    pool_free(run.pool);
}

static void test_two_sample(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    size_t n = 400, d = 8;
    float *x = draw_normal(2 * n * d, 3), *copy = malloc(n * d * sizeof *copy);
    struct points a = {x, n, d, d}, b = {x + n * d, n, d, d}, c = {copy, n, d, d};
    struct two_sample t;
    assert_int_equal(neighbors_two_sample(&run, &a, &b, METRIC_EUCLIDEAN, &t, &e), 0);
    assert_true(fabs(t.both - .5) < .08); /* one distribution */
    memcpy(copy, x, n * d * sizeof *x);
    assert_int_equal(neighbors_two_sample(&run, &a, &c, METRIC_EUCLIDEAN, &t, &e), 0);
    assert_true(t.a == 0 && t.b == 0 && t.both == 0); /* copies */
    for (size_t i = 0; i < n * d; i++)
        copy[i] = x[n * d + i] + 6;
    assert_int_equal(neighbors_two_sample(&run, &a, &c, METRIC_EUCLIDEAN, &t, &e), 0);
    assert_true(t.a == 1 && t.b == 1);
    free(x), free(copy);
    pool_free(run.pool);
}

static void test_threads(void **state)
{
    (void)state;
    size_t n = 500, d = 30;
    float *x = draw_normal(n * d, 5), *out[2];
    struct points p = {x, n, d, d};
    for (int t = 0; t < 2; t++) {
        struct err e = {0};
        struct manifold_run run = test_run(1 + 2 * t);
        out[t] = malloc(n * n * sizeof **out);
        assert_int_equal(neighbors_distances(&run, &p, &p, METRIC_EUCLIDEAN, out[t], &e), 0);
        pool_free(run.pool);
    }
    assert_memory_equal(out[0], out[1], n * n * sizeof **out);
    free(x), free(out[0]), free(out[1]);
}

static void test_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(1);
    float *x = draw_normal(2100 * 4, 6), d[6];
    uint32_t index[6], label[3] = {0};
    double mean;
    struct points p = {x, 3, 4, 4}, narrow = {x, 3, 3, 4}, many = {x, 2100, 4, 4};
    struct neighbors_options o = {3, METRIC_EUCLIDEAN, true};
    assert_int_equal(neighbors_find(&run, &p, &p, &o, index, d, &e), ERR_INVALID);
    o.k = 2;
    assert_int_equal(neighbors_find(&run, &p, &p, &o, index, d, &e), 0);
    assert_int_equal(neighbors_find(&run, &p, &narrow, &o, index, d, &e), ERR_INVALID);
    struct silhouette_options s = {METRIC_EUCLIDEAN, label, 1};
    assert_int_equal(neighbors_silhouette(&run, &p, &s, NULL, &mean, &e), ERR_INVALID);
    size_t left = 2;
    struct manifold_run stop = {run.pool, stop_after, &left};
    uint32_t *all = malloc(2100 * 2 * sizeof *all);
    assert_int_equal(neighbors_find(&stop, &many, &many, &o, all, NULL, &e), ERR_CANCELLED);
    x[5] = INFINITY;
    assert_int_equal(neighbors_find(&run, &p, &p, &o, index, d, &e), ERR_NUMERIC);
    free(x), free(all);
    pool_free(run.pool);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_definition),
        cmocka_unit_test(test_two_sample), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
