/* `healthcheck [URL]`: asks a running daemon whether it takes requests; exit code 0 or 1. For
 * container health checks: needs no other program and no key. Default: the address of
 * DREAMSTATE_LISTEN, else 127.0.0.1:8080, path /health/ready; by HTTPS where DREAMSTATE_TLS_CERT
 * names a certificate, which must be the daemon's. */
#include "daemon/client.h"
#include "daemon/cmd.h"

#include <stdio.h>
#include <stdlib.h>

int cmd_healthcheck(int argc, char **argv)
{
    const char *listen = getenv("DREAMSTATE_LISTEN");
    const char *cert = getenv("DREAMSTATE_TLS_CERT");
    const char *url = argc > 1 ? argv[1] : listen && *listen ? listen : "127.0.0.1:8080";
    if (cert && !*cert)
        cert = NULL;
    struct target t;
    struct buf answer;
    struct err e = {0};
    if (argc > 2 || target_parse(url, cert != NULL, &t, &e) < 0) {
        fprintf(stderr, "dreamstated healthcheck: %s\n", argc > 2 ? "want at most one URL" : e.msg);
        return 2;
    }
    int status =
        client_ask(&t, &(struct client_request){.method = "GET", .pin = cert}, &answer, &e);
    buf_fini(&answer);
    if (status == 200)
        return 0;
    if (status < 0)
        fprintf(stderr, "dreamstated healthcheck: %s\n", e.msg);
    else
        fprintf(stderr, "dreamstated healthcheck: %s answered %d\n", t.path, status);
    return 1;
}
