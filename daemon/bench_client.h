/* What `bench service` and `bench speed` talk with: a server as a child process, and a small HTTP/1.1 client
 * for it over blocking sockets on the loopback. It reads answers with a Content-Length and chunked ones.
 *
 * Threads: one at a time. Times are clock_ns(). */
#ifndef DAEMON_BENCH_CLIENT_H
#define DAEMON_BENCH_CLIENT_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stdint.h>
#include <sys/types.h>

struct bench_daemon {
    pid_t pid;
    int port;
};
/* Starts this very program as `serve ARGS...` (NULL-terminated, without --listen) and waits until it
 * listens; its log is dropped. ERR_IO. */
int bench_daemon_start(struct bench_daemon *d, const char *const *args, struct err *e);
/* The most memory that it has had, in bytes; 0: not to be seen. */
uint64_t bench_daemon_peak(const struct bench_daemon *d);
/* SIGTERM, and its exit. */
void bench_daemon_stop(struct bench_daemon *d);

/* A connection that is kept. */
struct bench_conn {
    int fd;
    struct buf in; /* bytes that came and were not used */
};
int bench_connect(struct bench_conn *c, int port, struct err *e);
void bench_disconnect(struct bench_conn *c);

struct bench_reply {
    int status;
    struct buf body;   /* of the last answer; the caller's to fini */
    uint64_t first_ns; /* the first bytes of the body were there */
    uint64_t done_ns;  /* all of it was */
};
/* Only sends. body NULL: none. */
int bench_send(struct bench_conn *c, const char *method, const char *path, const void *body,
               size_t bytes, struct err *e);
/* Reads one answer, of a length told before or chunked. r->body is emptied first. After ERR_IO,
 * ERR_FORMAT (no such answer) and ERR_NOMEM the connection is of no more use. */
int bench_read(struct bench_conn *c, struct bench_reply *r, struct err *e);
/* Both; ERR_UNAVAILABLE with the answer's beginning if the status is not 200 or 201. */
int bench_ask(struct bench_conn *c, const char *method, const char *path, const char *body,
              struct bench_reply *r, struct err *e);

#endif
