/* t-SNE against scikit-learn's exact method (tests/data/manifold): affinities, divergence, gradient and
 * where whole descents end; the gradient also by finite differences. */
#include "tests/lib/points.h"

#include "engine/kernels/gemm.h"
#include "engine/manifold/neighbors.h"
#include "engine/manifold/tsne.h"

#include <math.h>
#include <stdlib.h>

enum { N = 300, D = 20 };

/* [n, 2] as the map's [2, n]. */
static void split(const float *y, size_t n, float *out)
{
    for (size_t i = 0; i < 2 * n; i++)
        out[i % 2 * n + i / 2] = y[i];
}

static void test_parts(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    float *x = manifold_golden("pca.tall.x", N * D), *rows = manifold_golden("tsne.P.60", 60 * N);
    float *y = manifold_golden("tsne.y", 2 * N), *kl = manifold_golden("tsne.kl", 1);
    float *want = manifold_golden("tsne.gradient", 2 * N);
    float *P = malloc(N * N * sizeof *P), map[2 * N], got[2 * N];
    double gradient[2 * N], sums[3 * N];
    struct points points = {x, N, D, D};
    assert_int_equal(tsne__joint(&run, &points, 30, P, &e), 0);
    check_close("joint probabilities", P, rows, 60 * N, 2e-8); /* the largest is 9e-4 */

    split(y, N, map);
    struct tsne__gradient g = {P, map, N, 1, gradient, sums};
    tsne__gradient(run.pool, &g);
    for (size_t i = 0; i < 2 * N; i++)
        got[i] = (float)gradient[i % 2 * N + i / 2];
    check_close("gradient", got, want, 2 * N, 1e-6); /* the largest is 1e-2 */
    assert_true(fabs(tsne__divergence(run.pool, &g) - (double)*kl) < 1e-5);
    free(x), free(rows), free(y), free(kl), free(want), free(P);
    pool_free(run.pool);
}

/* Central differences of the divergence, which is computed in double, along single coordinates. */
static void test_gradient(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(1);
    enum { M = 40 };
    float *x = draw_normal(M * 6, 1), *map = draw_normal(2 * M, 2), P[M * M];
    double gradient[2 * M], sums[3 * M];
    struct points points = {x, M, 6, 6};
    assert_int_equal(tsne__joint(&run, &points, 8, P, &e), 0);
    double total = 0;
    for (size_t i = 0; i < M * M; i++)
        total += (double)P[i];
    assert_true(fabs(total - 1) < 1e-5);
    struct tsne__gradient g = {P, map, M, 1, gradient, sums};
    tsne__gradient(run.pool, &g);
    double worst = 0, largest = 0, step = 0x1p-10;
    for (size_t i = 0; i < 2 * M; i++) {
        double side[2], sums2[3 * M];
        struct tsne__gradient h = {P, map, M, 1, NULL, sums2};
        float at = map[i];
        for (int s = 0; s < 2; s++) {
            map[i] = at + (s ? (float)step : -(float)step);
            side[s] = (double)map[i];
            side[s] = tsne__divergence(run.pool, &h);
        }
        map[i] = at;
        worst = fmax(worst, fabs((side[1] - side[0]) / (2 * step) - gradient[i]));
        largest = fmax(largest, fabs(gradient[i]));
    }
    printf("  gradient off by %.2g of %.2g\n", worst, largest);
    assert_true(worst < 1e-5 * largest + 1e-7);
    free(x), free(map);
    pool_free(run.pool);
}

static double descend(int threads, struct tsne_options o, const float *x, float *y)
{
    struct err e = {0};
    struct manifold_run run = test_run(threads);
    struct points points = {x, N, D, D};
    double kl;
    assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), 0);
    pool_free(run.pool);
    return kl;
}

/* Least, mean and greatest of the six. */
static void range_of(const char *name, double out[3])
{
    float *x = manifold_golden(name, 6);
    out[0] = out[2] = (double)x[0];
    out[1] = 0;
    for (size_t i = 0; i < 6; i++) {
        out[0] = fmin(out[0], (double)x[i]);
        out[1] += (double)x[i] / 6;
        out[2] = fmax(out[2], (double)x[i]);
    }
    free(x);
}

/* A start differing in its last digits ends elsewhere, theirs as ours, so the ends are compared as
 * distributions: single ones within 2 % of the range of six, the mean of six within 2 % of theirs. */
static void test_descent(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(2);
    float *x = manifold_golden("pca.tall.x", N * D), y[2 * N];
    uint32_t *label = manifold_golden_ids("label", N);
    double pca[3], random[3], shape[3], mean = 0;
    range_of("tsne.pca.kl", pca);
    range_of("tsne.random.kl", random);
    range_of("tsne.random.silhouette", shape);
    for (uint64_t seed = 0; seed < 7; seed++) {
        struct tsne_options o = TSNE_DEFAULTS;
        o.random_start = seed > 0;
        o.seed = seed;
        double kl = descend(2, o, x, y), silhouette;
        const double *want = seed ? random : pca;
        struct points map = {y, N, 2, 2};
        struct silhouette_options so = {METRIC_EUCLIDEAN, label, 5};
        assert_int_equal(neighbors_silhouette(&run, &map, &so, NULL, &silhouette, &e), 0);
        printf("  KL %.4f silhouette %.3f (scikit-learn: %.4f to %.4f)\n", kl, silhouette, want[0],
               want[2]);
        assert_true(kl > .98 * want[0] && kl < 1.02 * want[2]);
        assert_true(silhouette > shape[0] - .03);
        mean += seed ? kl / 6 : 0;
    }
    assert_true(fabs(mean / random[1] - 1) < .02);
    free(x), free(label);
    pool_free(run.pool);
}

static void test_deterministic(void **state)
{
    (void)state;
    float *x = manifold_golden("pca.tall.x", N * D), a[2 * N], b[2 * N];
    struct tsne_options o = TSNE_DEFAULTS;
    o.iterations = 300;
    assert_true(descend(1, o, x, a) == descend(3, o, x, b));
    assert_memory_equal(a, b, sizeof a);
    o.random_start = true;
    o.seed = 1;
    descend(1, o, x, a);
    o.seed = 2;
    descend(1, o, x, b);
    assert_memory_not_equal(a, b, sizeof a);
    free(x);
}

/* Equal points, one number a point, few points: a map of finite numbers or a refusal. */
static void test_degenerate(void **state)
{
    (void)state;
    struct err e = {0};
    struct manifold_run run = test_run(1);
    float same[50] = {0}, *x = draw_normal(50, 3), y[100];
    double kl;
    struct tsne_options o = TSNE_DEFAULTS;
    o.perplexity = 5;
    const float *sets[] = {same, x};
    for (int s = 0; s < 2; s++) {
        struct points points = {sets[s], 50, 1, 1};
        assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), 0);
        for (size_t i = 0; i < 100; i++)
            assert_true(isfinite(y[i]));
    }
    o.perplexity = 20;
    struct points points = {x, 50, 1, 1};
    assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), ERR_INVALID);
    assert_string_equal(e.param, "perplexity");
    o.perplexity = NAN;
    assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), ERR_INVALID);
    o.perplexity = 5;
    points.n = 3;
    assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), ERR_INVALID);
    points.n = 50;
    size_t left = 10;
    struct manifold_run stop = {run.pool, stop_after, &left};
    assert_int_equal(tsne_fit(&stop, &points, &o, y, &kl, &e), ERR_CANCELLED);
    x[7] = NAN;
    assert_int_equal(tsne_fit(&run, &points, &o, y, &kl, &e), ERR_NUMERIC);
    free(x);
    pool_free(run.pool);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),      cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_descent),    cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_degenerate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
