#include "daemon/client.h"

#include "daemon/tls.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_ANSWER ((size_t)1 << 20)

int target_parse(const char *url, bool tls, struct target *t, struct err *e)
{
    bool http = !strncmp(url, "http://", 7), https = !strncmp(url, "https://", 8);
    t->tls = https || (tls && !http);
    url += https ? 8 : http ? 7 : 0;
    bool v6 = *url == '[';
    const char *host = url + v6;
    size_t n = strcspn(host, v6 ? "]" : ":/");
    const char *rest = host + n + (v6 && host[n]);
    size_t digits = *rest == ':' ? strspn(rest + 1, "0123456789") : 0;
    const char *path = *rest == ':' ? rest + 1 + digits : rest;
    if (n == 0 || n >= sizeof t->host || digits >= sizeof t->port || (*rest == ':' && !digits) ||
        (*path && *path != '/') || strlen(path) >= sizeof t->path)
        return err_set(e, ERR_INVALID, "%s: want http[s]://HOST[:PORT][/PATH]", url);
    snprintf(t->host, sizeof t->host, "%.*s", (int)n, host);
    snprintf(t->port, sizeof t->port, "%.*s", digits ? (int)digits : 3,
             digits   ? rest + 1
             : t->tls ? "443"
                      : "80");
    snprintf(t->path, sizeof t->path, "%s", *path ? path : "/health/ready");
    if (!strcmp(t->host, "0.0.0.0"))
        snprintf(t->host, sizeof t->host, "127.0.0.1");
    else if (!strcmp(t->host, "::"))
        snprintf(t->host, sizeof t->host, "::1");
    return 0;
}

static int connect_to(const struct target *t, unsigned seconds, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct timeval limit = {.tv_sec = seconds};
    int fd = -1;
    int rc = getaddrinfo(t->host, t->port, &hints, &list);
    if (rc != 0)
        return err_set(e, ERR_UNAVAILABLE, "%s: %s", t->host, gai_strerror(rc));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd >= 0 ? fd : err_set(e, ERR_UNAVAILABLE, "%s:%s: nobody listens", t->host, t->port);
}

/* A connection; tls NULL: in clear text. */
struct link {
    int fd;
    struct tls *tls;
};

static int send_all(const struct link *l, const char *p, size_t n)
{
    while (n) {
        ssize_t sent = l->tls ? tls_send(l->tls, p, n) : send(l->fd, p, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        p += sent;
        n -= (size_t)sent;
    }
    return 0;
}

static int send_request(const struct link *l, const struct target *t,
                        const struct client_request *q)
{
    struct buf b;
    buf_init(&b, 16384);
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n", q->method, t->path,
               t->host, t->port);
    if (q->key && *q->key)
        buf_printf(&b, "Authorization: Bearer %s\r\n", q->key);
    if (q->body)
        buf_printf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                   strlen(q->body));
    buf_printf(&b, "\r\n%s", q->body ? q->body : "");
    int rc = b.failed ? -1 : send_all(l, b.data, b.len);
    buf_fini(&b);
    return rc;
}

/* The whole answer, which ends with the connection: its status, the body in out. */
static int read_answer(const struct link *l, struct buf *out)
{
    char piece[4096];
    ssize_t n;
    while ((n = l->tls ? tls_recv(l->tls, piece, sizeof piece)
                       : recv(l->fd, piece, sizeof piece, 0)) > 0)
        if (buf_append(out, piece, (size_t)n) < 0)
            return 0;
    const char *space = out->data ? strchr(out->data, ' ') : NULL;
    const char *body = out->data ? strstr(out->data, "\r\n\r\n") : NULL;
    if (n < 0 || !space || !body || strncmp(out->data, "HTTP/1.", 7) != 0)
        return 0;
    int status = (int)strtol(space + 1, NULL, 10);
    size_t left = out->len - (size_t)(body + 4 - out->data);
    memmove(out->data, body + 4, left + 1);
    out->len = left;
    return status;
}

int client_ask(const struct target *t, const struct client_request *q, struct buf *out,
               struct err *e)
{
    buf_init(out, MAX_ANSWER);
    struct link l = {.fd = connect_to(t, q->seconds ? q->seconds : CLIENT_SECONDS, e)};
    if (l.fd < 0)
        return l.fd;
    int status = 0;
    if (t->tls && tls_open(l.fd, t->host, q->pin, &l.tls, e) < 0)
        status = e->code;
    else if (send_request(&l, t, q) == 0)
        status = read_answer(&l, out);
    tls_close(l.tls);
    close(l.fd);
    return status
               ? status
               : err_set(e, ERR_UNAVAILABLE, "%s:%s: no answer, or none in HTTP", t->host, t->port);
}
