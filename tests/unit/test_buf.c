/* The growing buffer: its limit, its failure, the NUL behind the bytes. */
#include "daemon/base/buf.h"
#include "daemon/base/err.h"
#include "tests/lib/check.h"

#include <stdlib.h>

static void test_append(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    assert_null(b.data);
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_string_equal(b.data, "");
    assert_int_equal(buf_puts(&b, "one"), 0);
    assert_int_equal(buf_append(&b, "\0two", 4), 0);
    assert_int_equal(buf_printf(&b, "%d%s", 3, "!"), 0);
    assert_int_equal(b.len, 9);
    assert_memory_equal(b.data, "one\0two3!", 10);
    for (int i = 0; i < 900; i++)
        assert_int_equal(buf_append(&b, "x", 1), 0);
    assert_int_equal(b.len, 909);
    assert_true(b.cap > b.len && b.data[909] == 0);
    assert_memory_equal(b.data, "one\0two3!xx", 11);
    buf_fini(&b);
    assert_null(b.data);
}

static void test_limit(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    assert_int_equal(buf_puts(&b, "12345"), 0); /* the limit itself fits */
    assert_int_equal(buf_append(&b, "6", 1), ERR_TOO_LARGE);
    assert_true(b.failed);
    assert_string_equal(b.data, "12345");
    assert_true(buf_puts(&b, "") < 0); /* a failure stays until the reset */
    assert_null(buf_take(&b, NULL));
    buf_reset(&b);
    assert_false(b.failed);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    assert_int_equal(buf_printf(&b, "%s", "123456"), ERR_TOO_LARGE);
    assert_int_equal(b.len, 0);
    buf_reset(&b);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), ERR_TOO_LARGE);
    buf_fini(&b);

    buf_init(&b, 0);
    assert_int_equal(buf_puts(&b, ""), 0);
    assert_int_equal(buf_puts(&b, "x"), ERR_TOO_LARGE);
    buf_fini(&b);
}

static void test_reserve_and_take(void **state)
{
    (void)state;
    struct buf b;
    size_t n = 99;
    buf_init(&b, 100);
    assert_int_equal(buf_reserve(&b, 10), 0);
    memcpy(b.data + b.len, "0123456789", 10);
    b.len += 10;
    assert_int_equal(buf_puts(&b, "a"), 0);
    char *p = buf_take(&b, &n);
    assert_string_equal(p, "0123456789a");
    assert_int_equal(n, 11);
    free(p);
    assert_null(b.data);
    p = buf_take(&b, &n); /* empty again, and usable */
    assert_string_equal(p, "");
    assert_int_equal(n, 0);
    free(p);
    assert_int_equal(buf_puts(&b, "more"), 0);
    assert_string_equal(b.data, "more");
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_reserve_and_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
