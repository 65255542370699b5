/* The vocabulary inside a GGUF: written here the way llama.cpp's converter does (the Python
 * representation of the bytes, padding behind) and read back. */
#include "engine/tensor/write.h"
#include "engine/tokenizer/gguf_vocab.h"
#include "tests/lib/check.h"

#include <stdlib.h>
#include <unistd.h>

#define N_PADDED 65536

static const float one = 1;
static char path[] = P_tmpdir "/dreamstate-XXXXXX";

/* A file with these tokens and one small tensor; opened and checked by the caller. */
static void write_gguf(const char *model, const char *const *tokens, size_t n)
{
    const struct tensor t = {.name = "x",
                             .dtype = DTYPE_F32,
                             .n_dims = 1,
                             .shape = {1},
                             .count = 1,
                             .bytes = 4,
                             .data = &one};
    const struct tensor_meta meta[] = {
        {.key = "tokenizer.ggml.model", .type = TENSOR_META_STR, .str = model},
        {.key = "tokenizer.ggml.tokens", .type = TENSOR_META_STR_ARRAY, .strs = tokens, .n = n},
    };
    struct err e;
    if (gguf_write(path, &t, 1, meta, n ? 2 : 1, &e) < 0)
        fail_msg("%s", e.msg);
}

static int open_gguf(struct tokenizer **t, struct err *e)
{
    *t = NULL;
    *e = (struct err){0};
    return tokenizer_open(path, t, e);
}

/* As repr() of Python bytes, without b'': one quote is escaped only where both kinds occur. */
static char *python_repr(const char *p, size_t n)
{
    struct buf b;
    bool both = memchr(p, '\'', n) && memchr(p, '"', n);
    buf_init(&b, 4 * n + 1);
    buf_reserve(&b, 0);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '\n' || c == '\t' || c == '\r')
            buf_printf(&b, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else if (c == '\\' || (c == '\'' && both))
            buf_printf(&b, "\\%c", c);
        else if (c < 0x20 || c > 0x7E)
            buf_printf(&b, "\\x%02x", c);
        else
            buf_append(&b, p + i, 1);
    }
    return buf_take(&b, NULL);
}

static char **converted(const struct tokenizer *t)
{
    char **tokens = calloc(N_PADDED, sizeof *tokens);
    assert_non_null(tokens);
    for (uint32_t id = 0; id < N_PADDED; id++) {
        size_t n;
        const char *p = tokenizer_token(t, id, &n);
        char other[16];
        if (n == 0)
            n = (size_t)snprintf(other, sizeof other, id ? "[PAD%u]" : "<s>", id), p = other;
        tokens[id] = python_repr(p, n);
        assert_non_null(tokens[id]);
    }
    return tokens;
}

static void check_same(const struct tokenizer *a, const struct tokenizer *b)
{
    assert_int_equal(tokenizer_vocab(a), tokenizer_vocab(b));
    assert_int_equal(tokenizer_used(a), tokenizer_used(b));
    assert_int_equal(tokenizer_longest(a), tokenizer_longest(b));
    for (uint32_t id = 0; id < N_PADDED; id++) {
        size_t na, nb;
        const char *pa = tokenizer_token(a, id, &na), *pb = tokenizer_token(b, id, &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(pa, pb, na);
    }
}

/* What is written of a vocabulary has these tokens, and 1 for words, 3 for the end, 5 for padding. */
static void check_written(const struct tokenizer *t, char **tokens)
{
    struct gguf_vocab v;
    struct err e;
    size_t n;
    assert_int_equal(gguf_vocab_init(&v, t, N_PADDED, &e), 0);
    assert_true(v.n_meta >= 5);
    for (uint32_t id = 0; id < N_PADDED; id++) {
        tokenizer_token(t, id, &n);
        assert_string_equal(v.tokens[id], tokens[id]);
        assert_int_equal(v.types[id], n ? 1 : id ? 5 : 3);
    }
    gguf_vocab_fini(&v);
    assert_int_equal(gguf_vocab_init(&v, t, tokenizer_used(t) - 1, &e), ERR_INVALID);
}

static void check_converted(const char *vocabulary)
{
    struct tokenizer *text, *gguf;
    struct err e;
    if (tokenizer_open(vocabulary, &text, &e) < 0)
        fail_msg("%s", e.msg);
    char **tokens = converted(text);
    write_gguf("rwkv", (const char *const *)tokens, N_PADDED);
    if (open_gguf(&gguf, &e) < 0)
        fail_msg("%s", e.msg);
    check_same(text, gguf);
    check_written(text, tokens);
    assert_int_equal(tokenizer_separator(gguf), 0);
    assert_true(tokenizer_is_end(gguf, 0));
    for (size_t i = 0; i < N_PADDED; i++)
        free(tokens[i]);
    free(tokens);
    tokenizer_free(text);
    tokenizer_free(gguf);
}

static void test_small(void **state)
{
    (void)state;
    check_converted("tests/data/vocab-small.txt");
}

static void test_world(void **state)
{
    (void)state;
    const char *world = golden_path("tokenizer/rwkv_vocab_v20230424.txt");
    if (!world)
        skip();
    check_converted(world);
}

/* id = byte goes through a file. */
static void test_bytes(void **state)
{
    (void)state;
    struct tokenizer *t, *bytes = tokenizer_new_bytes();
    struct gguf_vocab v;
    struct err e;
    uint32_t ids[3];
    assert_non_null(bytes);
    assert_int_equal(gguf_vocab_init(&v, bytes, 256, &e), 0);
    assert_int_equal(v.n_meta, 3);
    write_gguf("rwkv", v.tokens, 256);
    assert_int_equal(open_gguf(&t, &e), 0);
    assert_int_equal(tokenizer_used(t), 256);
    assert_false(tokenizer_is_end(t, 0));
    assert_int_equal(tokenizer_encode(t, "\0a\xff", 3, ids), 3);
    assert_true(ids[0] == 0 && ids[1] == 'a' && ids[2] == 255);
    tokenizer_free(t);
    v.tokens[7] = "\\x08"; /* not that byte: a World vocabulary, in which it is there twice */
    write_gguf("rwkv", v.tokens, 256);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    gguf_vocab_fini(&v);
    tokenizer_free(bytes);
}

static void test_refused(void **state)
{
    (void)state;
    static char store[256][8];
    const char *tokens[258] = {"<s>"};
    struct tokenizer *t;
    struct err e;
    for (int i = 0; i < 256; i++) {
        snprintf(store[i], sizeof store[i], "\\x%02x", (unsigned)i);
        tokens[1 + i] = store[i];
    }
    write_gguf("gpt2", tokens, 257);
    assert_int_equal(open_gguf(&t, &e), ERR_UNSUPPORTED);
    write_gguf("rwkv", NULL, 0);
    assert_int_equal(open_gguf(&t, &e), ERR_UNSUPPORTED);
    write_gguf("rwkv", tokens, 256);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "single byte 0xff"));
    tokens[257] = "\\x41";
    write_gguf("rwkv", tokens, 258);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "token 257: the same bytes as token 66"));
    tokens[257] = "a\\qb";
    write_gguf("rwkv", tokens, 258);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "token 257: an escape of the byte 0x71"));
    char longest[1026];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    tokens[257] = longest;
    write_gguf("rwkv", tokens, 258);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "token 257: found 1025 bytes, want at most 1024"));
    tokens[257] = "\xC3\xA9"; /* not escaped: the bytes themselves */
    write_gguf("rwkv", tokens, 258);
    assert_int_equal(open_gguf(&t, &e), 0);
    size_t n;
    assert_memory_equal(tokenizer_token(t, 257, &n), "\xC3\xA9", 2);
    assert_int_equal(n, 2);
    tokenizer_free(t);
}

static void test_too_many(void **state)
{
    (void)state;
    const char **tokens = calloc(N_PADDED + 1, sizeof *tokens);
    struct tokenizer *t;
    struct err e;
    assert_non_null(tokens);
    for (size_t i = 0; i <= N_PADDED; i++)
        tokens[i] = "a";
    write_gguf("rwkv", tokens, N_PADDED + 1);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "65537 tokens, want 1 to 65536"));
    free(tokens);
}

static void test_not_gguf(void **state)
{
    (void)state;
    FILE *f = fopen(path, "wb");
    struct tokenizer *t;
    struct err e;
    assert_non_null(f);
    assert_int_equal(fwrite("GGUF but no more", 1, 16, f), 16);
    fclose(f);
    assert_int_equal(open_gguf(&t, &e), ERR_FORMAT);
    assert_null(t);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),    cmocka_unit_test(test_world),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_not_gguf), cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
