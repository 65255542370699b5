/* Models as GGUF: the tensors are those of the golden file (gguf-py's quantiser, llama.cpp's names and
 * shapes), from every format alike; what is written opens and computes the same; weights of the K types
 * are held as stored and compute what their values in F32 do; a write that fails leaves nothing. */
#include "tests/lib/folder.h"
#include "tests/lib/model.h"

#include "engine/kernels/rng.h"
#include "engine/rwkv/gguf.h"
#include "engine/rwkv/params.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#define RAND "rwkv7-rand/rwkv7-rand-"

/* A file of this name in the program's folder from the model at `from`. */
static int make(const char *from, const char *to, enum dtype type, struct err *e)
{
    const struct rwkv_gguf o = {.type = type, .name = "test"};
    struct rwkv_gguf_sizes sizes;
    struct tensor_file *f = NULL;
    struct pool *pool = pool_new(2, "test", 0, e);
    assert_non_null(pool);
    assert_int_equal(tensor_file_open(from, &f, e), 0);
    int rc = rwkv_gguf_write(f, from, in_folder("%s", to), &o, pool, &sizes, e);
    if (rc == 0)
        assert_true(sizes.tensors == 90 && sizes.to_bytes > 100000 && sizes.from_bytes > 100000);
    tensor_file_close(f);
    pool_free(pool);
    return rc;
}

static void made(const char *golden, const char *to, enum dtype type)
{
    const char *path = golden_path(golden);
    struct err e = {0};
    if (!path)
        skip();
    if (make(path, to, type, &e) < 0)
        fail_msg("%s: %s", golden, e.msg);
}

static struct tensor_file *opened(const char *name)
{
    struct tensor_file *f = NULL;
    struct err e = {0};
    if (tensor_file_open(in_folder("%s", name), &f, &e) < 0)
        fail_msg("%s", e.msg);
    return f;
}

/* Every tensor of want: type, shape, bytes. */
static void check_same_tensors(const struct tensor_file *got, const struct tensor_file *want)
{
    assert_int_equal(tensor_file_count(got), tensor_file_count(want));
    for (size_t i = 0; i < tensor_file_count(want); i++) {
        const struct tensor *w = tensor_file_get(want, i), *g = tensor_file_find(got, w->name);
        if (!g || g->dtype != w->dtype || g->n_dims != w->n_dims || g->bytes != w->bytes ||
            memcmp(g->shape, w->shape, (size_t)w->n_dims * sizeof *w->shape) != 0)
            fail_msg("%s: missing, or of another type or shape", w->name);
        if (memcmp(g->data, w->data, w->bytes) != 0)
            fail_msg("%s: other bytes", w->name);
    }
}

static void test_golden(void **state)
{
    (void)state;
    folder_open();
    made(RAND "fp32.safetensors", "q8.gguf", DTYPE_Q8_0);
    struct tensor_file *got = opened("q8.gguf"), *want = golden_open(RAND "q8_0.gguf");
    check_same_tensors(got, want);
    static const char *const numbers[] = {
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "wkv.head_size",
        "attention.decay_lora_rank",
        "attention.iclr_lora_rank",
        "attention.head_count",
        "attention.gate_lora_rank",
        "attention.value_residual_mix_lora_rank",
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char key[80];
        uint64_t a = 0, b = 1;
        snprintf(key, sizeof key, "rwkv7.%s", numbers[i]);
        assert_true(tensor_file_meta_u64(got, key, &a) && tensor_file_meta_u64(want, key, &b));
        assert_int_equal(a, b);
    }
    tensor_file_close(got);
    tensor_file_close(want);
    folder_close("q8.gguf");
}

/* A GGUF gives what the file it was made from gives, and keeps what it says of itself. */
static void test_from_gguf(void **state)
{
    (void)state;
    size_t n, m;
    folder_open();
    made(RAND "fp32.safetensors", "f32.gguf", DTYPE_F32);
    made(RAND "fp32.safetensors", "q4.gguf", DTYPE_Q4_0);
    struct err e = {0};
    if (make(in_folder("f32.gguf"), "again.gguf", DTYPE_Q4_0, &e) < 0)
        fail_msg("%s", e.msg);
    struct tensor_file *a = opened("q4.gguf"), *b = opened("again.gguf");
    check_same_tensors(b, a);
    assert_int_equal(tensor_file_find(a, "output.weight")->dtype, DTYPE_Q8_0);
    assert_int_equal(tensor_file_find(a, "token_embd.weight")->dtype, DTYPE_Q4_0);
    assert_int_equal(tensor_file_meta_count(a), tensor_file_meta_count(b));
    for (size_t i = 0; i < tensor_file_meta_count(a); i++) {
        const void *x = tensor_file_meta_raw(a, i, &n), *y = tensor_file_meta_raw(b, i, &m);
        assert_string_equal(tensor_file_meta_key(a, i), tensor_file_meta_key(b, i));
        assert_true(n == m && !memcmp(x, y, n));
    }
    tensor_file_close(a);
    tensor_file_close(b);
    folder_close("again.gguf f32.gguf q4.gguf");
}

enum { N_TOKENS = 12 };

/* Logits of a few tokens of the model in this file, and its fingerprint. */
static float *run(const char *path, int type, char fingerprint[65])
{
    struct test_model t;
    struct err e = {0};
    uint32_t tokens[N_TOKENS];
    t.pool = pool_new(2, "test", 0, &e);
    assert_non_null(t.pool);
    if (rwkv_open(path, &(struct rwkv_options){.weights_type = type}, t.pool, &t.m, &e) < 0)
        fail_msg("%s: %s", path, e.msg);
    t.info = rwkv_get_info(t.m);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = i * 7 % 61;
    float *state = rwkv_state_new(t.info),
          *logits = calloc(N_TOKENS * t.info->n_vocab, sizeof *logits);
    assert_true(state && logits);
    test_feed(&t, tokens, N_TOKENS, 5, 8, state, logits);
    memcpy(fingerprint, t.info->fingerprint, 65);
    free(state);
    test_model_close(&t);
    return logits;
}

static void check_same_model(const char *a_path, const char *b_path, size_t n_vocab)
{
    char a_print[65], b_print[65];
    float *a = run(a_path, -1, a_print), *b = run(b_path, -1, b_print);
    assert_string_equal(a_print, b_print);
    assert_memory_equal(a, b, N_TOKENS * n_vocab * sizeof *a);
    assert_true(max_abs_diff(a, a + n_vocab, n_vocab) > 0);
    free(a);
    free(b);
}

/* The same weights, one held in a type whose products round what they multiply to int8. */
static void check_near_model(const char *a_path, const char *b_path, size_t n_vocab)
{
    char a_print[65], b_print[65];
    float *a = run(a_path, -1, a_print), *b = run(b_path, -1, b_print);
    assert_string_equal(a_print, b_print);
    const double error = relative_rms(a, b, N_TOKENS * n_vocab);
    printf("  rounding to int8 costs %.2g of a standard deviation\n", error);
    assert_true(error > 0 && error < 0.016);
    free(a);
    free(b);
}

/* The same weights: the same fingerprint and the same logits to the bit. */
static void test_same_model(void **state)
{
    (void)state;
    char source[512];
    const char *path = golden_path(RAND "fp32.safetensors");
    assert_non_null(path);
    snprintf(source, sizeof source, "%s", path);
    folder_open();
    made(RAND "fp32.safetensors", "f32.gguf", DTYPE_F32);
    check_same_model(source, in_folder("f32.gguf"), 1000);
    made(RAND "fp32.safetensors", "q8.gguf", DTYPE_Q8_0);
    check_same_model(golden_path(RAND "q8_0.gguf"), in_folder("q8.gguf"), 1000);
    folder_close("f32.gguf q8.gguf");
}

/* ---- K types ---- */

static void write_small_model(const char *name)
{
    const struct rwkv_shape shape = {.n_layer = 2,
                                     .n_embd = 256,
                                     .head_size = 64,
                                     .n_ffn = 512,
                                     .n_vocab = 61,
                                     .rank_w = 32,
                                     .rank_a = 32,
                                     .rank_v = 32,
                                     .rank_g = 32};
    struct rwkv_layout l;
    struct err e = {0};
    assert_int_equal(rwkv_layout_init(&l, &shape, &e), 0);
    float *flat = calloc(l.count, sizeof *flat);
    assert_non_null(flat);
    assert_int_equal(rwkv_params_init(&l, flat, 5, &e), 0);
    assert_int_equal(rwkv_params_write(&l, flat, in_folder("%s", name), 0, &e), 0);
    free(flat);
    rwkv_layout_fini(&l);
}

/* Random blocks of values around 0.1: all the bytes but the F16 scales, which are about 2^-10. */
static void random_blocks(struct rng *r, enum dtype t, uint8_t *b, size_t n_blocks)
{
    size_t bytes = dtype_block_bytes(t), scale = t == DTYPE_Q6_K ? 208 : 0;
    for (size_t i = 0; i < n_blocks; i++, b += bytes) {
        for (size_t k = 0; k < bytes; k++)
            b[k] = (uint8_t)rng_u32(r);
        b[scale + 1] = t == DTYPE_Q6_K ? 0x02 : 0x10;
        if (!scale)
            b[3] = 0x1c;
    }
}

/* Copies of f's tensors; its large matrices become random blocks of type t in k and their values in v. */
static void replace_matrices(const struct tensor_file *f, enum dtype t, struct tensor *k,
                             struct tensor *v)
{
    struct rng r;
    rng_init(&r, 3, (uint64_t)t);
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        k[i] = v[i] = *tensor_file_get(f, i);
        bool lora = strstr(k[i].name, "1.weight") || strstr(k[i].name, "2.weight");
        if (k[i].n_dims != 2 || lora)
            continue;
        assert_true(dtype_bytes(t, k[i].count, &k[i].bytes));
        uint8_t *blocks = malloc(k[i].bytes);
        float *values = malloc(k[i].count * sizeof *values);
        assert_true(blocks && values);
        random_blocks(&r, t, blocks, k[i].count / 256);
        dtype_to_f32(t, blocks, values, k[i].count);
        k[i].dtype = t;
        k[i].data = blocks;
        v[i].data = values;
    }
}

static void write_tensors(const struct tensor_file *f, const struct tensor *tensors,
                          const char *name)
{
    struct tensor_meta meta[32];
    struct err e = {0};
    size_t n = tensor_file_meta_count(f);
    assert_true(n <= 32);
    for (size_t i = 0; i < n; i++) {
        meta[i] = (struct tensor_meta){.key = tensor_file_meta_key(f, i), .type = TENSOR_META_RAW};
        meta[i].raw = tensor_file_meta_raw(f, i, &meta[i].n);
    }
    if (gguf_write(in_folder("%s", name), tensors, tensor_file_count(f), meta, n, &e) < 0)
        fail_msg("%s", e.msg);
}

static void check_k_type(enum dtype t)
{
    struct err e = {0};
    const struct rwkv_gguf o = {.type = DTYPE_F32, .name = "small"};
    struct rwkv_gguf_sizes sizes;
    struct pool *pool = pool_new(1, "test", 0, &e);
    struct tensor_file *f = opened("small.safetensors");
    assert_non_null(pool);
    assert_int_equal(rwkv_gguf_write(f, "small", in_folder("f32.gguf"), &o, pool, &sizes, &e), 0);
    tensor_file_close(f);
    f = opened("f32.gguf");
    size_t n = tensor_file_count(f);
    struct tensor *k = calloc(n, sizeof *k), *v = calloc(n, sizeof *v);
    assert_true(k && v);
    replace_matrices(f, t, k, v);
    write_tensors(f, k, "k.gguf");
    write_tensors(f, v, "v.gguf");
    check_near_model(in_folder("k.gguf"), in_folder("v.gguf"), 61);
    struct rwkv_model *m = NULL;
    assert_int_equal(
        rwkv_open(in_folder("k.gguf"), &(struct rwkv_options){.weights_type = -1}, pool, &m, &e),
        0);
    assert_int_equal(rwkv_get_info(m)->weights_type, t);
    assert_true(rwkv_get_info(m)->weight_bytes < 1500000); /* F32: 5 MB */
    rwkv_close(m);
    for (size_t i = 0; i < n; i++)
        if (k[i].dtype == t) {
            free((void *)(uintptr_t)k[i].data);
            free((void *)(uintptr_t)v[i].data);
        }
    free(k);
    free(v);
    tensor_file_close(f);
    pool_free(pool);
}

static void test_k_types(void **state)
{
    (void)state;
    folder_open();
    write_small_model("small.safetensors");
    check_k_type(DTYPE_Q4_K);
    check_k_type(DTYPE_Q5_K);
    check_k_type(DTYPE_Q6_K);
    folder_close("f32.gguf k.gguf small.safetensors v.gguf");
}

/* ---- failures ---- */

static void test_full_disk(void **state)
{
    (void)state;
    struct rlimit old, small = {.rlim_cur = 300000};
    struct err e = {0};
    folder_open();
    write_file("out.gguf", "before", 6);
    char source[512];
    snprintf(source, sizeof source, "%s", golden_path(RAND "fp32.safetensors"));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(sigaction(SIGXFSZ, &(struct sigaction){.sa_handler = SIG_IGN}, NULL), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = make(source, "out.gguf", DTYPE_Q8_0, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, ERR_STORAGE_FULL);
    size_t n;
    char *text = read_file("out.gguf", &n);
    assert_true(n == 6 && !memcmp(text, "before", 6));
    free(text);
    folder_close("out.gguf");
}

static void test_refusals(void **state)
{
    (void)state;
    struct err e = {0};
    folder_open();
    struct tensor_file *f = golden_open(RAND "fp32.safetensors");
    size_t n = tensor_file_count(f);
    struct tensor *all = calloc(n, sizeof *all);
    float *bad = malloc(128 * 128 * sizeof *bad);
    assert_true(all && bad);
    for (size_t i = 0; i < n; i++) {
        all[i] = *tensor_file_get(f, i);
        if (strcmp(all[i].name, "blocks.1.att.key.weight") == 0) {
            memcpy(bad, all[i].data, all[i].bytes);
            all[i].data = bad;
        }
    }
    static const float values[] = {NAN, INFINITY, 1e7f};
    for (size_t i = 0; i < 3; i++) {
        bad[77 * 128 + 5] = values[i];
        assert_int_equal(safetensors_write(in_folder("bad.safetensors"), all, n, NULL, 0, &e), 0);
        assert_int_equal(make(in_folder("bad.safetensors"), "out.gguf", DTYPE_Q8_0, &e),
                         ERR_NOT_FINITE);
        assert_non_null(strstr(e.msg, "tensor blk.1.time_mix_key.weight"));
    }
    char source[512];
    snprintf(source, sizeof source, "%s", golden_path(RAND "fp32.safetensors"));
    assert_int_equal(make(source, "out.gguf", DTYPE_Q4_K, &e), ERR_UNSUPPORTED);
    assert_int_equal(make(source, "no/out.gguf", DTYPE_Q8_0, &e), ERR_IO);
    free(bad);
    free(all);
    tensor_file_close(f);
    folder_close("bad.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_from_gguf),
        cmocka_unit_test(test_same_model), cmocka_unit_test(test_k_types),
        cmocka_unit_test(test_full_disk),  cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
