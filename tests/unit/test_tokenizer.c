/* The vocabulary parser, line by line, and the byte tokenizer. */
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#include <stdlib.h>

#define SMALL "tests/data/vocab-small.txt"

/* The 256 single bytes as World has them, then `more` (which may hold NULs: n bytes). */
static int open_with(const char *more, size_t n, struct tokenizer **t, struct err *e)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 256; i++)
        buf_printf(&b, i < 0x80 ? "%d '\\x%02x' 1\n" : "%d b'\\x%02x' 1\n", i + 1, i);
    buf_append(&b, more, n);
    assert_false(b.failed);
    *t = NULL;
    *e = (struct err){0};
    int rc = tokenizer_open_world_memory(b.data, b.len, t, e);
    buf_fini(&b);
    return rc;
}

static void check_token(const struct tokenizer *t, uint32_t id, const char *want, size_t n)
{
    size_t len;
    const char *p = tokenizer_token(t, id, &len);
    assert_int_equal(len, n);
    assert_memory_equal(p, want, n);
}

static void test_literals(void **state)
{
    (void)state;
    static const struct {
        const char *line, *want;
        size_t n;
    } cases[] = {
        {"257 'ab' 2\n", "ab", 2},
        {"257 \"it's\" 4\n", "it's", 4},
        {"257 ' a b ' 5\n", " a b ", 5},
        {"257 '\\n\\t\\r\\\\\\'' 5\n", "\n\t\r\\'", 5},
        {"257 '\\'\"' 2\n", "'\"", 2},
        {"257 '\\x80' 2\n", "\xC2\x80", 2},
        {"257 b'\\x80\\xff' 2\n", "\x80\xFF", 2},
        {"257 b'\\xE6\\x97' 2\n", "\xE6\x97", 2},
        {"257 '\\u200b' 3\n", "\xE2\x80\x8B", 3},
        {"257 '\\u00e9' 2\n", "\xC3\xA9", 2},
        {"257 '\xE6\x97\xA5' 3\n", "\xE6\x97\xA5", 3},
        {"257 'a\\x00b' 3\n", "a\0b", 3},
        {"257 b'' '' 4\n", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tokenizer *t;
        struct err e;
        int rc = open_with(cases[i].line, strlen(cases[i].line), &t, &e);
        if (!cases[i].want) {
            assert_int_equal(rc, ERR_FORMAT);
            continue;
        }
        if (rc < 0)
            fail_msg("%s: %s", cases[i].line, e.msg);
        check_token(t, 257, cases[i].want, cases[i].n);
        assert_int_equal(tokenizer_used(t), 258);
        assert_int_equal(tokenizer_longest(t), cases[i].n);
        tokenizer_free(t);
    }
}

static void test_bad_lines(void **state)
{
    (void)state;
    static const struct {
        const char *line, *want;
    } cases[] = {
        {"257 'ab' 3\n", "line 257: found a literal of 2 bytes, want 3"},
        {"258 'ab' 2\n", "line 257: found id 258, want 257"},
        {"0257 'ab' 2\n", "line 257: found id 0257, want 257"},
        {"257'ab' 2\n", "line 257: want `<id> <literal> <length>`"},
        {"257 'ab'\n", "line 257: want `<id> <literal> <length>`"},
        {"\n", "line 257: want `<id> <literal> <length>`"},
        {"257 'ab' 2", "line 257: no newline at its end"},
        {"257 'ab' 2\r\n", "line 257: found length 2?, want 1 to 1024"},
        {"257 '' 0\n", "line 257: found length 0, want"},
        {"257 'ab' 99999999\n", "line 257: found length 99999999, want"},
        {"257 ab 2\n", "no quoted literal"},
        {"257 'ab\" 2\n", "no quoted literal"},
        {"257 ' 1\n", "no quoted literal"},
        {"257 'a'b' 3\n", "line 257: a quote inside the literal"},
        {"257 'ab\\' 2\n", "ends in a backslash"},
        {"257 'a\\q' 2\n", "an escape of the byte 0x71"},
        {"257 'a\\U0001f642' 5\n", "an escape of the byte 0x55"},
        {"257 b'\\u1234' 3\n", "an escape of the byte 0x75"},
        {"257 '\\x8' 2\n", "an escape cut short, want 2 hex digits"},
        {"257 '\\x8g' 2\n", "an escape with the byte 0x67, want 2 hex digits"},
        {"257 '\\ud83d' 3\n", "\\ud83d is a surrogate"},
        {"257 b'\xE6\x97' 2\n", "the byte 0xe6 inside the literal"},
        {"257 'a\tb' 3\n", "the byte 0x09 inside the literal"},
        {"257 '\xE6\x97' 2\n", "not UTF-8"},
        {"257 'a' 1\n", "line 257: the same bytes as line 98, want every token once"},
        {"257 'ab' 2\n258 'cd' 2\n259 b'ab' 2\n", "line 259: the same bytes as line 257"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tokenizer *t;
        struct err e;
        assert_int_equal(open_with(cases[i].line, strlen(cases[i].line), &t, &e), ERR_FORMAT);
        assert_null(t);
        if (!strstr(e.msg, cases[i].want))
            fail_msg("%s gives '%s', want '%s'", cases[i].line, e.msg, cases[i].want);
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    struct tokenizer *t = NULL;
    struct err e;
    assert_int_equal(tokenizer_open_world_memory("", 0, &t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "single byte 0x00"));
    assert_int_equal(tokenizer_open_world_memory("1 '\\x00' 1\n2 'b' 1\n", 19, &t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "single byte 0x01"));
    assert_int_equal(open_with("257 'a\0b' 3\n", 12, &t, &e), ERR_FORMAT);
    assert_int_equal(tokenizer_open("tests/data/no-such-file", &t, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "tests/data/no-such-file"));
    assert_int_equal(tokenizer_open("tests", &t, &e), ERR_IO);

    size_t n = 65536;
    char *lines = malloc(n);
    memset(lines, '\n', n);
    assert_int_equal(tokenizer_open_world_memory(lines, n, &t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "65536 lines, want at most 65535"));
    free(lines);
    assert_null(t);
}

static void test_small(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err e;
    if (tokenizer_open(SMALL, &t, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(tokenizer_vocab(t), 65536);
    assert_int_equal(tokenizer_used(t), 332);
    assert_int_equal(tokenizer_longest(t), 12);
    assert_int_equal(tokenizer_separator(t), 0);
    assert_true(tokenizer_is_end(t, 0));
    assert_false(tokenizer_is_end(t, 11));
    check_token(t, 0, "", 0);
    check_token(t, 1, "\0", 1);
    check_token(t, 256, "\xFF", 1);
    check_token(t, 282, "\xC2\x80", 2);
    check_token(t, 264, "\"'", 2);
    check_token(t, 332, "", 0);
    check_token(t, UINT32_MAX, "", 0);

    /* "abcd" is the longest of ab, abc, abcd; "abcdef" falls back from abcdefgh to abcde. */
    static const char text[] = "abcdefabcdefgh the thee\xE6\x97\xA5\xE6\x9C\xACx";
    static const uint32_t want[] = {322, 103, 328, 314, 314, 102, 325, 121};
    uint32_t ids[sizeof text];
    size_t n = tokenizer_encode(t, text, strlen(text), ids);
    assert_int_equal(n, sizeof want / sizeof want[0]);
    assert_memory_equal(ids, want, sizeof want);
    assert_int_equal(tokenizer_encode(t, NULL, 0, ids), 0);
    tokenizer_free(t);
}

static void test_decode(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err e;
    struct buf b;
    assert_int_equal(tokenizer_open(SMALL, &t, &e), 0);
    buf_init(&b, 100);
    const uint32_t ids[] = {330, 0, 65535, 331}, bad[] = {98, 65536, 70000};
    assert_int_equal(tokenizer_decode(t, ids, 4, &b, &e), 0);
    assert_string_equal(b.data, "dreamstate\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82");
    assert_int_equal(tokenizer_decode(t, bad, 3, &b, &e), ERR_INVALID);
    assert_string_equal(e.msg, "token 1 is id 65536, want less than 65536");
    buf_fini(&b);
    buf_init(&b, 15);
    assert_int_equal(tokenizer_decode(t, ids, 4, &b, &e), ERR_TOO_LARGE);
    buf_fini(&b);
    tokenizer_free(t);
}

static void test_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = tokenizer_new_bytes();
    assert_non_null(t);
    assert_int_equal(tokenizer_vocab(t), 256);
    assert_int_equal(tokenizer_used(t), 256);
    assert_int_equal(tokenizer_longest(t), 1);
    assert_int_equal(tokenizer_separator(t), '\n');
    uint32_t ids[256];
    unsigned char all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (unsigned char)(255 - i);
    assert_int_equal(tokenizer_encode(t, all, 256, ids), 256);
    for (uint32_t i = 0; i < 256; i++) {
        char c = (char)i;
        assert_int_equal(ids[i], 255 - i);
        check_token(t, i, &c, 1);
        assert_false(tokenizer_is_end(t, i));
    }
    struct buf b;
    struct err e;
    buf_init(&b, 256);
    assert_int_equal(tokenizer_decode(t, ids, 256, &b, &e), 0);
    assert_memory_equal(b.data, all, 256);
    ids[3] = 256;
    buf_reset(&b);
    assert_int_equal(tokenizer_decode(t, ids, 4, &b, &e), ERR_INVALID);
    buf_fini(&b);
    tokenizer_free(t);
    tokenizer_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_literals),  cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_small),
        cmocka_unit_test(test_decode),    cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
