/* The safetensors reader against hand-made headers, the writer, and files written whole. */
#include "engine/tensor/write.h"
#include "tests/lib/check.h"
#include "tests/lib/hostile.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* A file of this header and n_data bytes 0, 1, 2 ... */
static void file_of(const char *header, size_t n_data)
{
    uint64_t len = strlen(header);
    buf_reset(&b);
    buf_append(&b, &len, 8);
    buf_puts(&b, header);
    for (size_t i = 0; i < n_data; i++)
        buf_append(&b, &(uint8_t){(uint8_t)i}, 1);
}

static void refuse(const char *header, size_t n_data, const char *part)
{
    file_of(header, n_data);
    must_refuse(b.data, b.len, part);
}

#define ONE(body) "{\"w\":{" body "}}"

static void test_good(void **state)
{
    (void)state;
    file_of("{\"b\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[2,4]},\"__metadata__\":{"
            "\"x\":\"y\"},"
            "\"a\":{\"data_offsets\":[0,2],\"shape\":[2,1],\"dtype\":\"U8\"}}   ",
            4);
    struct tensor_file *f = must_open(b.data, b.len);
    size_t n;
    assert_string_equal(tensor_file_get(f, 0)->name, "b");
    assert_string_equal(tensor_file_get(f, 1)->name, "a");
    assert_null(tensor_file_get(f, 2));
    assert_null(tensor_file_find(f, "c"));
    assert_memory_equal(tensor_file_find(f, "b")->data, "\2\3", 2);
    assert_string_equal(tensor_file_meta_str(f, "x", &n), "y");
    tensor_file_close(f);
    check_truncations(b.data, b.len, b.len);
    file_of("{}", 0);
    f = must_open(b.data, b.len);
    assert_int_equal(tensor_file_count(f), 0);
    tensor_file_close(f);
}

static void test_shapes_and_types(void **state)
{
    (void)state;
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]"), 1, "'w': shape holds -1");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]"), 1,
           "other than an integer");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]"), 1,
           "other than an integer");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]"), 1, "no shape");
    refuse(ONE("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, "no shape");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1,
           "9 dimensions");
    refuse(ONE("\"shape\":[1],\"data_offsets\":[0,1]"), 1, "no dtype");
    refuse(ONE("\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]"), 1, "no dtype");
    refuse(ONE("\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype 'u8'");
    refuse(ONE("\"dtype\":\"Q8_0\",\"shape\":[32],\"data_offsets\":[0,34]"), 34, "dtype 'Q8_0'");
    refuse(ONE("\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,8]"), 8,
           "overflows");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[18446744073709551617],\"data_offsets\":[0,1]"), 1,
           "no JSON");
    refuse(ONE("\"dtype\":\"F32\",\"shape\":[1099511627776],\"data_offsets\":[0,4398046511104]"),
           16, "the file has 16 bytes");
}

static void test_offsets(void **state)
{
    (void)state;
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1,
           "data_offsets holds -1");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, "data_offsets 1 to 0");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, "no pair");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]"), 1, "no pair");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1]"), 1, "no pair");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]"), 1,
           "1 bytes of data, want 2");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 2,
           "end at byte 1 of the data, which has 2");
    refuse(ONE("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]"), 1, "a hole is before it");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
           3, "'b': begins at byte 1 of the data, want 2 (it overlaps another)");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
           1, "overlaps another");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
           3, "want 1 (a hole is before it)");
}

static void test_structure(void **state)
{
    (void)state;
    refuse("[]", 0, "no JSON object");
    refuse("", 0, "no JSON");
    refuse("{} {}", 0, "no JSON");
    refuse("{\"w\":1}", 0, "'w': its entry is no object");
    refuse("{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "has 0 bytes");
    refuse("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "no JSON");
    refuse("{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "no JSON");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
           0, "duplicate");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__ is no object");
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "'k' is no string");
    buf_reset(&b);
    buf_append(&b, &(uint64_t){UINT64_MAX}, 8);
    buf_puts(&b, "{}");
    must_refuse(b.data, b.len, "header of 18446744073709551615 bytes");
    must_refuse(NULL, 0, "0 bytes");
    /* A name that is too long, and one that tries to break the line of the message. */
    char header[1024], name[400];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    snprintf(header, sizeof header, "{\"%s\":{}}", name);
    refuse(header, 0, "has 399 bytes, want 1 to 256");
    refuse("{\"a\\nb\":1}", 0, "'a?b'");
}

/* 100,000 levels: the JSON parser must stop by its own limit, not by the end of the stack. */
static void test_deep_json(void **state)
{
    (void)state;
    const size_t n = 100000;
    buf_reset(&b);
    buf_append(&b, &(uint64_t){n + 6}, 8);
    buf_puts(&b, "{\"w\":");
    for (size_t i = 0; i < n; i++)
        buf_append(&b, "[", 1);
    buf_puts(&b, "}");
    must_refuse(b.data, b.len, "no JSON");
}

static const float x[6] = {1, 2, 3, 4, 5, 6};
static const struct tensor three[] = {
    {.name = "bytes", .dtype = DTYPE_U8, .n_dims = 1, .shape = {3}, .bytes = 3, .data = "abc"},
    {.name = "x \"\xe4\xb8\xad\"",
     .dtype = DTYPE_F32,
     .n_dims = 2,
     .shape = {2, 3},
     .bytes = 24,
     .data = x},
    {.name = "scalar", .dtype = DTYPE_F16, .bytes = 2, .data = x},
    {.name = "none", .dtype = DTYPE_F64, .n_dims = 2, .shape = {0, 7}, .data = x},
};
static const struct tensor_meta words[] = {{.key = "k", .type = TENSOR_META_STR, .str = "v\n"}};

static void test_round_trip(void **state)
{
    (void)state;
    struct err e = {0};
    struct tensor_file *f;
    size_t n;
    buf_reset(&b);
    assert_int_equal(safetensors_pack(&b, three, 4, words, 1, &e), 0);
    f = must_open(b.data, b.len);
    check_same_tensors(f, three, 4);
    assert_string_equal(tensor_file_meta_str(f, "k", &n), "v\n");
    /* Aligned for what reads in place: the header ends at 8, each tensor at its element size. */
    for (size_t i = 0; i < 4; i++) {
        size_t at = (size_t)((const char *)tensor_file_get(f, i)->data - b.data);
        assert_int_equal(at % dtype_block_bytes(three[i].dtype), 0);
    }
    tensor_file_close(f);
    check_truncations(b.data, b.len, b.len);

    char path[] = "/tmp/test_tensor_safetensors.XXXXXX";
    close(mkstemp(path));
    assert_int_equal(safetensors_write(path, three, 4, words, 1, &e), 0);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *back = malloc(b.len + 1);
    assert_non_null(back);
    assert_int_equal(fread(back, 1, b.len + 1, file), b.len);
    assert_memory_equal(back, b.data, b.len);
    fclose(file);
    free(back);
    remove(path);
}

static void invalid(const struct tensor *t, size_t n, const struct tensor_meta *meta, size_t n_meta,
                    const char *part)
{
    struct err e = {0};
    struct buf out;
    buf_init(&out, 1u << 20);
    assert_int_equal(safetensors_pack(&out, t, n, meta, n_meta, &e), ERR_INVALID);
    assert_int_equal(out.len, 0);
    if (!strstr(e.msg, part))
        fail_msg("message is \"%s\", wanted \"%s\"", e.msg, part);
    buf_fini(&out);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    struct tensor t[2] = {three[1], three[1]};
    invalid(t, 2, NULL, 0, "its name is taken");
    t[1].name = "__metadata__";
    invalid(t, 2, NULL, 0, "its name is taken");
    t[0].bytes = 23;
    invalid(t, 1, NULL, 0, "23 bytes given, want 24");
    t[0] = three[1];
    t[0].name = "";
    invalid(t, 1, NULL, 0, "has 0 bytes");
    t[0] = (struct tensor){
        .name = "q", .dtype = DTYPE_Q8_0, .n_dims = 1, .shape = {32}, .bytes = 34, .data = x};
    invalid(t, 1, NULL, 0, "cannot hold Q8_0");
    const struct tensor_meta number[] = {{.key = "k", .type = TENSOR_META_U32}};
    invalid(NULL, 0, number, 1, "UTF-8 string");
    const struct tensor_meta twins[] = {words[0], words[0]};
    invalid(NULL, 0, twins, 2, "key of its own");
    /* No room in the buffer is an error, not a short file. */
    struct err e = {0};
    struct buf out;
    buf_init(&out, 40);
    assert_int_equal(safetensors_pack(&out, three, 4, NULL, 0, &e), ERR_NOMEM);
    buf_fini(&out);
}

static void test_atomic_file(void **state)
{
    (void)state;
    struct err e = {0};
    char folder[] = "/tmp/test_tensor_atomic.XXXXXX", path[64], text[8] = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(file_write_atomic(path, "one", 3, &e), 0);
    assert_int_equal(file_write_atomic(path, "two!", 4, &e), 0);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(text, 1, sizeof text, f), 4);
    assert_string_equal(text, "two!");
    fclose(f);
    remove(path);
    /* Nothing else is left behind, not even after a failure: the folder can be removed. */
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(file_write_atomic(path, "x", 1, &e), ERR_IO); /* a folder is in the way */
    assert_true(strstr(e.msg, "rename") != NULL);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(file_write_atomic(path, "x", 1, &e), ERR_IO); /* no such folder */
    assert_true(strstr(e.msg, "create") != NULL);
}

static void test_open_errors(void **state)
{
    (void)state;
    struct err e = {0};
    struct tensor_file *f = (struct tensor_file *)&e;
    assert_int_equal(tensor_file_open("/nonexistent/file", &f, &e), ERR_IO);
    assert_null(f);
    assert_int_equal(tensor_file_open("/tmp", &f, &e), ERR_IO);
    assert_true(strstr(e.msg, "regular") != NULL);
    assert_int_equal(tensor_file_open("/dev/null", &f, NULL), ERR_IO);
    char path[] = "/tmp/test_tensor_empty.XXXXXX";
    close(mkstemp(path));
    assert_int_equal(tensor_file_open(path, &f, &e), ERR_FORMAT);
    remove(path);
    assert_int_equal(tensor_file_open_memory("x", 1, &f, NULL),
                     ERR_FORMAT); /* no struct err: fine */
    tensor_file_close(NULL);
}

/* A digest that spans several pieces of the conversion, against one over the whole. */
static void test_digest(void **state)
{
    (void)state;
    enum { N = 10007 };
    static uint16_t h[N];
    static float v[N];
    uint8_t a[32], c[32];
    for (size_t i = 0; i < N; i++) {
        h[i] = (uint16_t)(i * 7);
        v[i] = bf16_to_f32(h[i]);
    }
    const struct tensor t = {.dtype = DTYPE_BF16, .count = N, .bytes = sizeof h, .data = h};
    const struct tensor u = {.dtype = DTYPE_F32, .count = N, .bytes = sizeof v, .data = v};
    assert_int_equal(tensor_sha256_f32(&t, a, NULL), 0);
    assert_int_equal(tensor_sha256_f32(&u, c, NULL), 0);
    assert_memory_equal(a, c, 32);
    static const uint8_t minus_two[4] = {0xe4, 0x76, 0x73, 0x80}; /* of SHA-256 over 00 00 00 c0 */
    const struct tensor s = {.dtype = DTYPE_I8, .count = 1, .bytes = 1, .data = "\xfe"};
    assert_int_equal(tensor_sha256_f32(&s, a, NULL), 0);
    assert_memory_equal(a, minus_two, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),           cmocka_unit_test(test_shapes_and_types),
        cmocka_unit_test(test_offsets),        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_deep_json),      cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_writer_refuses), cmocka_unit_test(test_atomic_file),
        cmocka_unit_test(test_open_errors),    cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
