/* dtype.h: sizes, exact conversions, rounding, and every block type against gguf-py's values. */
#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void test_names_and_sizes(void **state)
{
    (void)state;
    enum dtype t;
    size_t n;
    assert_true(dtype_parse("q4_k", &t) && t == DTYPE_Q4_K);
    assert_true(dtype_parse("Bf16", &t) && t == DTYPE_BF16);
    assert_false(dtype_parse("F7", &t));
    assert_string_equal(dtype_name(DTYPE_Q8_0), "Q8_0");
    assert_true(dtype_bytes(DTYPE_Q8_0, 64, &n) && n == 68);
    assert_true(dtype_bytes(DTYPE_F64, 0, &n) && n == 0);
    assert_false(dtype_bytes(DTYPE_Q8_0, 33, &n));
    assert_false(dtype_bytes(DTYPE_F64, SIZE_MAX / 4, &n));
    for (int i = 0; i < DTYPE_COUNT; i++)
        assert_true(dtype_parse(dtype_name((enum dtype)i), &t) && (int)t == i);
}

/* By the definition of binary16, in double. */
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h & 0x8000 ? -v : v;
}

static void test_every_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f));
            assert_true(isnan(f16_to_f32(f32_to_f16(f))));
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f) && !signbit(f) == !(h >> 15));
        else
            assert_true((double)f == half_value((uint16_t)h) && !signbit(f) == !(h >> 15));
        assert_int_equal(f32_to_f16(f), h);
    }
}

/* The boundary between neighbours a < b goes to the even one; a hair beside it goes to the nearer.
 */
static void test_half_rounds_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double b = h == 0x7bff ? 65536.0 : half_value((uint16_t)(h + 1));
        float mid = (float)((half_value((uint16_t)h) + b) / 2); /* exact: 12 bits */
        assert_int_equal(f32_to_f16(mid), h & 1 ? h + 1 : h);
        assert_int_equal(f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(f32_to_f16(-mid), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = bf16_to_f32((uint16_t)h);
        assert_int_equal(bits(f), h << 16);
        if (isnan(f))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(f))));
        else
            assert_int_equal(f32_to_bf16(f), h);
    }
    assert_int_equal(f32_to_bf16(0x1.01p0f), 0x3f80);       /* halfway, to even: down */
    assert_int_equal(f32_to_bf16(0x1.03p0f), 0x3f82);       /* halfway, to even: up */
    assert_int_equal(f32_to_bf16(0x1.010002p0f), 0x3f81);   /* just above */
    assert_int_equal(f32_to_bf16(0x1.fffffep127f), 0x7f80); /* rounds to infinity */
    float signalling;
    memcpy(&signalling, &(uint32_t){0x7f800001}, 4);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(signalling))));
}

static void test_bulk_equals_single(void **state)
{
    (void)state;
    enum { N = 1031 };
    static uint8_t from[2 * N + 1];
    static float x[N], y[N];
    uint32_t r = 1;
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)((r = r * 1664525u + 1013904223u) >> 24);
    dtype_to_f32(DTYPE_F16, from + 1, x, N); /* odd address */
    for (size_t i = 0; i < N; i++) {
        uint16_t h;
        memcpy(&h, from + 1 + 2 * i, 2);
        assert_int_equal(bits(x[i]), bits(f16_to_f32(h)));
    }
    assert_true(dtype_from_f32(DTYPE_F16, x, from, N));
    for (size_t i = 0; i < N; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, 2);
        assert_int_equal(h, f32_to_f16(x[i]));
    }
    dtype_to_f32(DTYPE_BF16, from + 1, x, N);
    assert_true(dtype_from_f32(DTYPE_BF16, x, from, N));
    dtype_to_f32(DTYPE_BF16, from, y, N);
    for (size_t i = 0; i < N; i++)
        assert_true(isnan(x[i]) ? isnan(y[i]) : bits(x[i]) == bits(y[i]));
}

static void test_integers(void **state)
{
    (void)state;
    float x[2];
    dtype_to_f32(DTYPE_I64, (int64_t[]){INT64_MIN, 16777217}, x, 2);
    assert_true(x[0] == -0x1p63f && x[1] == 16777216.0f);
    dtype_to_f32(DTYPE_I8, (int8_t[]){-128, 127}, x, 2);
    assert_true(x[0] == -128 && x[1] == 127);
    dtype_to_f32(DTYPE_U8, (uint8_t[]){200, 0}, x, 2);
    assert_true(x[0] == 200 && x[1] == 0);
    dtype_to_f32(DTYPE_I16, (int16_t[]){-32768, 5}, x, 2);
    assert_true(x[0] == -32768 && x[1] == 5);
    dtype_to_f32(DTYPE_I32, (int32_t[]){-7, 1 << 30}, x, 2);
    assert_true(x[0] == -7 && x[1] == 0x1p30f);
    dtype_to_f32(DTYPE_BOOL, (uint8_t[]){0, 2}, x, 2);
    assert_true(x[0] == 0 && x[1] == 1);
    dtype_to_f32(DTYPE_F64, (double[]){0.1, 1e300}, x, 2);
    assert_true(x[0] == 0.1f && isinf(x[1]));
    assert_false(dtype_from_f32(DTYPE_I8, x, &(int8_t){0}, 1));
    assert_false(dtype_from_f32(DTYPE_Q4_K, x, &(int8_t){0}, 256));
    assert_false(dtype_from_f32(DTYPE_Q8_0, x, &(int8_t){0}, 1));
}

static void check_type(const struct tensor_file *f, const char *type)
{
    char name[32];
    enum dtype t;
    assert_true(dtype_parse(type, &t));
    snprintf(name, sizeof name, "%s.blocks", type);
    const struct tensor *blocks = tensor_file_find(f, name);
    assert_non_null(blocks);
    snprintf(name, sizeof name, "%s.values", type);
    const size_t n = 6 * 1024;
    float *want = golden_f32(f, name, n), *got = malloc(n * sizeof *got);
    assert_non_null(got);
    size_t bytes;
    assert_true(dtype_bytes(t, n, &bytes) && bytes == blocks->bytes);
    dtype_to_f32(t, blocks->data, got, n);
    bool exact = t == DTYPE_F16 || t == DTYPE_BF16 || dtype_block_len(t) == 256;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - (double)want[i]);
        if (!(off <= (exact ? 0 : 1e-6 * fabs((double)want[i]))))
            fail_msg("%s element %zu is %.9g, want %.9g", type, i, (double)got[i], (double)want[i]);
    }
    free(want);
    free(got);
}

static void test_gguf_blocks(void **state)
{
    (void)state;
    static const char *const all[] = {"F16",  "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0",
                                      "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
    struct tensor_file *f = golden_open("gguf-blocks/blocks.safetensors");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        check_type(f, all[i]);
    tensor_file_close(f);
}

/* Scales that divide evenly: every quantised value is known by hand. */
static void test_quantise_by_hand(void **state)
{
    (void)state;
    float x[32], y[32];
    uint8_t b[34];
    for (int i = 0; i < 32; i++)
        x[i] = (float)(i - 16) * 0.25f;
    x[0] = 127.0f; /* d = 1: q = x rounded, halves away from zero */
    assert_true(dtype_from_f32(DTYPE_Q8_0, x, b, 32));
    dtype_to_f32(DTYPE_Q8_0, b, y, 32);
    for (int i = 0; i < 32; i++)
        assert_true(y[i] == roundf(x[i]));
    x[0] = -8.0f; /* d = 1: q = cut(x + 8.5), at most 15 */
    x[1] = 7.75f;
    assert_true(dtype_from_f32(DTYPE_Q4_0, x, b, 32));
    dtype_to_f32(DTYPE_Q4_0, b, y, 32);
    for (int i = 0; i < 32; i++)
        assert_true(y[i] == fminf(floorf(x[i] + 0.5f), 7));
    x[0] = 8.0f; /* the largest is positive: d = -1 */
    assert_true(dtype_from_f32(DTYPE_Q4_0, x, b, 32));
    dtype_to_f32(DTYPE_Q4_0, b, y, 32);
    assert_true(y[0] == 8.0f && y[2] == -4.0f); /* -3.5 / -1 + 8.5 = 12 -> (12 - 8) * -1 = -4 */
}

static void test_quantise_odd_input(void **state)
{
    (void)state;
    float x[32] = {0}, y[32];
    uint8_t b[34];
    for (int pass = 0; pass < 2; pass++) {
        enum dtype t = pass ? DTYPE_Q4_0 : DTYPE_Q8_0;
        memset(x, 0, sizeof x);
        assert_true(dtype_from_f32(t, x, b, 32));
        dtype_to_f32(t, b, y, 32);
        assert_true(y[0] == 0 && y[31] == 0);
        x[3] = NAN, x[5] = INFINITY, x[7] = -3e38f; /* must only not be undefined */
        assert_true(dtype_from_f32(t, x, b, 32));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_sizes),     cmocka_unit_test(test_every_half),
        cmocka_unit_test(test_half_rounds_to_even), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bulk_equals_single),  cmocka_unit_test(test_integers),
        cmocka_unit_test(test_gguf_blocks),         cmocka_unit_test(test_quantise_by_hand),
        cmocka_unit_test(test_quantise_odd_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
