#include "api/precondition.h"

#include "api/etag.h"
#include "api/route.h"
#include "daemon/base/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 255

void precondition_set_etag(struct req *r, const struct state_info *s)
{
    req_reply_header(r, "ETag", "\"%llu\"", (unsigned long long)s->revision);
}

bool precondition_not_modified(struct req *r, const struct state_info *s)
{
    char etag[32];
    snprintf(etag, sizeof etag, "\"%llu\"", (unsigned long long)s->revision);
    return etag_listed(req_header(r, "If-None-Match"), etag, true);
}

int precondition_if_match(struct req *r, uint64_t *revision, struct err *e)
{
    const char *v = req_header(r, "If-Match");
    size_t n = v ? strlen(v) : 0, digits;
    *revision = 0;
    if (!v || !strcmp(v, "*"))
        return 0;
    if (strchr(v, ','))
        return err_set_param(e, ERR_INVALID, "If-Match",
                             "If-Match names several entity tags: one "
                             "is wanted");
    digits = n > 2 ? strspn(v + 1, "0123456789") : 0;
    if (v[0] == '"' && digits && digits < 20 && digits == n - 2 && v[n - 1] == '"')
        *revision = strtoull(v + 1, NULL, 10);
    return *revision ? 0
                     : err_set_param(e, ERR_VERSION_CONFLICT, "If-Match",
                                     "If-Match: no state has the entity tag %.40s", v);
}

static enum MHD_Result add_argument(void *cls, enum MHD_ValueKind kind, const char *key,
                                   const char *value)
{
    (void)kind;
    sha256_add(cls, key, strlen(key) + 1);
    sha256_add(cls, value ? value : "", value ? strlen(value) + 1 : 1);
    return MHD_YES;
}

/* Over the method, the route and its parameter, the query, each with its NUL; and the body. */
static void request_sha256(struct req *r, char hex[65])
{
    uint8_t digest[32];
    struct sha256 h;
    const char *parts[] = {r->route->method, r->route->pattern, r->params[0]};
    sha256_start(&h);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        sha256_add(&h, parts[i], strlen(parts[i]) + 1);
    if (r->conn)
        MHD_get_connection_values(r->conn, MHD_GET_ARGUMENT_KIND, add_argument, &h);
    sha256_add(&h, r->body.data ? r->body.data : "", r->body.len);
    sha256_end(&h, digest);
    sha256_hex(digest, hex);
}

int precondition_key(struct req *r, struct state_write *w, struct err *e)
{
    const char *v = req_header(r, "Idempotency-Key");
    size_t n = v ? strlen(v) : 0;
    if (!v)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (v[i] < 0x20 || v[i] > 0x7e)
            n = 0;
    if (!n || n > KEY_MAX)
        return err_set_param(e, ERR_INVALID, "Idempotency-Key",
                             "Idempotency-Key is not 1 to %d printable ASCII characters", KEY_MAX);
    if (!(w->key = strdup(v)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    request_sha256(r, w->request_sha256);
    return 0;
}
