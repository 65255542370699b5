#include "tests/lib/check.h"

#include "daemon/compress_size.h"

#include <stdlib.h>

static void test_size(void **unused)
{
    (void)unused;
    const char *const cat[] = {"cat", NULL};
    struct err e = {0};
    size_t n = (size_t)3 << 20, size = 0; /* more than a pipe holds */
    char *bytes = calloc(n, 1);
    assert_non_null(bytes);
    assert_int_equal(compress_size(cat, bytes, n, &size, &e), 0);
    assert_int_equal(size, n);
    assert_int_equal(compress_size(cat, bytes, 0, &size, &e), 0);
    assert_int_equal(size, 0);
    free(bytes);
}

static void test_no_program(void **unused)
{
    (void)unused;
    const char *const none[] = {"no-such-program-here", NULL}, *const fails[] = {"false", NULL};
    struct err e = {0};
    size_t size = 7;
    assert_int_equal(compress_size(none, "x", 1, &size, &e), ERR_UNAVAILABLE);
    assert_int_equal(compress_size(fails, "x", 1, &size, &e), ERR_UNAVAILABLE);
    assert_int_equal(size, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_size),
                                       cmocka_unit_test(test_no_program)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
