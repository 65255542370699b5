/* The HTTP layer over a service without an engine: streams of many calls, readers that are slow,
 * clients that leave, the end of the server. Requests are HTTP/1.0, whose answers end with the
 * connection. */
#include "tests/lib/check.h"
#include "tests/unit/fake_service.h"

#include "api/api.h"
#include "api/req.h"
#include "api/route.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct server {
    struct service svc;
    struct api *api;
    pthread_t sweeper;
    atomic_bool stop;
};

static void *sweep_often(void *arg)
{
    struct server *s = arg;
    while (!atomic_load(&s->stop)) {
        s->svc.sweep(s->svc.sweep_arg);
        fake_nap();
    }
    return NULL;
}

static struct server *server_start(void)
{
    struct server *s = calloc(1, sizeof *s);
    struct err e = {0};
    struct api_options o = {.threads = 3, .grace_ms = 50};
    assert_non_null(s);
    atomic_store(&s->svc.ready, true);
    if (api_start(&s->svc, &o, &s->api, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(pthread_create(&s->sweeper, NULL, sweep_often, s), 0);
    return s;
}

/* As the daemon does it: quiesce, the service drains, the timers end, stop. */
static void server_stop(struct server *s)
{
    api_quiesce(s->api);
    atomic_store(&s->svc.ready, false);
    atomic_store(&s->stop, true);
    pthread_join(s->sweeper, NULL);
    api_stop(s->api);
    while (fake_running(&s->svc))
        fake_nap();
    free(s);
}

static int dial(struct server *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)api_port(s->api))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void put(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static int post(struct server *s, const char *json)
{
    char head[256];
    int fd = dial(s);
    snprintf(head, sizeof head, "POST /v1/completions HTTP/1.0\r\nContent-Length: %zu\r\n\r\n",
             strlen(json));
    put(fd, head);
    put(fd, json);
    return fd;
}

/* Everything until the end of the connection; at most `step` bytes at a time. */
static char *read_all(int fd, size_t step)
{
    size_t cap = 1 << 22, n = 0;
    char *p = malloc(cap);
    assert_non_null(p);
    for (;;) {
        assert_true(n + step < cap);
        ssize_t got = recv(fd, p + n, step, 0);
        assert_true(got >= 0);
        if (!got)
            break;
        n += (size_t)got;
    }
    p[n] = 0;
    close(fd);
    return p;
}

static size_t occurrences(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

static void want_text(const char *answer, const char *what)
{
    if (!strstr(answer, what))
        fail_msg("no '%s' in: %.400s", what, answer);
}

static void test_many_sources(void **state)
{
    struct server *s = server_start();
    (void)state;
    char *a = read_all(post(s, "{\"prompt\":[\"x\",\"y\",\"z\"],\"n\":3,\"max_tokens\":300,"
                               "\"stream\":true,\"stream_options\":{\"include_usage\":true}}"),
                       1 << 16);
    want_text(a, "HTTP/1.1 200");
    want_text(a, "data: [DONE]\n\n");
    for (int i = 0; i < 9; i++) {
        char mark[32];
        snprintf(mark, sizeof mark, "\"index\":%d,", i);
        assert_int_equal(occurrences(a, mark), 301); /* 300 tokens and the last chunk */
    }
    assert_int_equal(occurrences(a, "\"finish_reason\":\"length\""), 9);
    want_text(a, "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2700,\"total_tokens\":2703");
    free(a);
    server_stop(s);
}

static void test_slow_reader(void **state)
{
    struct server *s = server_start();
    (void)state;
    /* More than the socket's and the stream's buffers hold. */
    char *a = read_all(post(s, "{\"prompt\":\"x\",\"max_tokens\":12000,\"stream\":true}"), 1024);
    assert_int_equal(occurrences(a, "\"finish_reason\":null"), 12000);
    want_text(a, "data: [DONE]\n\n");
    free(a);
    server_stop(s);
}

static void test_failures(void **state)
{
    static const struct {
        const char *body, *want, *never;
    } cases[] = {
        {"{\"prompt\":\"e\",\"stream\":true}", "404 Not Found", "data:"},
        {"{\"prompt\":\"e\"}", "\"code\":\"state_not_found\"", "choices"},
        {"{\"prompt\":\"m\",\"stream\":true}", "data: {\"error\":", "[DONE]"},
        {"{\"prompt\":\"m\"}", "500 Internal Server Error", "choices"},
        {"{\"prompt\":\"b\"}", "Retry-After: 1", "choices"},
        {"{\"prompt\":[\"w\",\"b\"]}", "429 Too Many Requests", "choices"},
        {"{\"prompt\":[\"w\",\"m\"]}", "500 Internal Server Error", "choices"},
        {"{\"prompt\":\"x\",\"n\":65}", "\"param\":\"n\"", "choices"},
    };
    struct server *s = server_start();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *a = read_all(post(s, cases[i].body), 1 << 16);
        want_text(a, cases[i].want);
        assert_null(strstr(a, cases[i].never));
        free(a);
    }
    /* What ran beside a choice that failed ends too. */
    while (fake_running(&s->svc))
        fake_nap();
    server_stop(s);
}

static void wait_running(struct server *s, int n)
{
    while (fake_running(&s->svc) != n)
        fake_nap();
}

static void test_clients_that_leave(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"w\"}", "{\"prompt\":\"w\",\"stream\":true}",
        "{\"prompt\":[\"w\",\"w\"],\"n\":2}",
        "{\"prompt\":[\"w\",\"x\"],\"max_tokens\":100000,\"stream\":true}"};
    struct server *s = server_start();
    int fds[4], n[] = {1, 2, 6, 8};
    (void)state;
    for (int i = 0; i < 4; i++) {
        fds[i] = post(s, bodies[i]);
        wait_running(s, n[i]);
    }
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    wait_running(s, 0);
    server_stop(s);
}

static void test_pipelined(void **state)
{
    struct server *s = server_start();
    int fd = dial(s);
    (void)state;
    put(fd, "GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: one\r\n\r\n"
            "GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: t w o\r\n\r\n"
            "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
            "GET /v1/models/%66ake HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    char *a = read_all(fd, 1 << 16);
    want_text(a, "X-Request-Id: one\r\n");
    want_text(a, "X-Request-Id: req-");
    want_text(a, "404 Not Found");
    want_text(a, "405 Method Not Allowed");
    want_text(a, "Allow: GET, HEAD\r\n");
    want_text(a, "\"id\":\"fake\"");
    assert_int_equal(occurrences(a, "HTTP/1.1 "), 4);
    free(a);
    server_stop(s);
}

static void test_stop_with_requests(void **state)
{
    struct server *s = server_start();
    (void)state;
    int waits = post(s, "{\"prompt\":\"w\"}");
    int stuck =
        post(s, "{\"prompt\":\"x\",\"max_tokens\":1000000,\"stream\":true}"); /* never read */
    int half = dial(s);
    put(half, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le");
    wait_running(s, 2);
    server_stop(s);
    close(waits);
    close(stuck);
    close(half);
}

static void test_routes(void **state)
{
    size_t n;
    const struct route *all = route_table(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        assert_non_null(all[i].handle);
        for (size_t k = 0; k < i; k++)
            assert_false(!strcmp(all[i].method, all[k].method) &&
                         !strcmp(all[i].pattern, all[k].pattern));
    }
}

static void test_unescape(void **state)
{
    char out[8];
    (void)state;
    assert_true(req_unescape("a%20b", 5, out, sizeof out));
    assert_string_equal(out, "a b");
    assert_true(req_unescape("", 0, out, sizeof out));
    assert_true(req_unescape("1234567", 7, out, sizeof out));
    assert_false(req_unescape("12345678", 8, out, sizeof out));
    assert_false(req_unescape("%00", 3, out, sizeof out));
    assert_false(req_unescape("%4", 2, out, sizeof out));
    assert_false(req_unescape("%4g", 3, out, sizeof out));
    assert_false(req_unescape("%", 1, out, sizeof out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_sources), cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_failures),     cmocka_unit_test(test_clients_that_leave),
        cmocka_unit_test(test_pipelined),    cmocka_unit_test(test_stop_with_requests),
        cmocka_unit_test(test_routes),       cmocka_unit_test(test_unescape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
