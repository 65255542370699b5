/* The small parts of daemon/base: errors, lists, sizes, SHA-256, clocks. */
#include "daemon/base/clock.h"
#include "daemon/base/err.h"
#include "daemon/base/list.h"
#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"
#include "daemon/base/thread.h"
#include "tests/lib/check.h"

#include <sched.h>

/* Only the CPUs that the process may use count. */
static void test_processors(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(thread_processors(), CPU_COUNT(&all));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(thread_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void test_err(void **state)
{
    (void)state;
    struct err e;
    memset(&e, 'x', sizeof e);
    assert_int_equal(err_set(&e, ERR_IO, "read %s: %d", "a", 7), ERR_IO);
    assert_int_equal(e.code, ERR_IO);
    assert_string_equal(e.msg, "read a: 7");
    assert_string_equal(e.param, "");
    assert_int_equal(err_set_param(&e, ERR_INVALID, "top_p", "top_p is %g", 2.0), ERR_INVALID);
    assert_string_equal(e.param, "top_p");
    assert_int_equal(err_prefix(&e, "choice %d", 1), ERR_INVALID);
    assert_string_equal(e.msg, "choice 1: top_p is 2");
    assert_string_equal(e.param, "top_p");
    assert_int_equal(err_set(NULL, ERR_NOMEM, "nobody listens"), ERR_NOMEM);
}

static void test_err_cut(void **state)
{
    (void)state;
    struct err e;
    char text[400];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    err_set(&e, ERR_IO, "%s", text);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    err_prefix(&e, "in front");
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_memory_equal(e.msg, "in front: aaa", 13);
    err_prefix(&e, "%s", text);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    err_set_param(&e, ERR_INVALID, text, "x");
    assert_int_equal(strlen(e.param), sizeof e.param - 1);
}

static void test_err_table(void **state)
{
    (void)state;
    static const struct {
        int code, http;
        const char *name, *type;
    } rows[] = {
#define XX(code, http, name, type) {ERR_##code, http, name, type},
        ERR_MAP(XX)
#undef XX
    };
    const size_t n = sizeof rows / sizeof rows[0];
    for (size_t i = 0; i < n; i++) {
        assert_true(rows[i].code < 0);
        assert_int_equal(err_http(rows[i].code), rows[i].http);
        assert_string_equal(err_code_name(rows[i].code), rows[i].name);
        assert_string_equal(err_type_name(rows[i].code), rows[i].type);
        assert_in_range(rows[i].http, 400, 599);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(rows[i].name, rows[k].name);
    }
    assert_int_equal(err_http(0), 200);
    const int unknown[] = {1, 1000, -1000, INT32_MIN, -(int)n - 1};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        assert_string_equal(err_code_name(unknown[i]), err_code_name(ERR_INTERNAL));
}

struct job {
    int id;
    struct list link;
};

static void test_list(void **state)
{
    (void)state;
    struct list head;
    struct job job[5];
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_pop(&head));
    for (int i = 0; i < 5; i++) {
        job[i].id = i;
        list_init(&job[i].link);
        list_remove(&job[i].link); /* in no list: nothing happens */
        list_push(&head, &job[i].link);
    }
    list_remove(&job[2].link);
    list_remove(&job[2].link);
    int seen = 0, sum = 0;
    LIST_FOR_EACH(n, &head)
    {
        struct job *j = LIST_OWNER(n, struct job, link);
        seen++;
        sum = 10 * sum + j->id;
        if (j->id % 2)
            list_remove(n); /* the body may */
    }
    assert_int_equal(seen, 4);
    assert_int_equal(sum, 134); /* 0 1 3 4 */
    assert_ptr_equal(LIST_OWNER(list_pop(&head), struct job, link), &job[0]);
    assert_ptr_equal(LIST_OWNER(list_pop(&head), struct job, link), &job[4]);
    assert_true(list_empty(&head));
}

static void test_mem(void **state)
{
    (void)state;
    size_t n = 1;
    assert_true(mem_mul(1u << 20, 1u << 20, &n) && n == (size_t)1 << 40);
    assert_false(mem_mul(SIZE_MAX / 2 + 1, 2, &n));
    assert_true(mem_mul(SIZE_MAX, 0, &n) && n == 0);
    assert_true(mem_add(SIZE_MAX - 1, 1, &n) && n == SIZE_MAX);
    assert_false(mem_add(SIZE_MAX, 1, &n));
    assert_null(mem_calloc_aligned(SIZE_MAX / 2, 3));
    assert_null(mem_calloc_aligned(SIZE_MAX, 1));
    for (size_t k = 0; k < 200; k += 33) {
        unsigned char *p = mem_calloc_aligned(k, 3);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < 3 * k; i++)
            assert_int_equal(p[i], 0);
        free(p);
    }
}

/* The examples of FIPS 180-4 (one block, two blocks, a million letters) and the empty message. */
static void test_sha256(void **state)
{
    (void)state;
    static const struct {
        const char *text, *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    uint8_t digest[32];
    char hex[65];
    for (size_t i = 0; i < 3; i++) {
        sha256_of(cases[i].text, strlen(cases[i].text), digest);
        sha256_hex(digest, hex);
        assert_string_equal(hex, cases[i].hex);
    }
    struct sha256 s;
    sha256_start(&s);
    for (int i = 0; i < 10000; i++)
        sha256_add(&s,
                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                   100);
    sha256_end(&s, digest);
    sha256_hex(digest, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t a = clock_ns(), b = clock_ns();
    assert_true(b >= a);
    assert_true(clock_wall_ms() > INT64_C(1600000000000)); /* September 2020 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),       cmocka_unit_test(test_err_cut),
        cmocka_unit_test(test_err_table), cmocka_unit_test(test_list),
        cmocka_unit_test(test_mem),       cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_clock),     cmocka_unit_test(test_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
