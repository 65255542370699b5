/* The answers that the benches' client reads: of a length told before and chunked, as our own daemon and
 * others write them (RFC 9112), and those it refuses. */
#include "tests/lib/check.h"

#include "daemon/bench_client.h"

#include <sys/socket.h>
#include <unistd.h>

struct wire {
    struct bench_conn conn;
    struct bench_reply reply;
    int far;
};

static void wire_up(struct wire *w)
{
    int ends[2];
    *w = (struct wire){0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    w->conn.fd = ends[0];
    w->far = ends[1];
    buf_init(&w->conn.in, 1 << 20);
    buf_init(&w->reply.body, 1 << 20);
}

static void wire_down(struct wire *w)
{
    close(w->far);
    bench_disconnect(&w->conn);
    buf_fini(&w->reply.body);
}

static void put(struct wire *w, const char *text)
{
    assert_int_equal(send(w->far, text, strlen(text), 0), (ssize_t)strlen(text));
}

static void expect(struct wire *w, int status, const char *body)
{
    struct err e = {0};
    if (bench_read(&w->conn, &w->reply, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(w->reply.status, status);
    assert_int_equal(w->reply.body.len, strlen(body));
    assert_string_equal(w->reply.body.data ? w->reply.body.data : "", body);
    assert_true(w->reply.first_ns > 0 && w->reply.first_ns <= w->reply.done_ns);
}

/* Several on one connection, each from where the last one ended. */
static void test_answers(void **state)
{
    (void)state;
    struct wire w;
    wire_up(&w);
    put(&w, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nwhole"
            "HTTP/1.1 500 Internal Server Error\r\ncontent-length:0\r\n\r\n"
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nTransfer-Encoding: chunked\r\n\r\n"
            "4\r\ndata\r\nA;name=value\r\n, in parts\r\n0\r\n\r\n"
            "HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\nContent-Length: 3\r\n\r\n"
            "1\r\nx\r\n0\r\nTrailer: one\r\nTrailer: two\r\n\r\n"
            "HTTP/1.1 204 No Content\r\n\r\n"
            "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nlast");
    expect(&w, 200, "whole");
    expect(&w, 500, "");
    expect(&w, 200, "data, in parts");
    expect(&w, 200, "x");
    expect(&w, 204, "");
    expect(&w, 201, "last");
    assert_int_equal(w.conn.in.len, 0);
    wire_down(&w);
}

/* A byte more each time: no answer but the whole one. */
static void test_pieces(void **state)
{
    (void)state;
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
    };
    for (size_t k = 0; k < sizeof answers / sizeof *answers; k++)
        for (size_t cut = 0; cut <= strlen(answers[k]); cut++) {
            struct wire w;
            struct err e = {0};
            wire_up(&w);
            assert_int_equal(send(w.far, answers[k], cut, 0), (ssize_t)cut);
            shutdown(w.far, SHUT_WR);
            int rc = bench_read(&w.conn, &w.reply, &e);
            assert_int_equal(rc, cut < strlen(answers[k]) ? ERR_IO : 0);
            wire_down(&w);
        }
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const answers[] = {
        "HTTP/2 200\r\n\r\n",
        "nonsense, but long enough\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffe\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhole\r\n0\r\n\r\n",
    };
    for (size_t k = 0; k < sizeof answers / sizeof *answers; k++) {
        struct wire w;
        struct err e = {0};
        wire_up(&w);
        put(&w, answers[k]);
        if (bench_read(&w.conn, &w.reply, &e) != ERR_FORMAT)
            fail_msg("answer %zu was taken: %s", k, e.msg);
        wire_down(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
