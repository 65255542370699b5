/* Without memory: opening and writing tensor files, models and vocabularies, reading the command line. */
#include "daemon/config.h"
#include "engine/kernels/pool.h"
#include "engine/rwkv/gguf.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tokenizer/gguf_vocab.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <stdlib.h>
#include <unistd.h>

static char path[] = P_tmpdir "/dreamstate-XXXXXX";

static int open_file(void *name)
{
    struct tensor_file *f = NULL;
    struct err e = {0};
    int rc = tensor_file_open(name, &f, &e);
    assert_int_equal(rc, e.code);
    uint8_t digest[32];
    if (rc == 0)
        rc = tensor_sha256_f32(tensor_file_get(f, 0), digest, &e);
    tensor_file_close(f);
    return rc;
}

static void test_open_file(void **state)
{
    (void)state;
    static const char *const names[] = {
        "loader-fixtures/mixed_dtypes_params.safetensors",
        "loader-fixtures/mixed_dtypes_params.pth",
        "loader-fixtures/nested_with_non_tensors.pth",
        "loader-fixtures/rezipped_deflate.pth",
        "rwkv7-rand/rwkv7-rand-q8_0.gguf",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s", golden_path(names[i]));
        alloc_sweep(open_file, name);
        alloc_sweep_json(open_file, name);
    }
}

static int pack(void *arg)
{
    static const float x[2] = {1, 2};
    const struct tensor t = {.name = "x",
                             .dtype = DTYPE_F32,
                             .n_dims = 1,
                             .shape = {2},
                             .count = 2,
                             .bytes = 8,
                             .data = x};
    const struct tensor_meta meta = {.key = "k", .type = TENSOR_META_STR, .str = "v"};
    struct buf out;
    struct err e = {0};
    (void)arg;
    buf_init(&out, 1 << 20);
    int rc = safetensors_pack(&out, &t, 1, &meta, 1, &e);
    if (rc == 0)
        rc = gguf_write(path, &t, 1, &meta, 1, &e);
    if (rc == 0)
        rc = safetensors_write(path, &t, 1, &meta, 1, &e);
    assert_int_equal(rc, e.code);
    buf_fini(&out);
    return rc;
}

static void test_write_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    alloc_sweep(pack, NULL);
    alloc_sweep_json(pack, NULL);
    unlink(path);
}

struct model_case {
    char path[256];
    struct pool *pool;
    int weights_type;
};

static int open_model(void *arg)
{
    const struct model_case *c = arg;
    const struct rwkv_options o = {.weights_type = c->weights_type};
    struct rwkv_model *m = NULL;
    struct rwkv_session *s = NULL;
    float *sequence = NULL;
    struct err e = {0};
    int rc = rwkv_open(c->path, &o, c->pool, &m, &e);
    if (rc == 0) {
        s = rwkv_session_new(m, c->pool, 4, &e);
        sequence = rwkv_state_new(rwkv_get_info(m));
        rc = !s ? e.code : !sequence ? ERR_NOMEM : 0;
    }
    free(sequence);
    rwkv_session_free(s);
    rwkv_close(m);
    return rc;
}

static void test_open_model(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int weights_type;
    } cases[] = {
        {"rwkv7-rand/rwkv7-rand-fp32.safetensors", -1},
        {"rwkv7-rand/rwkv7-rand-bf16.pth", DTYPE_Q8_0},
        {"rwkv7-rand/rwkv7-rand-q8_0.gguf", DTYPE_F32},
    };
    struct model_case c;
    struct err e;
    c.pool = pool_new(1, "test", 0, &e);
    assert_non_null(c.pool);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(c.path, sizeof c.path, "%s", golden_path(cases[i].name));
        c.weights_type = cases[i].weights_type;
        alloc_sweep(open_model, &c);
    }
    pool_free(c.pool);
}

static int write_model(void *arg)
{
    const struct model_case *c = arg;
    const struct rwkv_gguf o = {.type = DTYPE_Q8_0, .name = "test"};
    struct rwkv_gguf_sizes sizes;
    struct tensor_file *f = NULL;
    struct err e = {0};
    int rc = tensor_file_open(c->path, &f, &e);
    if (rc == 0)
        rc = rwkv_gguf_write(f, c->path, path, &o, c->pool, &sizes, &e);
    assert_int_equal(rc, e.code);
    tensor_file_close(f);
    return rc;
}

static void test_write_model(void **state)
{
    (void)state;
    struct model_case c;
    struct err e;
    c.pool = pool_new(1, "test", 0, &e);
    assert_non_null(c.pool);
    snprintf(c.path, sizeof c.path, "%s", golden_path("rwkv7-rand/rwkv7-rand-q8_0.gguf"));
    alloc_sweep(write_model, &c);
    unlink(path);
    pool_free(c.pool);
}

static int write_vocab(void *arg)
{
    struct gguf_vocab v;
    struct err e = {0};
    int rc = gguf_vocab_init(&v, arg, 300, &e);
    assert_int_equal(rc, e.code);
    gguf_vocab_fini(&v);
    return rc;
}

static void test_write_vocab(void **state)
{
    (void)state;
    struct tokenizer *t = tokenizer_new_bytes();
    assert_non_null(t);
    alloc_sweep(write_vocab, t);
    tokenizer_free(t);
}

static char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

static int parse(void *arg)
{
    static char words[][24] = {"serve", "--model", "a=b", "--name=n", "--vocab", "v", "--data=d"};
    char *argv[8] = {0};
    struct config c;
    struct err e = {0};
    (void)arg;
    for (size_t i = 0; i < 7; i++)
        argv[i] = words[i];
    int rc = config_parse(&c, 7, argv, no_environment, &e);
    assert_int_equal(rc, e.code);
    config_fini(&c);
    return rc;
}

static void test_config(void **state)
{
    (void)state;
    alloc_sweep(parse, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_file),
        cmocka_unit_test(test_write_file),
        cmocka_unit_test(test_open_model),
        cmocka_unit_test(test_write_model),
        cmocka_unit_test(test_write_vocab),
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
