#include "api/gate.h"

#include "api/http.h"
#include "api/route.h"
#include "daemon/base/clock.h"
#include "daemon/log.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static const char *header(struct req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

/* The key that a request brings, NULL for none. */
static const char *given_key(struct req *r)
{
    const char *h = header(r, "Authorization");
    if (h && !strncasecmp(h, "Bearer ", 7))
        return h + 7 + strspn(h + 7, " ");
    return header(r, "X-Api-Key");
}

/* The address of the other side; of IPv6 the 64 bits that one customer has, for `name`. */
static void find_address(struct req *r)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = i ? i->client_addr : NULL;
    if (a && a->sa_family == AF_INET6) {
        struct in6_addr v6 = ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
        inet_ntop(AF_INET6, &v6, r->address, sizeof r->address);
        if (!IN6_IS_ADDR_V4MAPPED(&v6))
            memset(&v6.s6_addr[8], 0, 8);
        inet_ntop(AF_INET6, &v6, r->caller, sizeof r->caller);
    } else if (a && a->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, r->address,
                  sizeof r->address);
        memcpy(r->caller, r->address, sizeof r->address);
    }
}

static struct quota quota_of(const struct req *r)
{
    const struct api_options *o = &r->api->opt;
    struct quota q = {o->rate_requests, o->rate_tokens};
    if (r->grant.scopes && r->grant.requests != AUTH_NO_LIMIT)
        q.requests = r->grant.requests;
    if (r->grant.scopes && r->grant.tokens != AUTH_NO_LIMIT)
        q.tokens = r->grant.tokens;
    return q;
}

static int check_rate(struct req *r, struct err *e)
{
    struct quota q = quota_of(r);
    const char *what = "";
    if (r->grant.scopes)
        snprintf(r->caller, sizeof r->caller, "key %s", r->grant.name);
    r->reply.retry_s = limits_take(r->api->limits, r->caller, &q, clock_ns(), &what);
    return r->reply.retry_s
               ? err_set(e, ERR_RATE_LIMIT, "the %s of this minute are used up: again in %u s",
                         what, r->reply.retry_s)
               : 0;
}

/* A path that is not served wants a key too: nothing is told without one. */
static int check_caller(struct req *r, struct err *e)
{
    struct api *a = r->api;
    enum scope scope = r->route ? r->route->scope : SCOPE_READ;
    const char *host = header(r, "Host"), *key = a->auth ? given_key(r) : NULL;
    if (!cors_host_allowed(&a->hosts, host))
        return err_set(e, ERR_PERMISSION, "this host is not called '%.80s' (--allowed-hosts)",
                       host ? host : "");
    if (a->opt.open_metrics && r->route && r->route->handle == handle_metrics)
        return 0;
    if (a->auth && auth_check(a->auth, key, key ? strlen(key) : 0, &r->grant, e) < 0)
        return e->code;
    if (check_rate(r, e) < 0)
        return e->code;
    return r->route ? auth_allow(&r->grant, scope, e) : 0;
}

int gate_check(struct req *r)
{
    struct err e = {0};
    find_address(r);
    if (r->preflight || (r->route && r->route->scope == SCOPE_OPEN))
        return 0;
    if (check_caller(r, &e) < 0)
        r->err = e;
    return e.code;
}

void gate_close(struct req *r, int status)
{
    const char *pattern = r->route ? r->route->pattern : "other";
    uint64_t now = clock_ns(), read = 0, made = 0;
    double seconds = (double)(now - r->received_ns) * 1e-9;
    struct quota q = quota_of(r);
    for (size_t i = 0; i < r->n_sources; i++) {
        read += atomic_load(&r->sources[i].call->tokens_read);
        made += atomic_load(&r->sources[i].call->tokens_made);
    }
    limits_charge(r->api->limits, r->caller, &q, read + made, now);
    service_count_http(r->svc, pattern, status, seconds);
    LOG(service_log(r->svc), LOG_INFO, "request", LOG_STR("id", r->id),
        LOG_STR("client", r->address), LOG_STR("key", r->grant.name), LOG_STR("method", r->method),
        LOG_STR("route", pattern), LOG_INT("status", status), LOG_NUM("ms", seconds * 1e3),
        LOG_INT("body_bytes", r->body_seen), LOG_INT("sent_bytes", r->sent_bytes),
        LOG_INT("tokens_read", read), LOG_INT("tokens_made", made),
        LOG_STR("error", r->err.code ? err_code_name(r->err.code) : NULL));
}
