#include "daemon/bench_client.h"

#include "daemon/base/clock.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ANSWER ((size_t)256 << 20)

/* ---- the daemon ---- */

/* "listening on http://HOST:PORT"; 0: something else, or nothing. */
static int read_port(int fd)
{
    char line[256] = "";
    FILE *f = fdopen(fd, "r");
    if (!f) {
        close(fd);
        return 0;
    }
    const char *port = fgets(line, sizeof line, f) ? strrchr(line, ':') : NULL;
    fclose(f);
    return port ? (int)strtol(port + 1, NULL, 10) : 0;
}

int bench_daemon_start(struct bench_daemon *d, const char *const *args, struct err *e)
{
    const char *argv[32] = {"dreamstated", "serve", "--listen", "127.0.0.1:0"};
    posix_spawn_file_actions_t files;
    int ends[2];
    for (size_t n = 4; *args && n < 31; args++)
        argv[n++] = *args;
    *d = (struct bench_daemon){0};
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_set(e, ERR_IO, "no pipe: %s", strerror(errno));
    int rc = posix_spawn_file_actions_init(&files);
    if (rc == 0) {
        posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
        rc =
            posix_spawn(&d->pid, "/proc/self/exe", &files, NULL, (char **)(uintptr_t)argv, environ);
        posix_spawn_file_actions_destroy(&files);
    }
    close(ends[1]);
    d->port = read_port(ends[0]);
    if (rc == 0 && d->port > 0)
        return 0;
    bench_daemon_stop(d);
    return err_set(e, ERR_IO, "the daemon did not start");
}

uint64_t bench_daemon_peak(const struct bench_daemon *d)
{
    char path[64], line[128];
    unsigned long kb = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)d->pid);
    FILE *f = fopen(path, "r");
    while (f && !kb && fgets(line, sizeof line, f))
        sscanf(line, "VmHWM: %lu kB", &kb);
    if (f)
        fclose(f);
    return (uint64_t)kb * 1024;
}

void bench_daemon_stop(struct bench_daemon *d)
{
    if (d->pid <= 0)
        return;
    kill(d->pid, SIGTERM);
    waitpid(d->pid, NULL, 0);
    d->pid = 0;
}

/* ---- connections ---- */

int bench_connect(struct bench_conn *c, int port, struct err *e)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    buf_init(&c->in, MAX_ANSWER);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) {
        err_set(e, ERR_IO, "no connection: %s", strerror(errno));
        bench_disconnect(c);
        return e->code;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return 0;
}

void bench_disconnect(struct bench_conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    buf_fini(&c->in);
}

static int write_all(int fd, const char *p, size_t n, struct err *e)
{
    while (n) {
        ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
        if (done < 0)
            return err_set(e, ERR_IO, "sending: %s", strerror(errno));
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

int bench_send(struct bench_conn *c, const char *method, const char *path, const void *body,
               size_t bytes, struct err *e)
{
    struct buf out;
    buf_init(&out, MAX_ANSWER);
    buf_printf(&out, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path);
    if (body)
        buf_printf(&out, "Content-Type: %s\r\nContent-Length: %zu\r\n",
                   *(const char *)body == '{' ? "application/json" : "application/octet-stream",
                   bytes);
    buf_puts(&out, "\r\n");
    if (body)
        buf_append(&out, body, bytes);
    int rc = out.failed ? err_set(e, ERR_NOMEM, "no memory for a request")
                        : write_all(c->fd, out.data, out.len, e);
    buf_fini(&out);
    return rc;
}

/* More bytes into c->in. */
static int fill(struct bench_conn *c, struct err *e)
{
    char part[65536];
    ssize_t n = recv(c->fd, part, sizeof part, 0);
    if (n <= 0)
        return err_set(e, ERR_IO, "the connection ended");
    return buf_append(&c->in, part, (size_t)n) < 0 ? err_set(e, ERR_NOMEM, "no memory") : 0;
}

/* The end of a line of c->in at or behind `at`. */
static int line_end(struct bench_conn *c, size_t at, size_t *end, struct err *e)
{
    for (;;) {
        char *p = c->in.len > at ? memmem(c->in.data + at, c->in.len - at, "\r\n", 2) : NULL;
        if (p) {
            *end = (size_t)(p - c->in.data);
            return 0;
        }
        if (fill(c, e) < 0)
            return e->code;
    }
}

static int want(struct bench_conn *c, size_t bytes, struct err *e)
{
    while (c->in.len < bytes)
        if (fill(c, e) < 0)
            return e->code;
    return 0;
}

/* A number of a given base behind spaces at c->in.data + at, not above MAX_ANSWER. */
static int number(struct bench_conn *c, size_t at, int base, size_t *out, struct err *e)
{
    const char *p = c->in.data + at;
    char *end;
    p += strspn(p, " \t");
    unsigned long n = strtoul(p, &end, base);
    if (end == p || !isxdigit((unsigned char)*p) || n > MAX_ANSWER)
        return err_set(e, ERR_FORMAT, "no length: %.20s", p);
    *out = n;
    return 0;
}

/* chunk: LENGTH[;EXTENSION] CRLF bytes CRLF, until one of length 0; then lines until an empty one. */
static int read_chunks(struct bench_conn *c, size_t *at, struct bench_reply *r, struct err *e)
{
    for (size_t n = 1, end; n > 0;) {
        if (line_end(c, *at, &end, e) < 0 || number(c, *at, 16, &n, e) < 0)
            return e->code;
        *at = end + 2;
        if (!r->first_ns)
            r->first_ns = clock_ns();
        if (n == 0)
            break;
        if (want(c, *at + n + 2, e) < 0)
            return e->code;
        buf_append(&r->body, c->in.data + *at, n);
        *at += n + 2;
    }
    for (size_t end, start = *at;; start = *at) {
        if (line_end(c, start, &end, e) < 0)
            return e->code;
        *at = end + 2;
        if (end == start)
            return 0;
    }
}

static int read_length(struct bench_conn *c, size_t *at, size_t length, struct bench_reply *r,
                       struct err *e)
{
    if (want(c, *at + length, e) < 0)
        return e->code;
    r->first_ns = clock_ns();
    if (length)
        buf_append(&r->body, c->in.data + *at, length);
    *at += length;
    return 0;
}

/* The status and, of the headers, how the body is written: its length, or -1 for chunks. c->in.data + *at
 * is where it begins. */
static int read_head(struct bench_conn *c, size_t *at, int *status, int64_t *length, struct err *e)
{
    size_t end, n;
    bool known = false;
    if (line_end(c, 0, &end, e) < 0)
        return e->code;
    if (end < 12 || strncmp(c->in.data, "HTTP/1.", 7) != 0)
        return err_set(e, ERR_FORMAT, "no answer of HTTP/1: %.20s", c->in.data);
    *status = (int)strtol(c->in.data + 9, NULL, 10);
    *length = 0;
    for (*at = end + 2;; *at = end + 2) {
        if (line_end(c, *at, &end, e) < 0)
            return e->code;
        const char *line = c->in.data + *at;
        if (end == *at)
            break;
        if (!strncasecmp(line, "Content-Length:", 15)) {
            if (number(c, *at + 15, 10, &n, e) < 0)
                return e->code;
            *length = *length < 0 ? -1 : (int64_t)n;
            known = true;
        } else if (!strncasecmp(line, "Transfer-Encoding:", 18)) {
            line += 18 + strspn(line + 18, " \t");
            if (strncasecmp(line, "chunked\r\n", 9) != 0)
                return err_set(e, ERR_FORMAT, "an encoding that is not chunked");
            *length = -1;
            known = true;
        }
    }
    *at = end + 2;
    return known || *status == 204 ? 0 : err_set(e, ERR_FORMAT, "an answer without a length");
}

int bench_read(struct bench_conn *c, struct bench_reply *r, struct err *e)
{
    size_t at = 0;
    int64_t length = 0;
    buf_reset(&r->body);
    r->first_ns = 0;
    if (read_head(c, &at, &r->status, &length, e) < 0)
        return e->code;
    int rc = length < 0 ? read_chunks(c, &at, r, e) : read_length(c, &at, (size_t)length, r, e);
    if (rc < 0)
        return rc;
    r->done_ns = clock_ns();
    memmove(c->in.data, c->in.data + at, c->in.len - at);
    c->in.len -= at;
    return r->body.failed ? err_set(e, ERR_NOMEM, "no memory for an answer") : 0;
}

int bench_ask(struct bench_conn *c, const char *method, const char *path, const char *body,
              struct bench_reply *r, struct err *e)
{
    if (bench_send(c, method, path, body, body ? strlen(body) : 0, e) < 0 ||
        bench_read(c, r, e) < 0)
        return e->code;
    if (r->status == 200 || r->status == 201)
        return 0;
    return err_set(e, ERR_UNAVAILABLE, "%s %s: %d %.100s", method, path, r->status,
                   r->body.len ? r->body.data : "");
}
