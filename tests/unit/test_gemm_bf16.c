/* BF16 products against the definition: operands rounded to nearest even, sums in double. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm_bf16.h"
#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>

#define GUARD 1234.5f

static float *draw(size_t n, struct rng *rng)
{
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(rng);
    x[n] = NAN; /* one past the end must never matter */
    return x;
}

static void round_all(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

static void check_one(gemm_bf16_fn *gemm, bool ta, bool tb, size_t m, size_t n, size_t k,
                      float beta, struct rng *rng)
{
    size_t lda = ta ? m : k, ldb = tb ? k : n, ldc = n + 3;
    float *a = draw(m * k, rng), *b = draw(k * n, rng), *c = malloc(m * ldc * sizeof *c);
    for (size_t i = 0; i < m * ldc; i++)
        c[i] = i % ldc < n ? (beta != 0 ? (float)(i % 5) : NAN) : GUARD;
    gemm(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc);
    round_all(a, m * k);
    round_all(b, k * n);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < ldc; j++) {
            double want = beta != 0 ? (double)beta * (double)((i * ldc + j) % 5) : 0;
            for (size_t p = 0; j < n && p < k; p++)
                want += (double)a[ta ? p * lda + i : i * lda + p] *
                        (double)b[tb ? j * ldb + p : p * ldb + j];
            want = j < n ? want : (double)GUARD;
            double got = (double)c[i * ldc + j];
            if (!(fabs(got - want) <= 1e-6 * (double)k + 1e-6))
                fail_msg("%d%d m=%zu n=%zu k=%zu [%zu, %zu]: %.9g, want %.9g", ta, tb, m, n, k, i,
                         j, got, want);
        }
    free(a);
    free(b);
    free(c);
}

static void test_shapes(void **state)
{
    (void)state;
    static const size_t size[][3] = {{1, 1, 1},     {8, 32, 2},     {9, 33, 3},   {7, 31, 16},
                                     {16, 16, 31},  {40, 17, 33},   {97, 70, 64}, {100, 40, 257},
                                     {5, 520, 9},   {200, 35, 300}, {3, 1, 513},  {96, 512, 256},
                                     {33, 48, 768}, {48, 530, 770}};
    bool any = false;
    struct rng rng;
    rng_init(&rng, 1, 0);
    for (enum cpu_level l = CPU_C; l; l = cpu_level_next(l)) {
        gemm_bf16_fn *gemm = cpu_detect(l) == l ? gemm_bf16_for(l) : NULL;
        for (size_t s = 0; gemm && s < sizeof size / sizeof *size; s++)
            for (int t = 0; t < 4; t++)
                for (int beta = 0; beta <= 2; beta++)
                    check_one(gemm, t & 1, t >> 1, size[s][0], size[s][1], size[s][2], (float)beta,
                              &rng);
        any = any || gemm;
    }
    if (!any)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
