/* The client's side of TLS for daemon/client.c, through GnuTLS (which libmicrohttpd uses too).
 *
 * Who is trusted: with `pin`, a PEM file, exactly the certificate that stands first in it, whatever
 * its name and issuer (a daemon's own --tls-cert, asked from the same machine); without, a certificate
 * of that host that the system's authorities vouch for. Threads: any; it blocks as the socket does. */
#ifndef DAEMON_TLS_H
#define DAEMON_TLS_H

#include "daemon/base/err.h"

#include <stddef.h>
#include <sys/types.h>

struct tls;
/* Shakes hands over fd, which stays the caller's. ERR_IO (pin), ERR_UNAVAILABLE, ERR_NOMEM. */
int tls_open(int fd, const char *host, const char *pin, struct tls **out, struct err *e)
    __attribute__((warn_unused_result));
void tls_close(struct tls *t); /* NULL is fine */
/* As send and recv: bytes moved, 0 at the end, below 0: broken. */
ssize_t tls_send(struct tls *t, const void *p, size_t n);
ssize_t tls_recv(struct tls *t, void *p, size_t n);

#endif
