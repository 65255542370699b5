/* api/auth.h and api/cors.h: keys, scopes, files of keys; lists of origins and hosts. */
#include "api/auth.h"

#include "api/cors.h"
#include "daemon/base/sha256.h"
#include "tests/lib/check.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[] = "/tmp/dreamstate-keys-XXXXXX";

static void write_keys(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int check(struct auth *a, const char *key, struct grant *g)
{
    struct err e = {0};
    *g = (struct grant){0};
    return auth_check(a, key, key ? strlen(key) : 0, g, &e);
}

static const char keys[] =
    "# comment\n\n"
    "reader read  plain-key-0123456789\n"
    "app\tread,generate\tsha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 "
    "requests=60 tokens=0\n"
    "boss admin  b$!~/+=\n";

static void test_keys(void **state)
{
    (void)state;
    struct auth *a;
    struct grant g;
    struct err e = {0};
    write_keys(keys);
    assert_int_equal(auth_open(path, "top-secret", NULL, &a, &e), 0);
    assert_int_equal(auth_count(a), 4);
    assert_int_equal(check(a, "plain-key-0123456789", &g), 0);
    assert_string_equal(g.name, "reader");
    assert_true(g.requests == AUTH_NO_LIMIT && g.tokens == AUTH_NO_LIMIT);
    assert_int_equal(auth_allow(&g, SCOPE_READ, &e), 0);
    assert_int_equal(auth_allow(&g, SCOPE_OPEN, &e), 0);
    for (int s = SCOPE_GENERATE; s <= SCOPE_ADMIN; s++)
        assert_int_equal(auth_allow(&g, (enum scope)s, &e), ERR_PERMISSION);
    assert_non_null(strstr(e.msg, "'reader' has no scope 'admin'"));
    assert_int_equal(check(a, "test", &g), 0); /* whose SHA-256 stands in the file */
    assert_string_equal(g.name, "app");
    assert_true(g.requests == 60 && g.tokens == 0);
    assert_int_equal(auth_allow(&g, SCOPE_GENERATE, &e), 0);
    assert_int_equal(auth_allow(&g, SCOPE_WRITE, &e), ERR_PERMISSION);
    assert_int_equal(check(a, "b$!~/+=", &g), 0);
    assert_int_equal(check(a, "top-secret", &g), 0);
    assert_string_equal(g.name, "admin");
    for (int s = SCOPE_OPEN; s <= SCOPE_ADMIN; s++)
        assert_int_equal(auth_allow(&g, (enum scope)s, &e), 0);
    static const char *const wrong[] = {
        NULL,
        "",
        "plain-key-012345678",
        "plain-key-01234567890",
        "PLAIN-KEY-0123456789",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "reader"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(check(a, wrong[i], &g), ERR_UNAUTHENTICATED);
        assert_int_equal(g.scopes, 0);
    }
    auth_close(a);
}

static void test_off(void **state)
{
    (void)state;
    struct auth *a = (struct auth *)&a;
    struct grant none = {0};
    struct err e = {0};
    assert_int_equal(auth_open(NULL, "", NULL, &a, &e), 0);
    assert_null(a);
    assert_int_equal(auth_allow(&none, SCOPE_ADMIN, &e), 0);
    auth_close(NULL);
}

/* A change of the file counts after a reload; a bad file changes nothing. */
static void test_reload(void **state)
{
    (void)state;
    struct auth *a;
    struct grant g;
    struct err e = {0};
    write_keys("one read first-key-0123456789\n");
    assert_int_equal(auth_open(path, NULL, NULL, &a, &e), 0);
    write_keys("one read second-key-0123456789\ntwo write third-key-0123456789");
    assert_int_equal(check(a, "first-key-0123456789", &g), 0);
    assert_int_equal(auth_reload(a, &e), 0);
    assert_int_equal(check(a, "first-key-0123456789", &g), ERR_UNAUTHENTICATED);
    assert_int_equal(check(a, "third-key-0123456789", &g), 0);
    write_keys("one read\n");
    assert_int_equal(auth_reload(a, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "line 1"));
    unlink(path);
    assert_int_equal(auth_reload(a, &e), ERR_IO);
    assert_int_equal(check(a, "third-key-0123456789", &g), 0);
    auth_close(a);
}

static void test_wrong_files(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "# nothing\n",
        "name read\n",
        "name\n",
        "na/me read key\n",
        "0123456789012345678901234567890123456789012345678901234567890123x read key\n",
        "name reed key\n",
        "name , key\n",
        "name open key\n",
        "name read sha256:00\n",
        "name read sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a0g\n",
        "name read sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a0800\n",
        "name read k\xc3\xa9y\n",
        "name read key word\n",
        "name read key requests=\n",
        "name read key requests=-1\n",
        "name read key requests=1x\n",
        "name read key tokens=9999999999999\n",
        "a read key\na read other\n",
        ("a read test\n"
         "b read sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct auth *a;
        struct err e = {0};
        write_keys(bad[i]);
        if (auth_open(path, NULL, NULL, &a, &e) != ERR_INVALID || a || !strstr(e.msg, path))
            fail_msg("'%s' gave %d %s", bad[i], e.code, e.msg);
        assert_null(strstr(e.msg, "sha256:9"));
    }
    struct auth *a;
    struct err e = {0};
    assert_int_equal(auth_open(NULL, "a b", NULL, &a, &e), ERR_INVALID);
    assert_null(strstr(e.msg, "a b"));
}

/* Which key it is, and whether it is any, does not change how many are compared. */
static void test_all_are_compared(void **state)
{
    (void)state;
    enum { N = 50 };
    static struct auth_key k[N];
    size_t compared;
    for (int i = 0; i < N; i++)
        sha256_of(&i, sizeof i, k[i].digest);
    for (int i = 0; i <= N; i++) {
        uint8_t digest[32];
        sha256_of(&i, sizeof i, digest);
        const struct auth_key *found = auth_match(k, N, digest, &compared);
        assert_ptr_equal(found, i < N ? &k[i] : NULL);
        assert_int_equal(compared, N);
        digest[31] ^= 1;
        assert_null(auth_match(k, N, digest, &compared));
        assert_int_equal(compared, N);
    }
}

static void test_warnings(void **state)
{
    (void)state;
    int fd[2];
    char text[4096] = "";
    struct auth *a;
    struct err e = {0};
    assert_int_equal(pipe(fd), 0);
    struct log l = {fd[1], LOG_INFO};
    write_keys("a read good-key-0123456789\nshorty read 0123456789abcde\n");
    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(auth_open(path, NULL, &l, &a, &e), 0);
    assert_true(read(fd[0], text, sizeof text - 1) > 0);
    assert_non_null(strstr(text, "api_keys_exposed"));
    assert_non_null(strstr(text, "\"api_key_short\",\"key\":\"shorty\""));
    assert_null(strstr(text, "0123456789"));
    auth_close(a);
    write_keys("a read good-key-0123456789\n");
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(auth_open(path, NULL, &l, &a, &e), 0);
    close(fd[1]);
    assert_int_equal(read(fd[0], text, sizeof text), 0);
    close(fd[0]);
    auth_close(a);
}

static void test_lists(void **state)
{
    (void)state;
    struct word_list l;
    struct err e = {0};
    assert_int_equal(word_list_init(&l, " a, bc\tDE ,,", &e), 0);
    assert_int_equal(l.n, 3);
    assert_true(word_list_has(&l, "a", 1) && word_list_has(&l, "de", 2) &&
                word_list_has(&l, "bcx", 2));
    assert_false(word_list_has(&l, "b", 1) || word_list_has(&l, "", 0) ||
                 word_list_has(&l, "bc\0", 3));
    word_list_fini(&l);
    assert_int_equal(word_list_init(&l, NULL, &e), 0);
    assert_true(l.n == 0 && cors_host_allowed(&l, "any") && cors_host_allowed(&l, NULL));
    assert_int_equal(word_list_init(&l, "localhost [::1] 10.0.0.1", &e), 0);
    static const struct {
        const char *host;
        bool allowed;
    } hosts[] = {
        {"localhost", true},  {"LOCALHOST:8080", true}, {"[::1]:80", true},    {"[::1]", true},
        {"10.0.0.1:1", true}, {"evil.example", false},  {"localhost.", false}, {"[::1", false},
        {"", false},          {"::1", false},           {NULL, false}};
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
        if (cors_host_allowed(&l, hosts[i].host) != hosts[i].allowed)
            fail_msg("%s", hosts[i].host);
    word_list_fini(&l);
    static const char *const origins[] = {"*",
                                          "https://a.example",
                                          "http://[::1]:3000",
                                          "chrome-extension://abc",
                                          "a.example",
                                          "https://",
                                          "://x",
                                          "https://a/",
                                          "https://*.example",
                                          "null"};
    for (size_t i = 0; i < sizeof origins / sizeof origins[0]; i++) {
        assert_int_equal(word_list_init(&l, origins[i], &e), 0);
        if (cors_check_origins(&l, &e) != (i < 4 ? 0 : ERR_INVALID))
            fail_msg("%s", origins[i]);
        word_list_fini(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),     cmocka_unit_test(test_off),
        cmocka_unit_test(test_reload),   cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_warnings), cmocka_unit_test(test_all_are_compared),
        cmocka_unit_test(test_lists),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
