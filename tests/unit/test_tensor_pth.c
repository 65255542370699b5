/* The .pth reader: strided views against the definition, names, and files that lie: pickles that
 * call, recurse, multiply or underflow; zip containers that are cut, patched or claim too much. */
#include "tests/lib/check.h"
#include "tests/lib/hostile.h"
#include "tests/lib/pickle_write.h"
#include "tests/lib/zip_write.h"

#include <stdlib.h>

#define N_STORAGE 24

static struct buf pk;    /* the pickle being made */
static struct zip_out z; /* the last file */
static float storage[N_STORAGE];

static int setup(void **state)
{
    (void)state;
    buf_init(&pk, 1u << 26);
    zip_out_init(&z);
    for (int i = 0; i < N_STORAGE; i++)
        storage[i] = (float)i;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_fini(&pk);
    zip_out_fini(&z);
    return 0;
}

static void begin(void)
{
    buf_reset(&pk);
    pk_ops(&pk, "\x80\x02");
}

/* Ends the pickle and packs it with storages "0" (N_STORAGE floats) and "e" (empty). */
static void pack(bool deflated)
{
    pk_ops(&pk, ".");
    zip_out_fini(&z);
    zip_out_init(&z);
    zip_out_add(&z, "a/data.pkl", pk.data, pk.len, deflated);
    zip_out_add(&z, "a/data/0", storage, sizeof storage, deflated);
    zip_out_add(&z, "a/data/e", "", 0, deflated);
    zip_out_end(&z);
}

static struct tensor_file *open_packed(void)
{
    pack(false);
    return must_open(z.file.data, z.file.len);
}

static void refuse_packed(const char *part)
{
    pack(false);
    must_refuse(z.file.data, z.file.len, part);
}

#define DIMS(...)                                                                                  \
    (const int64_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
static void view(int64_t offset, int n, const int64_t *shape, const int64_t *stride)
{
    pk_tensor(&pk, "FloatStorage", "0", N_STORAGE, offset, n, shape, stride);
}

/* A view that is the whole file. */
static void one(int64_t offset, int n, const int64_t *shape, const int64_t *stride)
{
    begin();
    view(offset, n, shape, stride);
}

static void check_view(int64_t offset, int n, const int64_t *shape, const int64_t *stride)
{
    one(offset, n, shape, stride);
    struct tensor_file *f = open_packed();
    const struct tensor *t = tensor_file_find(f, "tensor");
    assert_non_null(t);
    assert_int_equal(t->n_dims, n);
    float *x = golden_f32(f, "tensor", 0);
    for (size_t i = 0; i < t->count; i++) {
        int64_t at = offset;
        size_t rest = i;
        for (int d = n - 1; d >= 0; d--) {
            assert_int_equal(t->shape[d], shape[d]);
            at += (int64_t)(rest % (size_t)shape[d]) * stride[d];
            rest /= (size_t)shape[d];
        }
        assert_true(x[i] == (float)at);
    }
    free(x);
    tensor_file_close(f);
}

static void test_views(void **state)
{
    (void)state;
    check_view(0, 1, DIMS(24), DIMS(1));
    check_view(5, 2, DIMS(3, 4), DIMS(4, 1));
    check_view(0, 2, DIMS(4, 6), DIMS(1, 4));       /* transposed */
    check_view(1, 2, DIMS(3, 3), DIMS(8, 2));       /* every second, with an offset */
    check_view(23, 0, NULL, NULL);                  /* a scalar at the end */
    check_view(0, 3, DIMS(2, 3, 4), DIMS(1, 8, 2)); /* permuted */
    check_view(0, 3, DIMS(3, 1, 2),
               DIMS(2, 1000000, 1));          /* the stride of one element does not matter */
    check_view(7, 2, DIMS(5, 3), DIMS(0, 1)); /* expanded, within the file's size */
    check_view(0, 8, DIMS(1, 2, 1, 2, 1, 2, 1, 3), DIMS(9, 12, 9, 6, 9, 3, 9, 1));
    check_view(0, 2, DIMS(3, 4), DIMS(5, 3)); /* rows that interleave */
}

/* All views of three dimensions with small shapes and strides: right if they fit, refused if not.
 */
static void test_every_small_view(void **state)
{
    (void)state;
    for (int64_t c = 0; c < 3 * 3 * 3 * 4 * 4 * 4; c++) {
        int64_t shape[3] = {1 + c % 3, 1 + c / 3 % 3, 1 + c / 9 % 3};
        int64_t stride[3] = {3 * (c / 27 % 4), c / 108 % 4, 2 * (c / 432 % 4)};
        int64_t reach = 0, offset = 11;
        for (int d = 0; d < 3; d++)
            reach += (shape[d] - 1) * stride[d];
        if (offset + reach < N_STORAGE)
            check_view(offset, 3, shape, stride);
        else {
            one(offset, 3, shape, stride);
            refuse_packed("reach past its storage of 24 elements");
        }
    }
}

static void test_empty_tensors(void **state)
{
    (void)state;
    check_view(0, 2, DIMS(0, 3), DIMS(3, 1));
    check_view(24, 1, DIMS(0), DIMS(1));
    begin();
    pk_tensor(&pk, "HalfStorage", "e", 0, 0, 1, DIMS(0), DIMS(1));
    struct tensor_file *f = open_packed();
    assert_int_equal(tensor_file_get(f, 0)->bytes, 0);
    assert_int_equal(tensor_file_get(f, 0)->dtype, DTYPE_F16);
    tensor_file_close(f);
}

static void test_hostile_views(void **state)
{
    (void)state;
    one(25, 0, NULL, NULL);
    refuse_packed("'tensor': offset 25");
    one(24, 1, DIMS(1), DIMS(1));
    refuse_packed("offset 24");
    one(0, 2, DIMS(2, 2), DIMS(INT64_MAX, INT64_MAX));
    refuse_packed("reach past");
    one(INT64_MAX, 2, DIMS(3, 2), DIMS(INT64_MAX, INT64_MAX));
    refuse_packed("reach past");
    one(0, 1, DIMS((int64_t)1 << 40), DIMS(0));
    refuse_packed("more than the file accounts for");
    one(0, 2, DIMS((int64_t)1 << 40, (int64_t)1 << 40), DIMS(0, 0));
    refuse_packed("overflows");
    one(0, 1, DIMS(-1), DIMS(1));
    refuse_packed("integers of 0 or more");
    one(0, 1, DIMS(2), DIMS(-1));
    refuse_packed("integers of 0 or more");
    one(-1, 1, DIMS(2), DIMS(1));
    refuse_packed("an offset");
    one(0, 9, DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1), DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1));
    refuse_packed("more than 8 dimensions");
    begin();
    pk_tensor(&pk, "FloatStorage", "1", 24, 0, 1, DIMS(1), DIMS(1));
    refuse_packed("its storage '1' is not in the file");
    begin();
    pk_tensor(&pk, "FloatStorage", "0", 25, 0, 1, DIMS(1), DIMS(1));
    refuse_packed("storage '0' has 96 bytes, want 25 elements of F32");
    begin();
    pk_tensor(&pk, "DoubleStorage", "0", 24, 0, 1, DIMS(1), DIMS(1));
    refuse_packed("want 24 elements of F64");
    begin();
    pk_tensor(&pk, "FloatStorage", "0", (int64_t)1 << 62, 0, 1, DIMS(1), DIMS(1));
    refuse_packed("has 96 bytes");
    begin();
    pk_tensor(&pk, "FloatStorage", "0", -24, 0, 1, DIMS(1), DIMS(1));
    refuse_packed("describes no storage");
}

/* Each copy is small; together they would be two thousand times the file. */
static void test_copies_have_a_budget(void **state)
{
    (void)state;
    begin();
    pk_ops(&pk, "](");
    for (int i = 0; i < 100; i++)
        view(0, 3, DIMS(1000, 4, 6), DIMS(0, 1, 4));
    pk_ops(&pk, "e");
    refuse_packed("more than the file accounts for");
}

static void test_names(void **state)
{
    (void)state;
    begin();
    pk_ops(&pk, "}(");
    pk_str(&pk, "a");
    pk_ops(&pk, "}(");
    pk_str(&pk, "b.c");
    view(0, 1, DIMS(1), DIMS(1));
    pk_int(&pk, -3);
    pk_ops(&pk, "]("); /* a list of a tensor, a number and a tuple of one tensor */
    view(1, 1, DIMS(1), DIMS(1));
    pk_int(&pk, 5);
    view(2, 1, DIMS(1), DIMS(1));
    pk_ops(&pk, "\x85"
                "eu");
    pk_str(&pk, "\xe4\xb8\xad");
    view(3, 1, DIMS(1), DIMS(1));
    pk_ops(&pk, "N");
    pk_int(&pk, 1);
    pk_ops(&pk, "u");
    static const char *const names[] = {"a.b.c", "a.-3.0", "a.-3.2.0", "\xe4\xb8\xad"};
    struct tensor_file *f = open_packed();
    assert_int_equal(tensor_file_count(f), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(tensor_file_get(f, i)->name, names[i]);
        float x;
        tensor_to_f32(tensor_file_get(f, i), &x);
        assert_true(x == (float)i);
    }
    tensor_file_close(f);
}

/* Only a dictionary under "state_dict" hides what is beside it. */
static void test_state_dict(void **state)
{
    (void)state;
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        begin();
        pk_ops(&pk, "}(");
        pk_str(&pk, "state_dict");
        pk_ops(&pk, wrapped ? "}" : "");
        if (wrapped)
            pk_str(&pk, "w");
        view(0, 1, DIMS(1), DIMS(1));
        pk_ops(&pk, wrapped ? "s" : "");
        pk_str(&pk, "beside");
        view(1, 1, DIMS(1), DIMS(1));
        pk_ops(&pk, "u");
        struct tensor_file *f = open_packed();
        assert_int_equal(tensor_file_count(f), wrapped ? 1 : 2);
        assert_string_equal(tensor_file_get(f, 0)->name, wrapped ? "w" : "state_dict");
        tensor_file_close(f);
    }
}

static void test_hostile_names(void **state)
{
    (void)state;
    begin();
    pk_ops(&pk, "}(");
    pk_str(&pk, "a.b"), view(0, 0, NULL, NULL);
    pk_str(&pk, "a"), pk_ops(&pk, "}"), pk_str(&pk, "b"), view(0, 0, NULL, NULL), pk_ops(&pk, "s");
    pk_ops(&pk, "u");
    refuse_packed("two tensors are named 'a.b'");
    char name[400];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    begin();
    pk_ops(&pk, "}"), pk_str(&pk, name), view(0, 0, NULL, NULL), pk_ops(&pk, "s");
    refuse_packed("more than 256 bytes");
    begin();
    pk_ops(&pk, "}"), pk_str(&pk, "a\xff"), view(0, 0, NULL, NULL), pk_ops(&pk, "s");
    refuse_packed("not UTF-8");
    begin();
    pk_ops(&pk, "}X\3"), buf_append(&pk, "\0\0\0a\0b", 6), view(0, 0, NULL, NULL), pk_ops(&pk, "s");
    refuse_packed("holds a NUL");
    begin();
    pk_ops(&pk, "}N"), view(0, 0, NULL, NULL), pk_ops(&pk, "s");
    refuse_packed("neither a string nor an integer");
}

static void test_globals(void **state)
{
    (void)state;
    begin();
    pk_global(&pk, "os", "system");
    pk_ops(&pk, "(");
    pk_str(&pk, "touch /tmp/dreamstate-pwned");
    pk_ops(&pk, "tR");
    refuse_packed("names 'system' of module 'os'");
    begin();
    pk_ops(&pk, "\x8c\x08"
                "builtins"
                "\x8c\x04"
                "eval"
                "\x93");
    refuse_packed("names 'eval' of module 'builtins'");
    begin();
    pk_global(&pk, "torch", "load");
    refuse_packed("names 'load' of module 'torch'");
    begin();
    pk_global(&pk, "torch._utils", "_rebuild_tensor_v2 "); /* close is not equal */
    refuse_packed("refused");
    begin();
    pk_ops(&pk, "cos\nsystem"); /* no end of line */
    refuse_packed("ends within a name");
    begin();
    pk_global(&pk, "torch", "FloatStorage");
    pk_ops(&pk, ")R");
    refuse_packed("calls a storage type");
    begin();
    pk_ops(&pk, ")\x81");
    refuse_packed("not needed for tensors"); /* NEWOBJ */
    begin();
    pk_ops(&pk, "(i");
    refuse_packed("not needed for tensors"); /* INST */
    begin();
    pk_global(&pk, "collections", "OrderedDict");
    pk_ops(&pk, "](]]eee\x85R"), refuse_packed("damaged");
}

static void test_machine_is_bounded(void **state)
{
    (void)state;
    static const char *const broken[] = {
        "",
        "0",
        "1",
        "2",
        "a",
        "]a",
        "s",
        "}NNss",
        "u",
        "e",
        "}(Nu",
        "t",
        "(a",
        "(R",
        "NNR",
        "NQ",
        ")Q",
        "b",
        "NNb",
        "q",
        "Nq",
        "h\5",
        "j\1\1",
        "\x85",
        "N\x86",
        "\x87",
        "d",
        "(Nd",
        "NN",
        "X",
        "U\377",
        "\x8c",
        "\x8a\x09N",
        "\x8bN",
        "K",
        "M1",
        "J123",
        "G1",
        "\x90",
        "(\x90",
        "(",
        "(N",
        "\x80\6",
        "\x95"
        "12345678",
        "\x93",
        "NN\x93",
        "\x8d"
        "AAAAAAAA",
        "T\377\377\377\377",
        ")N\x86"
        "a",
        "N(NNe",
        "c\n\n",
        "\xff",
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        begin();
        pk_ops(&pk, broken[i]);
        refuse_packed("pickle");
    }
    begin();
    buf_append(&pk, "Nr\xff\xff\xff\xff", 6); /* a memo place that no short pickle can have */
    refuse_packed("the memo has no such place");
    begin();
    pk_ops(&pk, "\x8b\xff\xff\xff\x7f");
    refuse_packed("ends within a number");
}

static void test_deep_and_circular(void **state)
{
    (void)state;
    begin();
    for (int i = 0; i < 200000; i++)
        pk_ops(&pk, "]");
    for (int i = 1; i < 200000; i++)
        pk_ops(&pk, "a");
    refuse_packed("nested more than 32 deep");
    begin();
    pk_ops(&pk, "]q"), buf_append(&pk, "\0h\0a", 4); /* a list that holds itself */
    refuse_packed("contains itself");
    /* Twice the same list at each of 30 levels: 2^30 tensors, were they named. */
    begin();
    pk_ops(&pk, "]"), view(0, 0, NULL, NULL), pk_ops(&pk, "a");
    for (int i = 0; i < 30; i++)
        pk_ops(&pk, "2\x86");
    refuse_packed("appears twice");
    /* Without a tensor in them that is harmless. */
    begin();
    pk_ops(&pk, "]");
    for (int i = 0; i < 30; i++)
        pk_ops(&pk, "2\x86");
    struct tensor_file *f = open_packed();
    assert_int_equal(tensor_file_count(f), 0);
    tensor_file_close(f);
    begin();
    for (int i = 0; i < 2000001; i++)
        pk_ops(&pk, "N");
    refuse_packed("more than 2000000 values");
}

/* One tensor under two names (tied weights), protocol 4 with frame, memo and short strings. */
static void test_protocol_4(void **state)
{
    (void)state;
    buf_reset(&pk);
    pk_ops(&pk, "\x80\x04\x95");
    buf_append(&pk, "\1\0\0\0\0\0\0\0", 8);
    pk_ops(&pk, "}\x94(\x8c\x01"
                "a");
    view(0, 1, DIMS(2), DIMS(1));
    pk_ops(&pk, "\x94\x8c\x01"
                "bh\1"
                "u");
    struct tensor_file *f = open_packed();
    assert_int_equal(tensor_file_count(f), 2);
    assert_ptr_equal(tensor_file_find(f, "a")->data, tensor_file_find(f, "b")->data);
    tensor_file_close(f);
}

static void test_storage_types(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        int64_t numel;
    } types[] = {
        {"FloatStorage", DTYPE_F32, 24},     {"HalfStorage", DTYPE_F16, 48},
        {"BFloat16Storage", DTYPE_BF16, 48}, {"DoubleStorage", DTYPE_F64, 12},
        {"CharStorage", DTYPE_I8, 96},       {"ByteStorage", DTYPE_U8, 96},
        {"ShortStorage", DTYPE_I16, 48},     {"IntStorage", DTYPE_I32, 24},
        {"LongStorage", DTYPE_I64, 12},      {"BoolStorage", DTYPE_BOOL, 96},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        begin();
        pk_tensor(&pk, types[i].name, "0", types[i].numel, 0, 2, DIMS(2, types[i].numel / 4),
                  DIMS(1, 4));
        struct tensor_file *f = open_packed();
        const struct tensor *t = tensor_file_get(f, 0);
        assert_int_equal(t->dtype, types[i].dtype);
        size_t size = dtype_block_bytes(t->dtype);
        const char *from = (const char *)storage;
        for (size_t r = 0, k = 0; r < 2; r++)
            for (size_t c = 0; c < t->shape[1]; c++, k++)
                assert_memory_equal((const char *)t->data + k * size, from + (r + 4 * c) * size,
                                    size);
        tensor_file_close(f);
    }
}

static void small_file(bool deflated)
{
    one(2, 2, DIMS(3, 4), DIMS(4, 1));
    pack(deflated);
}

static void test_truncated(void **state)
{
    (void)state;
    for (int deflated = 0; deflated < 2; deflated++) {
        small_file(deflated);
        tensor_file_close(must_open(z.file.data, z.file.len));
        check_truncations(z.file.data, z.file.len, z.file.len);
    }
}

/* Any flipped bit of the pickle or the storage is found by its CRC; elsewhere it must only be safe.
 */
static void test_flipped_bits(void **state)
{
    (void)state;
    for (int deflated = 0; deflated < 2; deflated++) {
        small_file(deflated);
        size_t data =
            (size_t)((const char *)memmem(z.file.data, z.file.len, "a/data/0", 8) - z.file.data) +
            8;
        for (size_t i = 0; i < z.file.len * 8; i++) {
            struct tensor_file *f = NULL;
            struct err e = {0};
            z.file.data[i / 8] ^= (char)(1 << i % 8);
            int rc = tensor_file_open_memory(z.file.data, z.file.len, &f, &e);
            if (!deflated && i / 8 >= data && i / 8 < data + sizeof storage)
                assert_int_equal(rc, ERR_FORMAT);
            if (rc == 0) {
                uint8_t digest[32];
                for (size_t k = 0; k < tensor_file_count(f); k++)
                    tensor_sha256_f32(tensor_file_get(f, k), digest, &e);
            }
            tensor_file_close(f);
            z.file.data[i / 8] ^= (char)(1 << i % 8);
        }
    }
}

/* Sets a 32-bit field of the directory entry of `name`. */
static void patch(const char *name, size_t field, uint32_t value)
{
    char *at = z.file.data, *end = z.file.data + z.file.len, *p, *last = NULL;
    while ((p = memmem(at, (size_t)(end - at), name, strlen(name)))) {
        last = p; /* the directory comes after the members */
        at = p + 1;
    }
    assert_non_null(last);
    memcpy(last - 46 + field, &value, 4);
}

static void test_hostile_zip(void **state)
{
    (void)state;
    small_file(true);
    patch("a/data/0", 24, 1u << 30);
    must_refuse(z.file.data, z.file.len, "has 1073741824 bytes, want 24");
    one(0, 1, DIMS(1), DIMS(1));
    buf_reset(&pk);
    pk_ops(&pk, "\x80\x02");
    pk_tensor(&pk, "FloatStorage", "0", 1 << 28, 0, 1, DIMS(1), DIMS(1));
    pack(true);
    patch("a/data/0", 24, 1u << 30);
    must_refuse(z.file.data, z.file.len, "are more than can be");
    small_file(true);
    patch("a/data.pkl", 24, 60);
    must_refuse(z.file.data, z.file.len, "compressed data is damaged");
    small_file(true);
    patch("a/data.pkl", 24, 4000);
    must_refuse(z.file.data, z.file.len, "compressed data is damaged");
    small_file(false);
    patch("a/data.pkl", 24, 4000);
    must_refuse(z.file.data, z.file.len, "stored, but");
    small_file(false);
    patch("a/data.pkl", 20, 0xfffffff0u);
    must_refuse(z.file.data, z.file.len, "do not fit");
    small_file(false);
    patch("a/data.pkl", 42, 0xfffffff0u);
    must_refuse(z.file.data, z.file.len, "header is damaged");
    small_file(false);
    patch("a/data.pkl", 42, 1);
    must_refuse(z.file.data, z.file.len, "header is damaged");
    small_file(false);
    patch("a/data.pkl", 24, 0xffffffffu);
    must_refuse(z.file.data, z.file.len, "zip64 sizes are damaged");
    small_file(false);
    patch("a/data.pkl", 8, 1); /* encrypted, stored */
    must_refuse(z.file.data, z.file.len, "encrypted");
    small_file(false);
    patch("a/data.pkl", 8, 9u << 16);
    must_refuse(z.file.data, z.file.len, "packed by method 9");
    small_file(false);
    patch("a/data.pkl", 16, 0);
    must_refuse(z.file.data, z.file.len, "CRC does not match");
}

static void test_containers(void **state)
{
    (void)state;
    static const struct {
        const char *names[4];
        const char *part; /* NULL: opens */
    } cases[] = {
        {{"b/data.pkl", "a/data.pkl"}, "no (or several)"},
        {{"a/data.pkl", "a/data.pkl"}, "two zip members are named 'a/data.pkl'"},
        {{"data.pkl"}, "no (or several)"},
        {{"a/b/data.pkl"}, "no (or several)"},
        {{"a/data.pkl", "a/version", "x", ".data/y"}, NULL},
    };
    begin();
    pk_ops(&pk, "}.");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zip_out_fini(&z);
        zip_out_init(&z);
        for (size_t k = 0; k < 4 && cases[i].names[k]; k++)
            zip_out_add(&z, cases[i].names[k], pk.data, pk.len, false);
        zip_out_end(&z);
        if (cases[i].part)
            must_refuse(z.file.data, z.file.len, cases[i].part);
        else
            tensor_file_close(must_open(z.file.data, z.file.len));
    }
    for (int big = 0; big < 2; big++) {
        zip_out_fini(&z);
        zip_out_init(&z);
        zip_out_add(&z, "a/data.pkl", pk.data, pk.len, false);
        zip_out_add(&z, "a/byteorder", big ? "big" : "little", big ? 3 : 6, false);
        zip_out_end(&z);
        if (big)
            must_refuse(z.file.data, z.file.len, "big-endian");
        else
            tensor_file_close(must_open(z.file.data, z.file.len));
    }
}

/* The form of files beyond 4 GB: sizes and offset of a member in extra field 1, the directory's in
 * the zip64 end record. Made from a plain file of one member. */
static void test_zip64(void **state)
{
    (void)state;
    const uint32_t none = 0xffffffffu;
    begin();
    pk_ops(&pk, "}.");
    zip_out_fini(&z);
    zip_out_init(&z);
    zip_out_add(&z, "a/data.pkl", pk.data, pk.len, false);
    char *d = z.directory.data;
    memcpy(d + 20, &none, 4);
    memcpy(d + 24, &none, 4);
    memcpy(d + 42, &none, 4);
    memcpy(d + 30, "\x24\0", 2); /* 36 bytes of extra fields: one of 4 for others, ours of 24 */
    buf_append(&z.directory, "\x99\x99\4\0abcd\1\0\x18\0", 12);
    buf_append(&z.directory, (uint64_t[]){pk.len, pk.len, 0}, 24);
    uint64_t at = z.file.len, end64 = at + z.directory.len;
    buf_append(&z.file, z.directory.data, z.directory.len);
    buf_append(&z.file, "PK\6\6\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0", 24);
    buf_append(&z.file, (uint64_t[]){1, 1, z.directory.len, at}, 32);
    buf_append(&z.file, "PK\6\7\0\0\0\0", 8);
    buf_append(&z.file, &end64, 8);
    buf_append(&z.file, "\1\0\0\0", 4);
    buf_append(&z.file, "PK\5\6\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0", 22);
    tensor_file_close(must_open(z.file.data, z.file.len));
    check_truncations(z.file.data, z.file.len, z.file.len);
    for (size_t i = 0; i < z.file.len; i++) { /* no byte of it may lead astray */
        struct tensor_file *f = NULL;
        z.file.data[i] ^= (char)0xff;
        if (tensor_file_open_memory(z.file.data, z.file.len, &f, NULL) == 0)
            tensor_file_close(f);
        z.file.data[i] ^= (char)0xff;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_every_small_view),
        cmocka_unit_test(test_empty_tensors),
        cmocka_unit_test(test_hostile_views),
        cmocka_unit_test(test_copies_have_a_budget),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_state_dict),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_globals),
        cmocka_unit_test(test_machine_is_bounded),
        cmocka_unit_test(test_deep_and_circular),
        cmocka_unit_test(test_protocol_4),
        cmocka_unit_test(test_storage_types),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_hostile_zip),
        cmocka_unit_test(test_containers),
        cmocka_unit_test(test_zip64),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
