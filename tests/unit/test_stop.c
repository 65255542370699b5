/* Stop strings: what is found, what is held back, what is released. */
#include "engine/sampling/sampling.h"
#include "tests/lib/check.h"

/* Feeds text byte by byte; returns the index found, with the released text in shown. */
static int feed(const char *const *stops, size_t n, const char *text, char *shown)
{
    size_t lens[8], from = 0, release;
    for (size_t i = 0; i < n; i++)
        lens[i] = strlen(stops[i]);
    struct stop_matcher *m = stop_new(stops, lens, n);
    assert_non_null(m);
    int found = -1;
    for (size_t i = 0; found < 0 && text[i]; i++) {
        found = stop_feed(m, text + i, 1, &release);
        assert_true(from + release <= i + 1);
        memcpy(shown + from, text + from, release);
        from += release;
    }
    shown[from] = 0;
    if (found >= 0) {
        assert_int_equal(stop_feed(m, "abc", 3, &release), found);
        assert_int_equal(release, 0);
    }
    stop_free(m);
    return found;
}

static void test_cases(void **state)
{
    (void)state;
    static const struct {
        const char *stops[4], *text, *shown;
        int found;
    } cases[] = {
        {{"\n\n"}, "one\ntwo\n\nthree", "one\ntwo", 0},
        {{"\n\n"}, "one\n", "one", -1}, /* held back at the end */
        {{"User:"}, "UseUser: x", "Use", 0},
        {{"aab"}, "aaab", "a", 0},
        {{"abab", "bb"}, "abaabb", "abaa", 1},
        {{"abcd", "bc"}, "xabcd", "xa", 1}, /* the earliest ending */
        {{"bc", "abc"}, "xabcd", "x", 1},   /* the longest of those that end together */
        {{"x", "x"}, "ax", "a", 0},         /* the first of equal ones */
        {{"abcdefg"}, "abcdefabcdefx", "abcdefabcdefx", -1},
        {{"aa", "ab"}, "caxab", "cax", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char shown[64];
        size_t n = 0;
        while (n < 4 && cases[i].stops[n])
            n++;
        assert_int_equal(feed(cases[i].stops, n, cases[i].text, shown), cases[i].found);
        assert_string_equal(shown, cases[i].shown);
    }
}

static void test_none(void **state)
{
    (void)state;
    struct stop_matcher *m = stop_new(NULL, NULL, 0);
    size_t release = 9;
    assert_non_null(m);
    assert_int_equal(stop_feed(m, "", 0, &release), -1);
    assert_int_equal(release, 0);
    assert_int_equal(stop_feed(m, "abc", 3, &release), -1);
    assert_int_equal(release, 3);
    stop_free(m);
    stop_free(NULL);
}

/* NUL is a byte like any other, and a match may span calls. */
static void test_binary(void **state)
{
    (void)state;
    const char *const stops[] = {"\0\xFF\0"};
    const size_t lens[] = {3};
    struct stop_matcher *m = stop_new(stops, lens, 1);
    size_t release;
    assert_int_equal(stop_feed(m, "a\0", 2, &release), -1);
    assert_int_equal(release, 1);
    assert_int_equal(stop_feed(m, "", 0, &release), -1);
    assert_int_equal(stop_feed(m, "\xFF\0tail", 6, &release), 0);
    assert_int_equal(release, 0);
    stop_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_binary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
