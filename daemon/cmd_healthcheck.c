/* `healthcheck [URL]`: asks a running daemon whether it takes requests; exit code 0 or 1. For
 * container health checks: needs no other program. Default: the address of DREAMSTATE_LISTEN, else
 * 127.0.0.1:8080, path /health/ready. */
#include "daemon/base/err.h"
#include "daemon/cmd.h"

#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_SECONDS 5

struct target {
    char host[128], port[16], path[256];
};

/* "http://HOST[:PORT][/PATH]", or the same without http:// */
static int parse_url(const char *url, struct target *t, struct err *e)
{
    if (!strncmp(url, "http://", 7))
        url += 7;
    bool v6 = *url == '[';
    const char *host = url + v6;
    size_t n = strcspn(host, v6 ? "]" : ":/");
    const char *rest = host + n + (v6 && host[n]);
    size_t digits = *rest == ':' ? strspn(rest + 1, "0123456789") : 0;
    const char *path = *rest == ':' ? rest + 1 + digits : rest;
    if (n == 0 || n >= sizeof t->host || digits >= sizeof t->port || (*rest == ':' && !digits) ||
        (*path && *path != '/') || strlen(path) >= sizeof t->path)
        return err_set(e, ERR_INVALID, "%s: want http://HOST[:PORT][/PATH]", url);
    snprintf(t->host, sizeof t->host, "%.*s", (int)n, host);
    snprintf(t->port, sizeof t->port, "%.*s", digits ? (int)digits : 2, digits ? rest + 1 : "80");
    snprintf(t->path, sizeof t->path, "%s", *path ? path : "/health/ready");
    if (!strcmp(t->host, "0.0.0.0"))
        snprintf(t->host, sizeof t->host, "127.0.0.1");
    else if (!strcmp(t->host, "::"))
        snprintf(t->host, sizeof t->host, "::1");
    return 0;
}

static int connect_to(const struct target *t, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct timeval limit = {.tv_sec = TIMEOUT_SECONDS};
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

/* The status of a GET; 0 or an error if there was no answer. */
static int get_status(int fd, const struct target *t)
{
    char text[512], *space;
    size_t got = 0;
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                     t->path, t->host);
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return 0;
    while (got < 12) { /* "HTTP/1.1 200" */
        ssize_t more = recv(fd, text + got, sizeof text - 1 - got, 0);
        if (more <= 0)
            return 0;
        got += (size_t)more;
    }
    text[got] = 0;
    space = strchr(text, ' ');
    return !strncmp(text, "HTTP/1.", 7) && space ? (int)strtol(space + 1, NULL, 10) : 0;
}

int cmd_healthcheck(int argc, char **argv)
{
    const char *listen = getenv("DREAMSTATE_LISTEN");
    const char *url = argc > 1 ? argv[1] : listen && *listen ? listen : "127.0.0.1:8080";
    struct target t;
    struct err e = {0};
    if (argc > 2 || parse_url(url, &t, &e) < 0) {
        fprintf(stderr, "dreamstated healthcheck: %s\n", argc > 2 ? "want at most one URL" : e.msg);
        return 2;
    }
    int fd = connect_to(&t, &e), status = 0;
    if (fd >= 0) {
        status = get_status(fd, &t);
        close(fd);
    }
    if (status == 200)
        return 0;
    if (fd < 0)
        fprintf(stderr, "dreamstated healthcheck: %s\n", e.msg);
    else
        fprintf(stderr, "dreamstated healthcheck: %s answered %d\n", t.path, status);
    return 1;
}
