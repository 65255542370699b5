/* Strict reading of JSON, and the writer. */
#include "tests/lib/check.h"

#include "api/json.h"

#include <math.h>
#include <stdlib.h>

static json_t *parse(const char *text, size_t n, int want)
{
    struct err e = {0};
    json_t *o = decode_object(text, n, &e);
    assert_int_equal(o ? 0 : e.code, want);
    return o;
}

static void refuse(const char *text)
{
    parse(text, strlen(text), ERR_INVALID);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "3",
        "{",
        "{\"a\":1}x",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1e999}",
        "{\"a\":99999999999999999999}",
        "{\"a\":NaN}",
        "{'a':1}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\udc00\\ud800\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"\xc0\x80\"}",
        "{\"a\":\"\xed\xa0\x80\"}",
        "\xef\xbb\xbf{}",
        "{\"a\":01}",
        "{\"a\":1,}",
        "{\"\\u0000\":1}",
        "{\"a\":\"\n\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuse(bad[i]);
    parse("{\"a\":\"\0\"}", 9, ERR_INVALID);
}

static void test_depth(void **state)
{
    char deep[8 + 2 * DECODE_DEPTH + 8] = "{\"a\":";
    size_t at = 5;
    (void)state;
    for (int i = 1; i < DECODE_DEPTH; i++)
        deep[at++] = '[';
    for (int i = 1; i < DECODE_DEPTH; i++)
        deep[at++] = ']';
    deep[at++] = '}';
    json_decref(parse(deep, at, 0));
    char *far = malloc(2000001);
    assert_non_null(far);
    memset(far, '[', 2000000);
    parse(far, 2000000, ERR_INVALID);
    free(far);
    /* Brackets inside strings are text. */
    static const char text[] = "{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[\"}";
    json_decref(parse(text, sizeof text - 1, 0));
}

static void test_fields(void **state)
{
    static const char text[] =
        "{\"i\":7,\"f\":3.0,\"h\":2.5,\"s\":\"a\\u0000b\",\"n\":null,\"b\":true,"
        "\"big\":9223372036854775807,\"far\":1e300,\"ids\":[1,2.0],"
        "\"neg\":[-1],\"over\":[4294967297]}";
    struct err e = {0};
    int64_t i = 5;
    float f = 1;
    bool b = false;
    const char *s = NULL;
    uint32_t *ids = NULL;
    size_t n = 0;
    json_t *o = parse(text, sizeof text - 1, 0);
    (void)state;
    assert_int_equal(decode_int(o, "n", 0, 9, &i, &e), 0);
    assert_int_equal(i, 5);
    assert_int_equal(decode_int(o, "i", 0, 9, &i, &e), 0);
    assert_int_equal(i, 7);
    assert_int_equal(decode_int(o, "f", 0, 9, &i, &e), 0);
    assert_int_equal(i, 3);
    assert_int_equal(decode_int(o, "big", 0, INT64_MAX, &i, &e), 0);
    assert_true(i == INT64_MAX);
    assert_int_equal(decode_int(o, "h", 0, 9, &i, &e), ERR_INVALID);
    assert_string_equal(e.param, "h");
    assert_int_equal(decode_int(o, "i", 0, 6, &i, &e), ERR_INVALID);
    assert_int_equal(decode_int(o, "far", INT64_MIN, INT64_MAX, &i, &e), ERR_INVALID);
    assert_int_equal(decode_int(o, "b", 0, 6, &i, &e), ERR_INVALID);
    assert_int_equal(decode_number(o, "i", 0, 9, &f, &e), 0);
    assert_true(f == 7);
    assert_int_equal(decode_number(o, "far", 0, 9, &f, &e), ERR_INVALID);
    assert_int_equal(decode_bool(o, "b", &b, &e), 0);
    assert_true(b);
    assert_int_equal(decode_bool(o, "i", &b, &e), ERR_INVALID);
    assert_int_equal(decode_text(o, "s", &s, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(decode_word(o, "s", &s, &e), ERR_INVALID);
    assert_int_equal(decode_token_ids(json_object_get(o, "ids"), "ids", 3, &ids, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], 2);
    free(ids);
    ids = NULL;
    assert_int_equal(decode_token_ids(json_object_get(o, "ids"), "ids", 2, &ids, &n, &e),
                     ERR_INVALID);
    assert_int_equal(decode_token_ids(json_object_get(o, "neg"), "neg", 65536, &ids, &n, &e),
                     ERR_INVALID);
    assert_int_equal(decode_token_ids(json_object_get(o, "over"), "over", UINT32_MAX, &ids, &n, &e),
                     ERR_INVALID);
    assert_null(ids);
    json_decref(o);
}

static void test_writer(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 4096);
    struct jw w = {&b, false};
    jw_object(&w, NULL);
    jw_text(&w, "t", "\0\x1f\"\\\b\t\n\v\f\r\x7f/", 12);
    jw_text(&w, "u", "z\xc3\xa9\xf0\x9f\x98\x80", 7);
    jw_text(&w, "bad", "a\xff\xc3", 3);
    jw_string(&w, "null", NULL);
    jw_array(&w, "a");
    jw_int(&w, NULL, -1);
    jw_uint(&w, NULL, UINT64_MAX);
    jw_number(&w, NULL, 0.5);
    jw_number(&w, NULL, (double)INFINITY);
    jw_number(&w, NULL, (double)NAN);
    jw_object(&w, NULL);
    jw_end_object(&w);
    jw_bool(&w, NULL, true);
    jw_end_array(&w);
    jw_end_object(&w);
    assert_string_equal(
        b.data,
        "{\"t\":\"\\u0000\\u001f\\\"\\\\\\b\\t\\n\\u000b\\f\\r\\u007f/\","
        "\"u\":\"z\xc3\xa9\xf0\x9f\x98\x80\",\"bad\":\"a\xef\xbf\xbd\xef\xbf\xbd\",\"null\":null,"
        "\"a\":[-1,18446744073709551615,0.5,null,null,{},true]}");
    buf_fini(&b);
}

/* Every sequence of one to four bytes out of the ends of the ranges, against jansson's reader. */
static void test_utf8(void **state)
{
    static const unsigned char edge[] = {0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                         0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
                                         0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
    size_t n = sizeof edge, valid = 0;
    (void)state;
    for (size_t i = 0; i < n * n * n * n; i++) {
        unsigned char p[4] = {edge[i % n], edge[i / n % n], edge[i / n / n % n],
                              edge[i / n / n / n]};
        for (size_t len = i < n * n ? 1 : 4; len <= 4; len++) {
            json_t *s = json_stringn((const char *)p, len);
            assert_int_equal(s != NULL, utf8_valid((const char *)p, len));
            valid += s != NULL;
            json_decref(s);
        }
    }
    assert_true(valid > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_depth), cmocka_unit_test(test_fields),
        cmocka_unit_test(test_writer),  cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
