/* Opening models: what the file says about itself, the fingerprint over formats, errors that name the
 * tensor; and evaluation when a token or a state is bad. */
#include "tests/lib/model.h"

#include "engine/tensor/write.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define FP32 "rwkv7-rand/rwkv7-rand-fp32.safetensors"

static void test_info(void **state)
{
    (void)state;
    struct test_model t;
    test_model_open(&t, FP32, 1, -1, CPU_AUTO);
    const struct rwkv_info *i = t.info;
    assert_int_equal(i->n_layer, 3);
    assert_int_equal(i->n_embd, 128);
    assert_int_equal(i->head_size, 64);
    assert_int_equal(i->n_head, 2);
    assert_int_equal(i->n_ffn, 512);
    assert_int_equal(i->n_vocab, 1000);
    assert_true(i->rank_w == 32 && i->rank_a == 32 && i->rank_v == 16 && i->rank_g == 48);
    assert_int_equal(i->weights_type, DTYPE_F32);
    assert_int_equal(i->file_weight_bytes, i->n_params * 4);
    assert_true(i->weight_bytes < i->file_weight_bytes);
    assert_false(i->has_time_state);
    assert_int_equal(rwkv_state_floats(i), 3 * (2 * 128 + 128 * 64));
    test_model_close(&t);
}

static void fingerprint_of(const char *file, int type, char out[65])
{
    struct test_model t;
    test_model_open(&t, file, 2, type, CPU_AUTO);
    memcpy(out, t.info->fingerprint, 65);
    assert_int_equal(strlen(out), 64);
    test_model_close(&t);
}

static void test_fingerprint(void **state)
{
    (void)state;
    char a[65], b[65];
    fingerprint_of(FP32, -1, a);
    fingerprint_of(FP32, DTYPE_Q8_0, b);
    assert_string_equal(a, b);
    fingerprint_of("rwkv7-rand/rwkv7-rand-bf16.pth", -1, b);
    assert_string_not_equal(a, b);
    fingerprint_of("rwkv7-rand/rwkv7-rand-f16.gguf", -1, b);
    assert_string_not_equal(a, b);
    fingerprint_of("state-files/model-fp32.pth", -1, a);
    fingerprint_of("state-files/model-fp32.safetensors", -1, b);
    assert_string_equal(a, b);
}

/* The formats that are only in the shared golden data. */
static void test_fingerprint_formats(void **state)
{
    (void)state;
    char a[65], b[65];
    fingerprint_of(FP32, -1, a);
    fingerprint_of("rwkv7-rand/rwkv7-rand-f32.gguf", -1, b);
    assert_string_equal(a, b);
    fingerprint_of("rwkv7-rand/rwkv7-rand-fp32.pth", -1, b);
    assert_string_equal(a, b);
}

/* ---- files with one thing wrong ---- */

struct edit {
    const char *tensor; /* the one to change, or NULL */
    bool drop;
    enum dtype dtype;   /* with shape [n0, n1]: replaces it, zero-filled; n0 = 0: stays */
    size_t n0, n1;
    int code;
    const char *message; /* must occur in the error */
};

/* Without the syncing that a kept file deserves. */
static void write_tensors(const char *path, const struct tensor *all, size_t n)
{
    struct err e = {0};
    struct buf b;
    buf_init(&b, 64 << 20);
    if (safetensors_pack(&b, all, n, NULL, 0, &e) < 0)
        fail_msg("%s", e.msg);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(b.data, 1, b.len, out), b.len);
    assert_int_equal(fclose(out), 0);
    buf_fini(&b);
}

static void try_edit(const char *file, const struct edit *x)
{
    struct tensor_file *f = golden_open(file);
    size_t n = tensor_file_count(f), kept = 0;
    struct tensor *all = calloc(n, sizeof *all);
    void *zeros = calloc(1, 1 << 20);
    char path[] = "build/dreamstate-test-XXXXXX";
    struct err e = {0};
    assert_true(all && zeros);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = tensor_file_get(f, i);
        bool hit = x->tensor && !strcmp(t->name, x->tensor);
        if (hit && x->drop)
            continue;
        all[kept] = *t;
        if (hit && x->n0) {
            all[kept].dtype = x->dtype;
            all[kept].n_dims = 2;
            all[kept].shape[0] = x->n0, all[kept].shape[1] = x->n1;
            all[kept].count = x->n0 * x->n1;
            assert_true(dtype_bytes(x->dtype, all[kept].count, &all[kept].bytes));
            assert_true(all[kept].bytes <= 1 << 20);
            all[kept].data = zeros;
        }
        kept++;
    }
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_tensors(path, all, kept);
    struct pool *pool = pool_new(1, "test", 0, &e);
    struct rwkv_model *m = NULL;
    assert_non_null(pool);
    int rc = rwkv_open(path, &(struct rwkv_options){.weights_type = -1}, pool, &m, &e);
    unlink(path);
    if (rc != x->code || (rc < 0 && !strstr(e.msg, x->message)))
        fail_msg("%s: %d, '%s'; want %d, '%s'", x->tensor, rc, e.msg, x->code, x->message);
    rwkv_close(m);
    pool_free(pool);
    free(zeros);
    free(all);
    tensor_file_close(f);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {.tensor = NULL},
        {.tensor = "blocks.1.att.key.weight", .drop = true, .code = ERR_FORMAT,
         .message = "tensor blocks.1.att.key.weight: not in the file"},
        {.tensor = "emb.weight", .drop = true, .code = ERR_FORMAT, .message = "emb.weight"},
        {.tensor = "blocks.0.ln1.weight", .drop = true, .code = ERR_FORMAT, .message = "tensor blocks.0.ln1.weight: not in the file"},
        {.tensor = "blocks.1.att.key.weight", .dtype = DTYPE_F32, .n0 = 128, .n1 = 64,
         .code = ERR_FORMAT, .message = "blocks.1.att.key.weight: shape [128, 64], want [128, 128]"},
        {.tensor = "blocks.2.ffn.value.weight", .dtype = DTYPE_BF16, .n0 = 512, .n1 = 128,
         .code = ERR_FORMAT, .message = "shape [512, 128], want [128, 512]"},
        {.tensor = "head.weight", .dtype = DTYPE_F32, .n0 = 999, .n1 = 128, .code = ERR_FORMAT,
         .message = "head.weight: shape [999, 128], want [1000, 128]"},
        {.tensor = "blocks.0.att.r_k", .dtype = DTYPE_F32, .n0 = 8, .n1 = 16, .code = ERR_FORMAT,
         .message = "head size 16"},
        {.tensor = "blocks.0.att.w1", .dtype = DTYPE_F32, .n0 = 64, .n1 = 32, .code = ERR_FORMAT,
         .message = "blocks.0.att.w1: shape [64, 32]"},
        {.tensor = "blocks.2.att.w1", .dtype = DTYPE_F32, .n0 = 32, .n1 = 128, .code = ERR_FORMAT,
         .message = "blocks.2.att.w1: shape [32, 128], want [128, 32]"},
        {.tensor = "ln_out.bias", .dtype = DTYPE_F32, .n0 = 1, .n1 = 127, .code = ERR_FORMAT,
         .message = "ln_out.bias: shape [1, 127], want [128]"},
        {.tensor = "blocks.0.att.output.weight", .dtype = DTYPE_I32, .n0 = 128, .n1 = 128,
         .code = ERR_FORMAT, .message = "blocks.0.att.output.weight: type I32"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        try_edit(FP32, &edits[i]);
}

/* Every tensor in turn: missing, of a type that holds no weights, of a shape that cannot be. */
static void test_each_tensor(void **state)
{
    (void)state;
    static const char model[] = "state-files/model-fp32.safetensors";
    struct tensor_file *f = golden_open(model);
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const char *name = tensor_file_get(f, i)->name;
        const struct edit edits[] = {
            {.tensor = name, .drop = true, .code = ERR_FORMAT, .message = name},
            {.tensor = name, .dtype = DTYPE_U8, .n0 = 3, .n1 = 5, .code = ERR_FORMAT, .message = name},
            {.tensor = name, .dtype = DTYPE_F32, .n0 = 3, .n1 = 5, .code = ERR_FORMAT, .message = ""},
            {.tensor = name, .dtype = DTYPE_F16, .n0 = 1, .n1 = 1, .code = ERR_FORMAT, .message = ""},
        };
        for (size_t k = 0; k < sizeof edits / sizeof *edits; k++)
            try_edit(model, &edits[k]);
    }
    tensor_file_close(f);
}

static void test_bad_options(void **state)
{
    (void)state;
    struct err e = {0};
    struct rwkv_model *m = NULL;
    struct pool *pool = pool_new(1, "test", 0, &e);
    assert_non_null(pool);
    int bad[] = {DTYPE_I32, DTYPE_F64, 1000};
    for (int i = 0; i < 3; i++) {
        int rc = rwkv_open("none", &(struct rwkv_options){.weights_type = bad[i]}, pool, &m, &e);
        assert_int_equal(rc, ERR_INVALID);
        assert_string_equal(e.param, "weights_type");
    }
    assert_int_equal(rwkv_open("no such file", &(struct rwkv_options){.weights_type = -1}, pool, &m, &e),
                     ERR_IO);
    pool_free(pool);
    rwkv_close(NULL);
    rwkv_session_free(NULL);
}

/* ---- evaluation ---- */

static void test_bad_token(void **state)
{
    (void)state;
    struct test_model t;
    struct err e = {0};
    test_model_open(&t, FP32, 1, -1, CPU_AUTO);
    struct rwkv_session *s = rwkv_session_new(t.m, t.pool, 4, &e);
    float *st[2] = {rwkv_state_new(t.info), rwkv_state_new(t.info)};
    assert_true(s && st[0] && st[1]);
    uint32_t good[] = {1, 2, 3}, bad[] = {4, 1000};
    struct rwkv_seq q[] = {{.tokens = good, .n_tokens = 3, .state = st[0]},
                           {.tokens = bad, .n_tokens = 2, .state = st[1]}};
    assert_int_equal(rwkv_eval(s, q, 2, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "token 1000"));
    for (size_t i = 0; i < rwkv_state_floats(t.info); i++)
        assert_true(st[0][i] == 0 && st[1][i] == 0);
    q[1].n_tokens = 0;
    assert_int_equal(rwkv_eval(s, q, 2, &e), ERR_INVALID);
    assert_int_equal(rwkv_eval(s, q, 0, &e), 0);
    free(st[0]), free(st[1]);
    rwkv_session_free(s);
    test_model_close(&t);
}

/* One sequence of three begins with a NaN, an infinity or numbers that overflow, in each part of the
 * state; it is told, the others have the bytes they have alone. */
static void test_not_finite(void **state)
{
    (void)state;
    struct test_model t;
    struct err e = {0};
    test_model_open(&t, FP32, 2, -1, CPU_AUTO);
    const struct rwkv_info *info = t.info;
    struct rwkv_session *s = rwkv_session_new(t.m, t.pool, 5, &e);
    uint32_t ids[] = {5, 6, 7, 8};
    size_t V = info->n_vocab, floats = rwkv_state_floats(info);
    float *alone = rwkv_state_new(info), *st[3], *logits = malloc(4 * V * sizeof *logits);
    assert_true(s && alone && logits);
    for (int i = 0; i < 3; i++)
        assert_non_null(st[i] = rwkv_state_new(info));
    struct rwkv_seq one = {.tokens = ids, .n_tokens = 4, .state = alone, .logits = logits + 3 * V};
    assert_int_equal(rwkv_eval(s, &one, 1, &e), 0);
    size_t places[] = {0, 200, floats / 2, floats - 1};
    float values[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int trial = 0; trial < 16; trial++) {
        struct rwkv_seq q[3];
        for (int i = 0; i < 3; i++) {
            memset(st[i], 0, floats * sizeof(float));
            q[i] = (struct rwkv_seq){.tokens = ids, .n_tokens = 4, .state = st[i],
                                     .logits = logits + (size_t)i * V};
        }
        st[1][places[trial / 4]] = values[trial % 4];
        if (trial % 4 == 3) /* finite, but too large to square */
            for (size_t i = 0; i < floats; i++)
                st[1][i] = values[3];
        assert_int_equal(rwkv_eval(s, q, 3, &e), ERR_NUMERIC);
        assert_non_null(strstr(e.msg, "sequence 1"));
        assert_true(!q[0].not_finite && q[1].not_finite && !q[2].not_finite);
        for (int i = 0; i < 3; i += 2) {
            assert_memory_equal(st[i], alone, floats * sizeof(float));
            assert_memory_equal(q[i].logits, one.logits, V * sizeof(float));
        }
    }
    for (int i = 0; i < 3; i++)
        free(st[i]);
    free(alone), free(logits);
    rwkv_session_free(s);
    test_model_close(&t);
}

/* Of three sequences some are cancelled: those behind all others are given up, also in blocks that
 * follow; the others have the bytes they have alone. */
static void test_given_up(void **state)
{
    (void)state;
    struct test_model t;
    struct err e = {0};
    test_model_open(&t, FP32, 2, -1, CPU_AUTO);
    const struct rwkv_info *info = t.info;
    uint32_t ids[] = {5, 6, 7, 8};
    size_t V = info->n_vocab, floats = rwkv_state_floats(info);
    float *alone = rwkv_state_new(info), *st[3], *logits = malloc(4 * V * sizeof *logits);
    assert_true(alone && logits);
    for (int i = 0; i < 3; i++)
        assert_non_null(st[i] = rwkv_state_new(info));
    for (size_t rows = 3; rows <= 12; rows += 9) {
        struct rwkv_session *s = rwkv_session_new(t.m, t.pool, rows, &e);
        struct rwkv_seq one = {.tokens = ids, .n_tokens = 4, .state = alone, .logits = logits + 3 * V};
        memset(alone, 0, floats * sizeof *alone);
        assert_non_null(s);
        assert_int_equal(rwkv_eval(s, &one, 1, &e), 0);
        assert_false(one.given_up);
        for (unsigned which = 0; which < 8; which++) {
            atomic_bool cancel[3];
            struct rwkv_seq q[3];
            for (int i = 0; i < 3; i++) {
                memset(st[i], 0, floats * sizeof(float));
                atomic_init(&cancel[i], which >> i & 1);
                q[i] = (struct rwkv_seq){.tokens = ids, .n_tokens = 4, .state = st[i],
                                         .logits = logits + (size_t)i * V, .cancel = &cancel[i]};
            }
            assert_int_equal(rwkv_eval(s, q, 3, &e), 0);
            assert_true(q[2].given_up == (which >> 2 & 1));
            for (int i = 0; i < 3; i++) {
                assert_true(!q[i].given_up || (which >> i & 1));
                if (q[i].given_up)
                    continue;
                assert_memory_equal(st[i], alone, floats * sizeof(float));
                assert_memory_equal(q[i].logits, one.logits, V * sizeof(float));
            }
            if (which == 7)
                assert_true(q[0].given_up && q[1].given_up);
        }
        rwkv_session_free(s);
    }
    for (int i = 0; i < 3; i++)
        free(st[i]);
    free(alone), free(logits);
    test_model_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_fingerprint_formats),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_each_tensor),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_bad_token),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
