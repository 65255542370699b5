/* UTF-8 in pieces, against the tables of the Unicode Standard (3-7: well-formed sequences; 3-8 to
 * 3-11: one U+FFFD for each maximal subpart). */
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#define R "\xEF\xBF\xBD"

static void check_repair(const char *in, size_t n, const char *want)
{
    struct buf b;
    buf_init(&b, 1024);
    assert_int_equal(utf8_append_valid(&b, in, n), 0);
    assert_int_equal(b.len, strlen(want));
    assert_memory_equal(b.data, want, b.len);
    bool same = b.len == n && memcmp(b.data, in, n) == 0;
    assert_int_equal(utf8_is_valid(in, n), same);
    buf_fini(&b);
}

static void test_repair(void **state)
{
    (void)state;
    static const struct {
        const char *in, *want;
    } cases[] = {
        {"plain", "plain"},
        {"\xC2\x80 \xE0\xA0\x80 \xF0\x90\x80\x80 \xF4\x8F\xBF\xBF",
         "\xC2\x80 \xE0\xA0\x80 \xF0\x90\x80\x80 \xF4\x8F\xBF\xBF"},
        {"\xED\x9F\xBF\xEE\x80\x80", "\xED\x9F\xBF\xEE\x80\x80"},
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
         "A",
         R R R R R R R R "A"}, /* overlong forms */
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
         "A",
         R R R R R R R R "A"}, /* surrogates */
        {"\xF4\x91\x92\x93\xFF"
         "A\x80\xBF"
         "B",
         R R R R R "A" R R "B"}, /* above U+10FFFF */
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
         "A",
         R R R R "A"}, /* truncated sequences */
        {"\xF5\x80", R R},
        {"x\xE6\x97", "x" R},
        {"\xF0\x9F\x99", R},
        {"\xF0\x9F\x99\x82", "\xF0\x9F\x99\x82"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_repair(cases[i].in, strlen(cases[i].in), cases[i].want);
    assert_true(utf8_is_valid("a\0b", 3));
    assert_true(utf8_is_valid("", 0));
}

static void test_whole_prefix(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        size_t want;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"\xC3", 0},
        {"a\xC3", 1},
        {"a\xC3\xA9", 3},
        {"\xE6\x97", 0},
        {"\xE6\x97\xA5", 3},
        {"\xF0\x9F\x99", 0},
        {"\xF0\x9F\x99\x82", 4},
        {"\xF0", 0},
        {"\x80\x80\x80", 3}, /* can never become a character */
        {"\xE0\x80", 2},     /* overlong: hopeless at the second byte */
        {"\xED\xA0", 2},     /* surrogate */
        {"\xF4\x90", 2},     /* above U+10FFFF */
        {"\xC0", 1},
        {"\xFF", 1},
        {"\xF0\x9F\xF0\x9F", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(utf8_whole_prefix(cases[i].in, strlen(cases[i].in)), cases[i].want);
}

static void test_limit(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4);
    assert_int_equal(utf8_append_valid(&b, "ab\xFF", 3), ERR_TOO_LARGE);
    assert_true(b.failed);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repair),
        cmocka_unit_test(test_whole_prefix),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
