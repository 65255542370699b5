#include "daemon/tls.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>

struct tls {
    gnutls_session_t session;
    gnutls_certificate_credentials_t trust;
};

/* Is the peer's certificate the first one of the file? */
static int check_pin(const struct tls *t, const char *pin, struct err *e)
{
    unsigned n = 0, n_peer = 0;
    gnutls_datum_t pem = {0}, der = {0};
    gnutls_x509_crt_t *list = NULL;
    const gnutls_datum_t *peer = gnutls_certificate_get_peers(t->session, &n_peer);
    int rc = gnutls_load_file(pin, &pem);
    if (rc == 0)
        rc = gnutls_x509_crt_list_import2(&list, &n, &pem, GNUTLS_X509_FMT_PEM, 0);
    if (rc >= 0)
        rc = n ? gnutls_x509_crt_export2(list[0], GNUTLS_X509_FMT_DER, &der)
               : GNUTLS_E_NO_CERTIFICATE_FOUND;
    if (rc < 0)
        err_set(e, ERR_IO, "%s: %s", pin, gnutls_strerror(rc));
    else if (!n_peer || peer->size != der.size || memcmp(peer->data, der.data, der.size) != 0)
        rc = err_set(e, ERR_UNAVAILABLE, "the server's certificate is not that of %s", pin);
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(list[i]);
    gnutls_free(list);
    gnutls_free(der.data);
    gnutls_free(pem.data);
    return rc < 0 ? e->code : 0;
}

static int shake_hands(struct tls *t, int fd, const char *host, const char *pin, struct err *e)
{
    int rc = gnutls_certificate_allocate_credentials(&t->trust);
    if (rc == 0)
        rc = gnutls_init(&t->session, GNUTLS_CLIENT);
    if (rc < 0)
        return err_set(e, ERR_NOMEM, "TLS: %s", gnutls_strerror(rc));
    if (!pin) {
        gnutls_certificate_set_x509_system_trust(t->trust);
        gnutls_session_set_verify_cert(t->session, host, 0);
    }
    gnutls_server_name_set(t->session, GNUTLS_NAME_DNS, host, strlen(host));
    gnutls_transport_set_int(t->session, fd);
    if ((rc = gnutls_set_default_priority(t->session)) == 0 &&
        (rc = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->trust)) == 0)
        do
            rc = gnutls_handshake(t->session);
        while (rc == GNUTLS_E_INTERRUPTED);
    if (rc < 0)
        return err_set(e, ERR_UNAVAILABLE, "TLS: %s", gnutls_strerror(rc));
    return pin ? check_pin(t, pin, e) : 0;
}

int tls_open(int fd, const char *host, const char *pin, struct tls **out, struct err *e)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "no memory for TLS");
    if (shake_hands(t, fd, host, pin, e) < 0) {
        tls_close(t);
        return e->code;
    }
    *out = t;
    return 0;
}

void tls_close(struct tls *t)
{
    if (!t)
        return;
    if (t->session) {
        gnutls_bye(t->session, GNUTLS_SHUT_WR);
        gnutls_deinit(t->session);
    }
    if (t->trust)
        gnutls_certificate_free_credentials(t->trust);
    free(t);
}

ssize_t tls_send(struct tls *t, const void *p, size_t n)
{
    ssize_t rc;
    do
        rc = gnutls_record_send(t->session, p, n);
    while (rc == GNUTLS_E_INTERRUPTED);
    return rc;
}

ssize_t tls_recv(struct tls *t, void *p, size_t n)
{
    ssize_t rc;
    do
        rc = gnutls_record_recv(t->session, p, n);
    while (rc == GNUTLS_E_INTERRUPTED);
    return rc;
}
