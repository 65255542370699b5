/* The GGUF reader and writer: metadata of every type, shapes, hostile counts and offsets,
 * truncation, round trips, and our quantiser against the files that gguf-py wrote. */
#include "engine/tensor/write.h"
#include "tests/lib/check.h"
#include "tests/lib/hostile.h"

#include <stdlib.h>
#include <unistd.h>

static void u32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, 4);
}

static void u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, 8);
}

static void str(struct buf *b, const char *s)
{
    u64(b, strlen(s));
    buf_puts(b, s);
}

static void header(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_meta)
{
    buf_reset(b);
    buf_puts(b, "GGUF");
    u32(b, version);
    u64(b, n_tensors);
    u64(b, n_meta);
}

static void tensor_2d(struct buf *b, const char *name, uint64_t fast, uint64_t slow, uint32_t type,
                      uint64_t offset)
{
    str(b, name);
    u32(b, 2);
    u64(b, fast);
    u64(b, slow);
    u32(b, type);
    u64(b, offset);
}

/* Pads to 32 and puts n floats 0, 1, 2 ... */
static void data(struct buf *b, size_t n)
{
    buf_append(b, (char[32]){0}, -b->len & 31);
    for (size_t i = 0; i < n; i++)
        buf_append(b, &(float){(float)i}, 4);
}

static struct buf b;

static int setup(void **state)
{
    (void)state;
    buf_init(&b, 1u << 24);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_fini(&b);
    return 0;
}

static void test_every_metadata_type(void **state)
{
    (void)state;
    header(&b, 3, 0, 14);
    str(&b, "u8"), u32(&b, 0), buf_append(&b, "\xff", 1);
    str(&b, "i8"), u32(&b, 1), buf_append(&b, "\x7f", 1);
    str(&b, "u16"), u32(&b, 2), buf_append(&b, "\xff\xff", 2);
    str(&b, "i16"), u32(&b, 3), buf_append(&b, "\xff\xff", 2);
    str(&b, "u32"), u32(&b, 4), u32(&b, 0xffffffffu);
    str(&b, "i32"), u32(&b, 5), u32(&b, 7);
    str(&b, "f32"), u32(&b, 6), u32(&b, 0x3fc00000);
    str(&b, "bool"), u32(&b, 7), buf_append(&b, "\1", 1);
    str(&b, "str"), u32(&b, 8), u64(&b, 3), buf_append(&b, "a\0b", 3);
    str(&b, "strs"), u32(&b, 9), u32(&b, 8), u64(&b, 2), str(&b, "x"), str(&b, "");
    str(&b, "u64"), u32(&b, 10), u64(&b, UINT64_MAX);
    str(&b, "i64"), u32(&b, 11), u64(&b, (uint64_t)-5);
    str(&b, "f64"), u32(&b, 12), u64(&b, 0x3ff8000000000000u);
    str(&b, "ints"), u32(&b, 9), u32(&b, 3), u64(&b, 3), buf_append(&b, "123456", 6);
    struct tensor_file *f = must_open(b.data, b.len);
    uint64_t u;
    double d;
    size_t n;
    assert_int_equal(tensor_file_kind(f), TENSOR_FILE_GGUF);
    assert_int_equal(tensor_file_count(f), 0);
    assert_int_equal(tensor_file_meta_count(f), 14);
    assert_true(tensor_file_meta_u64(f, "u8", &u) && u == 255);
    assert_true(tensor_file_meta_u64(f, "i8", &u) && u == 127);
    assert_true(tensor_file_meta_u64(f, "u16", &u) && u == 65535);
    assert_false(tensor_file_meta_u64(f, "i16", &u)); /* -1 */
    assert_true(tensor_file_meta_u64(f, "u32", &u) && u == 0xffffffffu);
    assert_true(tensor_file_meta_u64(f, "i32", &u) && u == 7);
    assert_true(tensor_file_meta_u64(f, "bool", &u) && u == 1);
    assert_true(tensor_file_meta_u64(f, "u64", &u) && u == UINT64_MAX);
    assert_false(tensor_file_meta_u64(f, "i64", &u));
    assert_true(tensor_file_meta_f64(f, "f32", &d) && d == 1.5);
    assert_true(tensor_file_meta_f64(f, "f64", &d) && d == 1.5);
    assert_false(tensor_file_meta_f64(f, "u32", &d));
    assert_false(tensor_file_meta_u64(f, "none", &u));
    assert_memory_equal(tensor_file_meta_str(f, "str", &n), "a\0b", 4);
    assert_int_equal(n, 3);
    assert_null(tensor_file_meta_str(f, "u8", &n));
    assert_true(tensor_file_meta_str_array(f, "strs", &n) && n == 2);
    assert_string_equal(tensor_file_meta_str_at(f, "strs", 0, &n), "x");
    assert_string_equal(tensor_file_meta_str_at(f, "strs", 1, &n), "");
    assert_null(tensor_file_meta_str_at(f, "strs", 2, &n));
    assert_false(tensor_file_meta_str_array(f, "ints", &n));
    tensor_file_close(f);
    check_truncations(b.data, b.len, b.len);
}

static void test_shape_is_reversed(void **state)
{
    (void)state;
    header(&b, 2, 2, 0);
    tensor_2d(&b, "second", 3, 2, 0, 32);
    tensor_2d(&b, "first", 1, 1, 0, 0);
    data(&b, 8 + 6);
    struct tensor_file *f = must_open(b.data, b.len);
    const struct tensor *t = tensor_file_find(f, "second");
    assert_non_null(t);
    assert_ptr_equal(t, tensor_file_get(f, 0));
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    float x[6];
    tensor_to_f32(t, x);
    assert_true(x[0] == 8 && x[5] == 13);
    tensor_file_close(f);
    check_truncations(b.data, b.len, b.len);
}

static void test_hostile_headers(void **state)
{
    (void)state;
    header(&b, 1, 0, 0);
    must_refuse(b.data, b.len, "version 1");
    header(&b, 3u << 24, 0, 0);
    must_refuse(b.data, b.len, "big-endian");
    header(&b, 3, UINT64_MAX / 2, 0);
    must_refuse(b.data, b.len, "claims");
    header(&b, 3, 0, 1u << 31);
    must_refuse(b.data, b.len, "claims");
    header(&b, 3, 0, 1);
    u64(&b, UINT64_MAX), u32(&b, 0), u32(&b, 0);
    must_refuse(b.data, b.len, "ends within");
    header(&b, 3, 0, 1);
    str(&b, "k"), u32(&b, 9), u32(&b, 8), u64(&b, 1ull << 60);
    must_refuse(b.data, b.len, "1152921504606846976 strings");
    header(&b, 3, 0, 1);
    str(&b, "k"), u32(&b, 9), u32(&b, 12), u64(&b, 1ull << 61);
    must_refuse(b.data, b.len, "elements");
    header(&b, 3, 0, 1);
    str(&b, "k"), u32(&b, 9), u32(&b, 9), u64(&b, 0);
    must_refuse(b.data, b.len, "type 9");
    header(&b, 3, 0, 1);
    str(&b, "key"), u32(&b, 13), u64(&b, 0);
    must_refuse(b.data, b.len, "'key': its type is 13");
    header(&b, 3, 0, 2);
    str(&b, "k"), u32(&b, 4), u32(&b, 1), str(&b, "k"), u32(&b, 4), u32(&b, 2);
    must_refuse(b.data, b.len, "appears twice");
    header(&b, 3, 0, 1);
    str(&b, "general.alignment"), u32(&b, 4), u32(&b, 48);
    must_refuse(b.data, b.len, "power of two");
    header(&b, 3, 0, 1);
    u64(&b, 3), buf_append(&b, "a\0b", 3), u32(&b, 4), u32(&b, 48);
    must_refuse(b.data, b.len, "NUL");
}

static void one_tensor(uint64_t fast, uint64_t slow, uint32_t type, uint64_t offset)
{
    header(&b, 3, 1, 0);
    tensor_2d(&b, "w", fast, slow, type, offset);
    data(&b, 64);
}

static void test_hostile_tensors(void **state)
{
    (void)state;
    one_tensor(8, 8, 0, 0);
    tensor_file_close(must_open(b.data, b.len));
    one_tensor(8, 9, 0, 0);
    must_refuse(b.data, b.len, "'w': 288 bytes at offset 0, the file has 256");
    one_tensor(1ull << 33, 1ull << 33, 0, 0);
    must_refuse(b.data, b.len, "overflows");
    one_tensor(1ull << 62, 3, 0, 0);
    must_refuse(b.data, b.len, "overflows");
    one_tensor(8, 8, 99, 0);
    must_refuse(b.data, b.len, "ggml type 99");
    one_tensor(8, 8, 4, 0); /* a number that ggml retired */
    must_refuse(b.data, b.len, "ggml type 4");
    one_tensor(8, 1, 8, 0);
    must_refuse(b.data, b.len, "multiple of 32 for Q8_0");
    one_tensor(8, 1, 0, 8);
    must_refuse(b.data, b.len, "offset 8, want a multiple of 32");
    one_tensor(8, 1, 0, UINT64_MAX - 31);
    must_refuse(b.data, b.len, "the file has 256 bytes");
    one_tensor(0, 1ull << 40, 0, 256);
    tensor_file_close(must_open(b.data, b.len)); /* empty, at the end */
    header(&b, 3, 1, 0);
    str(&b, "w"), u32(&b, 9);
    for (int i = 0; i < 9; i++)
        u64(&b, 1);
    u32(&b, 0), u64(&b, 0), data(&b, 8);
    must_refuse(b.data, b.len, "9 dimensions");
    header(&b, 3, 2, 0);
    tensor_2d(&b, "a", 16, 1, 0, 0), tensor_2d(&b, "b", 8, 1, 0, 32), data(&b, 64);
    must_refuse(b.data, b.len, "'b': its data overlaps");
    header(&b, 3, 2, 0);
    tensor_2d(&b, "a", 8, 1, 0, 0), tensor_2d(&b, "a", 8, 1, 0, 32), data(&b, 64);
    must_refuse(b.data, b.len, "two tensors are named 'a'");
    header(&b, 3, 1, 0);
    tensor_2d(&b, "\xff\xfe", 8, 1, 0, 0), data(&b, 64);
    must_refuse(b.data, b.len, "not UTF-8");
    header(&b, 3, 1, 0);
    tensor_2d(&b, "", 8, 1, 0, 0), data(&b, 64);
    must_refuse(b.data, b.len, "has 0 bytes");
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const words[] = {"<s>", "\\x00", "\xe4\xb8\xad"};
    float x[64], d = 2.5f;
    uint8_t q[2 * 34];
    for (int i = 0; i < 64; i++)
        x[i] = (float)i - 31.5f;
    assert_true(dtype_from_f32(DTYPE_Q8_0, x, q, 64));
    const struct tensor t[] = {
        {.name = "q",
         .dtype = DTYPE_Q8_0,
         .n_dims = 2,
         .shape = {2, 32},
         .bytes = sizeof q,
         .data = q},
        {.name = "scalar", .dtype = DTYPE_F32, .bytes = 4, .data = &d},
        {.name = "x",
         .dtype = DTYPE_F32,
         .n_dims = 3,
         .shape = {2, 4, 8},
         .bytes = sizeof x,
         .data = x},
    };
    const struct tensor_meta meta[] = {
        {.key = "general.architecture", .type = TENSOR_META_STR, .str = "rwkv7"},
        {.key = "n", .type = TENSOR_META_U32, .u32 = 12},
        {.key = "eps", .type = TENSOR_META_F32, .f32 = 0.5f},
        {.key = "words", .type = TENSOR_META_STR_ARRAY, .strs = words, .n = 3},
    };
    struct err e = {0};
    char path[] = "/tmp/test_tensor_gguf.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(gguf_write(path, t, 3, meta, 4, &e), 0);
    struct tensor_file *f;
    assert_int_equal(tensor_file_open(path, &f, &e), 0);
    check_same_tensors(f, t, 3);
    uint64_t u;
    double v;
    size_t n;
    assert_string_equal(tensor_file_meta_str(f, "general.architecture", &n), "rwkv7");
    assert_true(tensor_file_meta_u64(f, "n", &u) && u == 12);
    assert_true(tensor_file_meta_f64(f, "eps", &v) && v == 0.5);
    assert_true(tensor_file_meta_str_array(f, "words", &n) && n == 3);
    assert_string_equal(tensor_file_meta_str_at(f, "words", 2, &n), words[2]);
    tensor_file_close(f);
    struct tensor bad = t[2];
    bad.dtype = DTYPE_BOOL;
    bad.bytes = 64;
    assert_int_equal(gguf_write(path, &bad, 1, NULL, 0, &e), ERR_INVALID);
    bad = t[2];
    bad.bytes--;
    assert_int_equal(gguf_write(path, &bad, 1, NULL, 0, &e), ERR_INVALID);
    assert_int_equal(gguf_write(path, (struct tensor[]){t[2], t[2]}, 2, NULL, 0, &e), ERR_INVALID);
    assert_int_equal(tensor_file_open(path, &f, &e), 0); /* the old file is still whole */
    assert_int_equal(tensor_file_count(f), 3);
    tensor_file_close(f);
    remove(path);
    close(fd);
}

/* The same weights, quantised by gguf-py and by us: identical bytes. */
static void test_quantiser_matches_gguf_py(void **state)
{
    (void)state;
    struct tensor_file *q = golden_open("rwkv7-rand/rwkv7-rand-q8_0.gguf");
    struct tensor_file *w = golden_open("rwkv7-rand/rwkv7-rand-fp32.safetensors");
    static const char *const pairs[][2] = {
        {"blk.0.time_mix_key.weight", "blocks.0.att.key.weight"},
        {"blk.2.channel_mix_value.weight", "blocks.2.ffn.value.weight"},
        {"output.weight", "head.weight"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const struct tensor *a = tensor_file_find(q, pairs[i][0]),
                            *x = tensor_file_find(w, pairs[i][1]);
        assert_non_null(a);
        assert_non_null(x);
        assert_int_equal(a->dtype, DTYPE_Q8_0);
        assert_int_equal(x->dtype, DTYPE_F32);
        assert_int_equal(a->count, x->count);
        float *v = golden_f32(w, pairs[i][1], 0);
        uint8_t *out = malloc(a->bytes);
        assert_non_null(out);
        assert_true(dtype_from_f32(DTYPE_Q8_0, v, out, x->count));
        assert_memory_equal(out, a->data, a->bytes);
        free(out);
        free(v);
    }
    tensor_file_close(q);
    tensor_file_close(w);
}

/* What was given back is read again, and only pages of the file are given back. */
static void test_release(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open("rwkv7-rand/rwkv7-rand-q8_0.gguf");
    const struct tensor *t = tensor_file_find(f, "token_embd.weight");
    uint8_t before[32], after[32], *other = calloc(1, 65536);
    assert_non_null(other);
    assert_int_equal(tensor_sha256_f32(t, before, NULL), 0);
    memset(other, 7, 65536);
    tensor_file_release(f, other, 65536);
    tensor_file_release(f, t->data, t->bytes);
    tensor_file_release(f, t->data, 0);
    tensor_file_release(f, t->data, (size_t)1 << 40);
    assert_true(other[4096] == 7 && other[65535] == 7);
    assert_int_equal(tensor_sha256_f32(t, after, NULL), 0);
    assert_memory_equal(before, after, 32);
    free(other);
    tensor_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_every_metadata_type),
        cmocka_unit_test(test_shape_is_reversed),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_hostile_tensors),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_quantiser_matches_gguf_py),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
