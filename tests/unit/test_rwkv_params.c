/* Layout, files of parameters, and shapes that files only claim. */
#include "tests/lib/check.h"

#include "engine/rwkv/params.h"
#include "engine/tensor/write.h"

#include <stdlib.h>
#include <unistd.h>

static const struct rwkv_shape small = {.n_layer = 2,
                                        .n_embd = 32,
                                        .head_size = 16,
                                        .n_ffn = 48,
                                        .n_vocab = 11,
                                        .rank_w = 3,
                                        .rank_a = 4,
                                        .rank_v = 5,
                                        .rank_g = 6};

static void test_layout(void **state)
{
    (void)state;
    struct rwkv_layout l;
    struct err e = {0};
    size_t end = 0, sum = 0;
    assert_int_equal(rwkv_layout_init(&l, &small, &e), 0);
    for (size_t i = 0; i < l.n; i++) { /* no overlap, 64-byte places */
        assert_true(l.param[i].offset >= end && l.param[i].offset % 16 == 0);
        end = l.param[i].offset + l.param[i].count;
        sum += l.param[i].count;
    }
    assert_true(end <= l.count);
    assert_int_equal(sum, l.n_params);
    assert_string_equal(l.param[0].name, "emb.weight");
    assert_string_equal(l.param[l.n - 1].name, "head.weight");
    assert_null(rwkv_layout_find(&l, "blocks.0.att.v0"));
    assert_int_equal(rwkv_layout_find(&l, "blocks.1.att.w0")->group, RWKV_GROUP_W0);
    assert_int_equal(rwkv_layout_find(&l, "blocks.1.att.w1")->group, RWKV_GROUP_PLAIN);
    assert_int_equal(rwkv_layout_find(&l, "blocks.0.ln1.weight")->group, RWKV_GROUP_PLAIN);
    assert_int_equal(rwkv_layout_find(&l, "blocks.0.ffn.key.weight")->group, RWKV_GROUP_DECAY);
    assert_int_equal(rwkv_layout_find(&l, "emb.weight")->group, RWKV_GROUP_DECAY);
    rwkv_layout_fini(&l);
}

static void test_refused_shapes(void **state)
{
    (void)state;
    struct rwkv_layout l;
    struct err e = {0};
    struct rwkv_shape s[5] = {small, small, small, small, small};
    s[0].n_layer = 0;
    s[1].head_size = 24;
    s[2].n_embd = 40;
    s[3].n_ffn = (size_t)1 << 40;
    s[4].rank_g = 0;
    for (int i = 0; i < 5; i++)
        assert_int_equal(rwkv_layout_init(&l, &s[i], &e), ERR_INVALID);
}

/* What is written is read back, and its shape with it. */
static void round_trip(int bf16)
{
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    struct rwkv_layout l;
    struct rwkv_shape shape;
    struct tensor_file *f = NULL;
    struct err e = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(rwkv_layout_init(&l, &small, &e), 0);
    float *x = calloc(l.count, sizeof *x), *y = calloc(l.count, sizeof *y);
    assert_int_equal(rwkv_params_init(&l, x, 4, &e), 0);
    assert_int_equal(rwkv_params_write(&l, x, path, bf16, &e), 0);
    assert_int_equal(tensor_file_open(path, &f, &e), 0);
    assert_int_equal(rwkv_shape_read(&shape, f, &e), 0);
    assert_memory_equal(&shape, &small, sizeof shape);
    assert_int_equal(rwkv_params_read(&l, y, f, &e), 0);
    for (size_t i = 0; i < l.count; i++)
        assert_true(y[i] == (bf16 ? bf16_to_f32(f32_to_bf16(x[i])) : x[i]));
    for (size_t i = 0; i < l.n; i++) /* in the reference's order */
        assert_non_null(tensor_file_find(f, l.param[i].name));
    tensor_file_close(f);
    unlink(path);
    free(x);
    free(y);
    rwkv_layout_fini(&l);
}

static void test_files(void **state)
{
    (void)state;
    round_trip(0);
    round_trip(1);
}

/* A file whose few small tensors claim a huge width, and one with a turned matrix. */
static void test_claims(void **state)
{
    (void)state;
    static const float zeros[1 << 18];
    struct tensor t[] = {
        {.name = "emb.weight", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1, 1 << 18}},
        {.name = "blocks.0.att.r_k", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1, 128}},
        {.name = "blocks.0.ffn.key.weight", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1 << 18, 1}},
        {.name = "blocks.0.att.w1", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1, 64}},
        {.name = "blocks.0.att.a1", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1, 64}},
        {.name = "blocks.0.att.g1", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1, 64}},
        {.name = "blocks.0.ln1.weight", .dtype = DTYPE_F32, .n_dims = 1, .shape = {1}},
    };
    enum { N = sizeof t / sizeof *t };
    struct buf b;
    struct err e = {0};
    struct tensor_file *f = NULL;
    struct rwkv_shape s;
    struct rwkv_layout l;
    for (size_t i = 0; i < N; i++) {
        t[i].count = t[i].shape[0] * (t[i].n_dims == 2 ? t[i].shape[1] : 1);
        t[i].bytes = t[i].count * 4;
        t[i].data = zeros;
    }
    buf_init(&b, 1 << 24);
    assert_int_equal(safetensors_pack(&b, t, N, NULL, 0, &e), 0);
    assert_int_equal(tensor_file_open_memory(b.data, b.len, &f, &e), 0);
    assert_int_equal(rwkv_shape_read(&s, f, &e), 0);
    assert_int_equal(s.n_embd, 1 << 18);
    assert_int_equal(rwkv_layout_init(&l, &s, &e), 0);
    assert_int_equal(rwkv_params_check(&l, f, &e), ERR_FORMAT);
    rwkv_layout_fini(&l);
    tensor_file_close(f);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_refused_shapes),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
