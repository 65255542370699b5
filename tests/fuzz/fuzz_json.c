/* Input: a byte that picks a POST route, then the request's body; or, with its highest bit set, a
 * path. A handler must refuse the body with an error, answer it with valid JSON, or submit calls
 * (which the service without an engine refuses). */
#include "tests/unit/fake_service.h"

#include "api/json.h"
#include "api/route.h"
#include "daemon/base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const struct buf *b)
{
    json_t *v =
        json_loadb(b->data ? b->data : "", b->len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(v);
    json_decref(v);
}

static void check_error(const struct err *e)
{
    struct buf body;
    buf_init(&body, 1 << 16);
    ASSERT(e->code < 0 && e->msg[0] && err_http(e->code) >= 400);
    json_error_body(&body, e, "req-0");
    check_json(&body);
    buf_fini(&body);
}

static void post(struct req *r, const struct route *route, const uint8_t *body, size_t n)
{
    buf_init(&r->body, route->max_body);
    if (buf_append(&r->body, body, n) < 0)
        return;
    route->handle(r, &r->err);
    if (r->err.code)
        check_error(&r->err);
    else if (!r->n_sources)
        check_json(&r->reply.body);
}

static void find(struct req *r, const uint8_t *p, size_t n)
{
    char path[512];
    n = n < sizeof path - 1 ? n : sizeof path - 1;
    memcpy(path, p, n);
    path[n] = 0;
    const struct route *route = route_find(r, "GET", path, &r->err);
    ASSERT(route || r->err.code);
    if (r->err.code)
        check_error(&r->err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct service svc = {0};
    size_t n, picked = 0;
    const struct route *all = route_table(&n), *posts[16];
    for (size_t i = 0; i < n && picked < 16; i++)
        if (!strcmp(all[i].method, "POST"))
            posts[picked++] = &all[i];
    struct req *r = size ? req_new(NULL, &svc, NULL) : NULL;
    if (!r)
        return 0;
    if (data[0] & 0x80)
        find(r, data + 1, size - 1);
    else
        post(r, posts[data[0] % picked], data + 1, size - 1);
    req_unref(r);
    return 0;
}
