/* A request to a daemon, for the subcommands: HTTP/1.1 or HTTPS (tls.h), one connection, everything
 * within CLIENT_SECONDS. Threads: any; it blocks. */
#ifndef DAEMON_CLIENT_H
#define DAEMON_CLIENT_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stdbool.h>

#define CLIENT_SECONDS 5 /* without a byte */

struct target {
    char host[128], port[16], path[256];
    bool tls;
};

struct client_request {
    const char *method, *body; /* body: JSON, or NULL */
    const char *key;           /* NULL: none */
    const char *pin;           /* with TLS: see tls.h */
    unsigned seconds;          /* without a byte; 0 = CLIENT_SECONDS */
};

/* "http[s]://HOST[:PORT][/PATH]", without a scheme as `tls` says; an address that means "all" means
 * this host. */
int target_parse(const char *url, bool tls, struct target *t, struct err *e);
/* The status of the answer, and its body (*out is initialised in every case); ERR_UNAVAILABLE. */
int client_ask(const struct target *t, const struct client_request *q, struct buf *out,
               struct err *e);

#endif
