/* The laws of arithmetic on states, on drawn states of several shapes: which hold bit for bit, which to
 * rounding, and that a selector's rest is never touched. */
#include "tests/lib/check.h"

#include "engine/kernels/rng.h"
#include "engine/rwkv/edit.h"

#include <math.h>
#include <stdlib.h>

static const struct rwkv_info SHAPES[] = {
    {.n_layer = 1, .n_embd = 32, .head_size = 32, .n_head = 1},
    {.n_layer = 3, .n_embd = 128, .head_size = 64, .n_head = 2},
    {.n_layer = 4, .n_embd = 192, .head_size = 32, .n_head = 6},
};
#define N_SHAPES (sizeof SHAPES / sizeof *SHAPES)

/* Blocks of unequal size of numbers, one of them zero. */
static float *draw_state(const struct rwkv_info *info, uint64_t seed)
{
    struct rng rng;
    float *x = rwkv_state_new(info);
    rng_init(&rng, seed, 0);
    for (size_t i = 1; i < rwkv_block_count(info); i++) {
        struct rwkv_block b = rwkv_block(info, i);
        double size = exp(3 * rng_normal(&rng));
        for (size_t j = b.first; j < b.first + b.n; j++)
            x[j] = (float)(size * rng_normal(&rng));
    }
    x[5] = -0.0f;
    return x;
}

static size_t bytes_of(const struct rwkv_info *info)
{
    return rwkv_state_floats(info) * sizeof(float);
}

static float *copy_of(const struct rwkv_info *info, const float *x)
{
    float *y = rwkv_state_new(info);
    memcpy(y, x, bytes_of(info));
    return y;
}

/* kind with amount and one other (or none) over all blocks of a copy of x; free(). */
static float *edited(const struct rwkv_info *info, enum rwkv_edit_kind kind, const float *x,
                     const float *with, double amount)
{
    struct err e = {0};
    struct rwkv_edit op = {.kind = kind,
                           .select = RWKV_SELECT_ALL,
                           .amount = amount,
                           .with = &with,
                           .n_with = with ? 1 : 0};
    float *y = copy_of(info, x);
    if (rwkv_edit_apply(info, &op, y, &e) < 0)
        fail_msg("%s", e.msg);
    return y;
}

static void same(const struct rwkv_info *info, float *got, const float *want)
{
    assert_memory_equal(got, want, bytes_of(info));
    free(got);
}

static void test_blocks(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++) {
        const struct rwkv_info *info = &SHAPES[s];
        size_t at = 0;
        for (size_t i = 0; i < rwkv_block_count(info); i++) {
            struct rwkv_block b = rwkv_block(info, i);
            assert_int_equal(b.first, at); /* they tile the state */
            at += b.n;
            float *x = NULL;
            if (b.part == RWKV_ATT_SHIFT)
                x = rwkv_state_att_shift(info, NULL, b.layer);
            else if (b.part == RWKV_FFN_SHIFT)
                x = rwkv_state_ffn_shift(info, NULL, b.layer);
            else
                x = rwkv_state_wkv(info, NULL, b.layer) + b.head * b.n;
            assert_int_equal((uintptr_t)x / sizeof *x, b.first);
        }
        assert_int_equal(at, rwkv_state_floats(info));
    }
}

/* Bit for bit. */
static void test_identities(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++) {
        const struct rwkv_info *info = &SHAPES[s];
        float *a = draw_state(info, 1 + s), *b = draw_state(info, 50 + s);
        float *zero = rwkv_state_new(info), *x;
        same(info, edited(info, RWKV_EDIT_LERP, a, b, 0), a);
        same(info, edited(info, RWKV_EDIT_LERP, a, b, 1), b);
        same(info, edited(info, RWKV_EDIT_SLERP, a, b, 0), a);
        same(info, edited(info, RWKV_EDIT_SLERP, a, b, 1), b);
        same(info, edited(info, RWKV_EDIT_COPY, a, b, 0), b);
        same(info, edited(info, RWKV_EDIT_SCALE, a, NULL, 1), a);
        same(info, edited(info, RWKV_EDIT_MEAN, a, NULL, 0), a);
        same(info, edited(info, RWKV_EDIT_MEAN, a, a, 0), a);
        same(info, edited(info, RWKV_EDIT_ADD, a, b, 0), a);
        same(info, edited(info, RWKV_EDIT_NOISE, a, NULL, 0), a);
        same(info, edited(info, RWKV_EDIT_CLAMP_NORM, a, NULL, 1e30), a);
        same(info, edited(info, RWKV_EDIT_ZERO, a, NULL, 0), zero);
        x = edited(info, RWKV_EDIT_ADD, a, a, -1); /* a - a = 0 (of either sign) */
        for (size_t i = 0; i < rwkv_state_floats(info); i++)
            assert_true(x[i] == 0);
        free(x);
        x = edited(info, RWKV_EDIT_SCALE, a, NULL, -1);
        same(info, edited(info, RWKV_EDIT_SCALE, x, NULL, -1), a);
        free(x), free(a), free(b), free(zero);
    }
}

/* To rounding: a + b - b, lerp there and back, halves, the norm along an arc. */
static void test_rounding(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++) {
        const struct rwkv_info *info = &SHAPES[s];
        float *a = draw_state(info, 1 + s), *b = draw_state(info, 50 + s);
        float *sum = edited(info, RWKV_EDIT_ADD, a, b, 1);
        float *back = edited(info, RWKV_EDIT_ADD, sum, b, -1);
        float *half = edited(info, RWKV_EDIT_LERP, a, b, .5),
              *mean = edited(info, RWKV_EDIT_MEAN, a, b, 0);
        float *other = edited(info, RWKV_EDIT_LERP, b, a, .25),
              *lerp = edited(info, RWKV_EDIT_LERP, a, b, .75);
        for (size_t i = 0; i < rwkv_state_floats(info); i++) {
            double size = fabs((double)a[i]) + fabs((double)b[i]);
            assert_true(fabs((double)(back[i] - a[i])) <= 2e-7 * size);
            assert_true(fabs((double)(half[i] - mean[i])) <= 2e-7 * size);
            assert_true(fabs((double)(other[i] - lerp[i])) <= 2e-7 * size);
        }
        free(a), free(b), free(sum), free(back), free(half), free(mean), free(other), free(lerp);
    }
}

/* Equal norms: the arc stays on the sphere, and its angles add up. */
static void test_slerp(void **state)
{
    (void)state;
    struct err e = {0};
    const struct rwkv_info *info = &SHAPES[1];
    float *a = draw_state(info, 3), *b = draw_state(info, 4);
    struct rwkv_edit like_a = {.kind = RWKV_EDIT_COPY,
                               .select = RWKV_SELECT_ALL,
                               .normalize = true,
                               .with = (const float *[]){b},
                               .n_with = 1};
    float *c = copy_of(info, a); /* b's directions with a's norms */
    assert_int_equal(rwkv_edit_apply(info, &like_a, c, &e), 0);
    float *x = edited(info, RWKV_EDIT_SLERP, a, c, .3);
    for (size_t i = 1; i < rwkv_block_count(info); i++) {
        struct rwkv_block k = rwkv_block(info, i);
        struct rwkv_difference ac = rwkv_compare(a + k.first, c + k.first, k.n);
        struct rwkv_difference ax = rwkv_compare(a + k.first, x + k.first, k.n);
        assert_true(fabs(ac.norm_b / ac.norm_a - 1) < 1e-6);
        assert_true(fabs(ax.norm_b / ax.norm_a - 1) < 1e-6);
        assert_true(fabs(acos(ax.cosine) - .3 * acos(ac.cosine)) < 1e-4);
    }
    float *opposite = edited(info, RWKV_EDIT_SCALE, a, NULL, -1); /* no arc: as lerp */
    float *mid = edited(info, RWKV_EDIT_SLERP, a, opposite, .25),
          *half = edited(info, RWKV_EDIT_SCALE, a, NULL, .5);
    check_close("opposite", mid, half, rwkv_state_floats(info), 1e-6);
    free(a), free(b), free(c), free(x), free(opposite), free(mid), free(half);
}

/* Every kind, with and without normalize: blocks outside the selector keep their bytes, those inside
 * become what the whole edit makes of them. */
static void test_selectors(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 9, 0);
    for (int round = 0; round < 200; round++) {
        const struct rwkv_info *info = &SHAPES[round % N_SHAPES];
        struct err e = {0};
        bool layers[4], heads[6];
        float *a = draw_state(info, 100 + (uint64_t)round), *b = draw_state(info, 7);
        float *c = draw_state(info, 8), *x = copy_of(info, a), *all = copy_of(info, a);
        struct rwkv_edit op = {.kind = (enum rwkv_edit_kind)rng_below(&rng, RWKV_EDIT_COPY + 1),
                               .select = RWKV_SELECT_ALL,
                               .amount = .7,
                               .seed = 3,
                               .normalize = rng_below(&rng, 2),
                               .with = (const float *[]){b},
                               .n_with = 1,
                               .minus = (const float *[]){c},
                               .n_minus = 1};
        assert_int_equal(rwkv_edit_apply(info, &op, all, &e), 0);
        for (size_t i = 0; i < RWKV_N_PARTS; i++)
            op.select.parts[i] = rng_below(&rng, 2);
        for (size_t i = 0; i < 4; i++)
            layers[i] = rng_below(&rng, 2);
        for (size_t i = 0; i < 6; i++)
            heads[i] = rng_below(&rng, 2);
        op.select.layers = rng_below(&rng, 3) ? layers : NULL;
        op.select.heads = rng_below(&rng, 3) ? heads : NULL;
        assert_int_equal(rwkv_edit_apply(info, &op, x, &e), 0);
        for (size_t i = 0; i < rwkv_block_count(info); i++) {
            struct rwkv_block k = rwkv_block(info, i);
            const float *want = rwkv_selected(&op.select, &k) ? all : a;
            assert_memory_equal(x + k.first, want + k.first, k.n * sizeof *x);
            struct rwkv_difference d = rwkv_compare(a + k.first, all + k.first, k.n);
            if (op.normalize && d.norm_b > 0)
                assert_true(fabs(d.norm_b - d.norm_a) <= 1e-6 * d.norm_a);
        }
        free(a), free(b), free(c), free(x), free(all);
    }
}

static void test_norms_and_noise(void **state)
{
    (void)state;
    const struct rwkv_info *info = &SHAPES[2];
    float *a = draw_state(info, 1), *clamped = edited(info, RWKV_EDIT_CLAMP_NORM, a, NULL, 3);
    float *noisy = edited(info, RWKV_EDIT_NOISE, a, NULL, .5),
          *again = edited(info, RWKV_EDIT_NOISE, a, NULL, .5);
    assert_memory_equal(noisy, again, bytes_of(info));
    for (size_t i = 1; i < rwkv_block_count(info); i++) {
        struct rwkv_block k = rwkv_block(info, i);
        struct rwkv_difference d = rwkv_compare(a + k.first, clamped + k.first, k.n);
        assert_true(d.norm_a <= 3 ? d.relative_l2 == 0 : fabs(d.norm_b - 3) < 1e-5);
        assert_true(fabs(d.cosine - 1) < 1e-6);
        d = rwkv_compare(a + k.first, noisy + k.first, k.n);
        assert_true(fabs(d.relative_l2 - .5) < 3 * .5 / sqrt(2. * (double)k.n));
    }
    free(a), free(clamped), free(noisy), free(again);
}

static void test_compare(void **state)
{
    (void)state;
    float a[] = {3, 0, 4}, b[] = {0, 0, 4}, zero[3] = {0}, minus[] = {-3, 0, -4};
    struct rwkv_difference d = rwkv_compare(a, b, 3);
    assert_true(d.norm_a == 5 && d.norm_b == 4 && fabs(d.cosine - .8) < 1e-12 &&
                fabs(d.relative_l2 - .6) < 1e-12);
    d = rwkv_compare(a, a, 3);
    assert_true(d.cosine == 1 && d.relative_l2 == 0);
    d = rwkv_compare(a, minus, 3);
    assert_true(d.cosine == -1 && d.relative_l2 == 2);
    d = rwkv_compare(zero, zero, 3);
    assert_true(d.cosine == 1 && d.relative_l2 == 0);
    d = rwkv_compare(zero, a, 3);
    assert_true(d.cosine == 0 && isinf(d.relative_l2));
}

static void test_refused(void **state)
{
    (void)state;
    struct err e = {0};
    const struct rwkv_info *info = &SHAPES[0];
    float *a = draw_state(info, 1), *x = copy_of(info, a);
    struct rwkv_edit op = {.kind = RWKV_EDIT_SCALE, .select = RWKV_SELECT_ALL, .amount = NAN};
    assert_int_equal(rwkv_edit_apply(info, &op, x, &e), ERR_INVALID);
    op.kind = RWKV_EDIT_LERP;
    op.amount = .5;
    assert_int_equal(rwkv_edit_apply(info, &op, x, &e), ERR_INVALID); /* with what? */
    op.kind = RWKV_EDIT_NOISE;
    op.amount = -1;
    assert_int_equal(rwkv_edit_apply(info, &op, x, &e), ERR_INVALID);
    assert_memory_equal(x, a, bytes_of(info));
    op.kind = RWKV_EDIT_SCALE;
    op.amount = 1e39;
    assert_int_equal(rwkv_edit_apply(info, &op, x, &e), ERR_NUMERIC);
    memcpy(x, a, bytes_of(info));
    x[100] = NAN;
    op.amount = 1;
    assert_int_equal(rwkv_edit_apply(info, &op, x, &e), ERR_NUMERIC);
    free(a), free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),    cmocka_unit_test(test_identities),
        cmocka_unit_test(test_rounding),  cmocka_unit_test(test_slerp),
        cmocka_unit_test(test_selectors), cmocka_unit_test(test_norms_and_noise),
        cmocka_unit_test(test_compare),   cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
