/* HTTP: the listening socket, its threads, the routes. The only layer that knows libmicrohttpd.
 *
 * Order of the end (SIGTERM): api_quiesce (no new connections; requests in flight go on), then the
 * service drains, then api_stop (waits for the last request, ends the threads). */
#ifndef API_H
#define API_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct api;
struct service;

struct api_options {
    const char *host;      /* an address to bind, "127.0.0.1" */
    int port;              /* 0: any free one */
    int threads;           /* HTTP threads; 0 = 2 */
    size_t max_body;       /* bytes of a request body; 0 = 16 MiB */
    unsigned timeout_s;    /* idle connections; 0 = 60 */
    unsigned connections;  /* at most; 0 = 1000 */
    unsigned grace_ms;     /* api_stop gives answers in flight this long to be read; 0 = 5000 */
    const char *keys_file; /* API keys (auth.h); NULL: none */
    const char *admin_key; /* one more, that may do everything; NULL: none */
    bool open_metrics;     /* GET /metrics wants no key */
    const char *origins;   /* that browsers may call from (cors.h); NULL: only our own */
    const char *hosts;     /* names that requests may call this host; NULL: any */
    uint64_t rate_requests, rate_tokens; /* a minute and caller (limits.h); 0: any number */
    unsigned body_s;                     /* a body may take this long to come; 0 = 240 */
    size_t max_headers;                  /* bytes of request line and headers; 0 = 64 KiB */
    unsigned connections_per_address;    /* 0: any number */
    bool log_bodies;                     /* what clients send goes to the log: for debugging */
    const char *tls_cert, *tls_key;      /* files in PEM; both or none */
    bool keep_half_open; /* a waiting client that has shut down its sending side is not gone */
};

int api_start(struct service *s, const struct api_options *o, struct api **out, struct err *e)
    __attribute__((warn_unused_result));
/* Reads the keys again and logs what came of it. [thread: loop] */
void api_reload(struct api *a);
int api_port(const struct api *a);
void api_quiesce(struct api *a);
void api_stop(struct api *a);

#endif
