/* The life of a connection and of its requests.
 *
 * The first call of http_on_request sees the headers: it finds the route and what is wrong with
 * them. The body is then read (or dropped, if the request is refused already: a client that is
 * still writing could not read an answer), and the last call runs the handler. A request that waits
 * is suspended, and its http_on_request, or its stream's reader, is called again when a producer
 * resumes it (req.h). */
#include "api/http.h"

#include "api/gate.h"
#include "api/json.h"
#include "api/route.h"
#include "api/sse.h"
#include "daemon/base/clock.h"
#include "daemon/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define DRAIN_LIMIT  ((uint64_t)32 << 20) /* bytes over a body's limit that are read all the same */
#define BODIES_LIMIT ((size_t)256 << 20)  /* bytes of all bodies at once; beyond it 503 */
#define STREAM_BLOCK 16384

/* ---- answers ---- */

static void add_headers(struct req *r, struct MHD_Response *m)
{
    MHD_add_response_header(m, "X-Request-Id", r->id);
    MHD_add_response_header(m, "X-Content-Type-Options", "nosniff");
    if (r->reply.location[0])
        MHD_add_response_header(m, "Location", r->reply.location);
    if (r->reply.allow[0])
        MHD_add_response_header(m, "Allow", r->reply.allow);
    for (size_t i = 0; i < r->reply.n_headers; i++)
        MHD_add_response_header(m, r->reply.headers[i].name, r->reply.headers[i].value);
    if (r->reply.status == 401)
        MHD_add_response_header(m, "WWW-Authenticate", "Bearer realm=\"dreamstate\"");
    if (r->reply.status == 429 || r->reply.status == 503) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%u", r->reply.retry_s ? r->reply.retry_s : 1);
        MHD_add_response_header(m, "Retry-After", seconds);
    }
    if (r->close || atomic_load(&r->api->quiet))
        MHD_add_response_header(m, "Connection", "close");
    cors_add_headers(&r->api->origins, r->conn, r->preflight, m);
}

static enum MHD_Result queue_response(struct req *r, struct MHD_Response *m)
{
    if (!m)
        return MHD_NO;
    add_headers(r, m);
    enum MHD_Result ok = MHD_queue_response(r->conn, (unsigned)r->reply.status, m);
    MHD_destroy_response(m);
    return ok;
}

static void on_free(void *cls)
{
    req_unref(cls);
}

static struct MHD_Response *from_still(struct req *r)
{
    void *p = (void *)(uintptr_t)r->reply.still;
    if (!r->reply.still_held)
        return MHD_create_response_from_buffer(r->reply.still_bytes, p, MHD_RESPMEM_PERSISTENT);
    req_ref(r);
    struct MHD_Response *m =
        MHD_create_response_from_buffer_with_free_callback_cls(r->reply.still_bytes, p, on_free, r);
    if (!m)
        req_unref(r);
    return m;
}

static enum MHD_Result answer_error(struct req *r);

static enum MHD_Result answer(struct req *r)
{
    struct MHD_Response *m;
    size_t n = 0;
    if (r->reply.body.failed) {
        err_set(&r->err, ERR_NOMEM, "no memory for the answer");
        return answer_error(r);
    }
    r->sent_bytes = r->reply.still ? r->reply.still_bytes : r->reply.body.len;
    if (r->reply.still) {
        m = from_still(r);
    } else {
        char *body = buf_take(&r->reply.body, &n);
        if (!body)
            return MHD_NO;
        m = MHD_create_response_from_buffer(n, body, MHD_RESPMEM_MUST_FREE);
        if (!m)
            free(body);
    }
    if (m) {
        MHD_add_response_header(m, "Content-Type",
                                r->reply.type ? r->reply.type : "application/json");
        MHD_add_response_header(m, "Cache-Control", r->reply.cache ? r->reply.cache : "no-store");
    }
    return queue_response(r, m);
}

static enum MHD_Result answer_error(struct req *r)
{
    r->reply.status = err_http(r->err.code);
    r->reply.type = "application/json";
    r->reply.cache = NULL;
    r->reply.still = NULL;
    r->reply.location[0] = 0;
    r->reply.n_headers = 0;
    buf_reset(&r->reply.body);
    json_error_body(&r->reply.body, &r->err, r->id);
    return r->reply.body.failed ? MHD_NO : answer(r);
}

/* OPTIONS: what may be done here, for browsers that ask before they call. */
static enum MHD_Result answer_options(struct req *r)
{
    r->reply.status = 204;
    return queue_response(r, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT));
}

/* Moves the streams on until there are events to send, the end, or a wait (false). */
static bool fill_out(struct req *r, ssize_t *code)
{
    *code = 0;
    buf_reset(&r->out);
    r->out_at = 0;
    switch (req_pump(r)) {
    case PUMP_WAIT:
        return false;
    case PUMP_GONE:
        *code = MHD_CONTENT_READER_END_WITH_ERROR;
        return false;
    case PUMP_END:
        r->out_last = true;
        if (r->err.code)
            sse_error(&r->out, &r->err, r->id);
        break;
    case PUMP_DATA:
        break;
    }
    if (r->out.failed) {
        *code = MHD_CONTENT_READER_END_WITH_ERROR;
        return false;
    }
    return true;
}

static ssize_t on_read(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct req *r = cls;
    ssize_t code;
    (void)pos;
    while (r->out_at == r->out.len) {
        if (r->out_last)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!fill_out(r, &code))
            return code;
    }
    size_t n = r->out.len - r->out_at;
    if (n > max)
        n = max;
    memcpy(buf, r->out.data + r->out_at, n);
    r->out_at += n;
    r->sent_bytes += n;
    return (ssize_t)n;
}

static enum MHD_Result answer_stream(struct req *r)
{
    req_ref(r);
    struct MHD_Response *m =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_read, r, on_free);
    if (!m) {
        req_unref(r);
        return MHD_NO;
    }
    r->reply.status = 200;
    MHD_add_response_header(m, "Content-Type", "text/event-stream");
    MHD_add_response_header(m, "Cache-Control", "no-cache");
    MHD_add_response_header(m, "X-Accel-Buffering", "no");
    return queue_response(r, m);
}

/* ---- a request that is whole ---- */

static enum MHD_Result advance(struct req *r)
{
    for (;;) {
        switch (req_pump(r)) {
        case PUMP_WAIT:
            return MHD_YES;
        case PUMP_GONE:
            return MHD_NO;
        case PUMP_END:
            if (r->err.code)
                return answer_error(r);
            r->out_last = true;
            return r->task->streams ? answer_stream(r) : answer(r);
        case PUMP_DATA:
            if (r->task->streams)
                return answer_stream(r);
        }
    }
}

static void set_busy(struct req *r, bool busy)
{
    pthread_mutex_lock(&r->api->lock);
    if (busy != r->busy)
        r->api->n_busy += busy ? 1 : (size_t)-1;
    r->busy = busy;
    pthread_mutex_unlock(&r->api->lock);
}

int req_hold(struct req *r, size_t bytes, struct err *e)
{
    size_t held = atomic_fetch_add(&r->api->body_bytes, bytes) + bytes;
    r->body_counted += bytes;
    return held <= BODIES_LIMIT ? 0 : err_set(e, ERR_NOMEM, "too many large bodies at once");
}

/* The body is not needed any more. */
static void drop_body(struct req *r)
{
    atomic_fetch_sub(&r->api->body_bytes, r->body_counted);
    r->body_counted = 0;
    buf_fini(&r->body);
}

/* For debugging, where the operator asks for it: the beginning of what was sent. */
static void log_body(struct req *r)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", r->body.data);
    LOG(service_log(r->svc), LOG_INFO, "body", LOG_STR("id", r->id), LOG_STR("text", text));
}

static enum MHD_Result on_whole(struct req *r)
{
    if (r->handled)
        return advance(r);
    r->handled = true;
    set_busy(r, true);
    if (r->api->opt.log_bodies && r->body.len)
        log_body(r);
    if (!r->err.code && !r->preflight)
        r->route->handle(r, &r->err);
    if (r->body_lives_on)
        buf_fini(&r->body);
    else
        drop_body(r);
    if (r->err.code)
        return answer_error(r);
    if (r->preflight)
        return answer_options(r);
    return r->n_sources ? advance(r) : answer(r);
}

/* ---- headers and body ---- */

static void make_id(struct req *r)
{
    const char *given = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    if (n && n < sizeof r->id &&
        strspn(given, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == n) {
        memcpy(r->id, given, n + 1);
        return;
    }
    unsigned char rnd[12] = {0};
    ssize_t got = getrandom(rnd, sizeof rnd, GRND_NONBLOCK);
    (void)got;
    memcpy(r->id, "req-", 5);
    for (size_t i = 0; i < sizeof rnd; i++)
        snprintf(r->id + 4 + 2 * i, 3, "%02x", rnd[i]);
}

static bool is_media_type(const char *type, const char *want)
{
    size_t n = strlen(want);
    return strncasecmp(type, want, n) == 0 && (!type[n] || strchr("; \t", type[n]));
}

/* A body is JSON, and must say so where a page in a browser may have sent it: a page of any site can
 * send a form, or a body of no type, without asking (no preflight), and then names its origin. `curl
 * -d` declares a form too, and is believed. */
static bool takes_type(struct MHD_Connection *conn)
{
    const char *type = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Content-Type");
    if (type && is_media_type(type, "application/json"))
        return true;
    return (!type || is_media_type(type, "application/x-www-form-urlencoded")) &&
           !MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Origin") &&
           !MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Sec-Fetch-Site");
}

struct framing {
    size_t n_lengths, n_hosts;
    const char *encoding;
    bool chunked, expect,
        blank; /* blank: inside a header's name, where others may read it differently */
    uint64_t length;
};

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                 const char *value)
{
    struct framing *f = cls;
    (void)kind;
    f->blank |= key[strcspn(key, " \t")] != 0;
    if (!value)
        return MHD_YES;
    if (strcasecmp(key, "Content-Length") == 0) {
        f->n_lengths++;
        f->length = strtoull(value, NULL, 10);
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        f->encoding = value;
        f->chunked = strcasecmp(value, "chunked") == 0;
    } else if (strcasecmp(key, "Host") == 0) {
        f->n_hosts++;
    } else if (strcasecmp(key, "Expect") == 0) {
        f->expect = true;
    }
    return MHD_YES;
}

/* What is wrong with the way the body is sent; *now: do not read it. */
static int check_framing(struct req *r, const char *method, const char *version, bool *now)
{
    struct framing f = {0};
    struct err *e = &r->err;
    MHD_get_connection_values(r->conn, MHD_HEADER_KIND, on_header, &f);
    *now = f.expect || f.length > r->max_body + DRAIN_LIMIT;
    if (f.n_hosts != 1 && (f.n_hosts || strcmp(version, "HTTP/1.0") != 0))
        return err_set(e, ERR_INVALID, "the request has %zu Host headers: one is wanted",
                       f.n_hosts);
    if (f.blank) {
        *now = true;
        return err_set(e, ERR_INVALID, "a header's name has a space in it");
    }
    if (f.n_lengths > 1 || (f.n_lengths && f.encoding) || (f.encoding && !f.chunked)) {
        *now = true;
        return err_set(e, ERR_INVALID,
                       "the request's length is told in more than one way, or in a way "
                       "that is not known here");
    }
    if (e->code)
        return e->code;
    bool body = f.chunked || f.length;
    if (r->max_body && !f.chunked && !f.n_lengths)
        return err_set(e, ERR_LENGTH_REQUIRED, "a %s needs Content-Length or a chunked body",
                       method);
    if (f.length > r->max_body && r->max_body)
        return err_set(e, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->max_body);
    if (body && r->max_body && !(r->route->max_body & ROUTE_FILE) && !takes_type(r->conn))
        return err_set(e, ERR_MEDIA_TYPE, "the body must be application/json");
    return 0;
}

/* due_ns: 0, or when the next headers or, with body, the body must have come. */
static void watch(struct req *r, uint64_t due_ns, bool body)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = i ? i->socket_context : NULL;
    if (!c)
        return;
    pthread_mutex_lock(&r->api->lock);
    c->due_ns = due_ns;
    memcpy(c->id, body ? r->id : "", body ? sizeof c->id : 1);
    pthread_mutex_unlock(&r->api->lock);
}

/* The path of a target that is written as a whole URL, as to a proxy. */
static const char *origin_form(const char *url)
{
    if (strncasecmp(url, "http://", 7) != 0)
        return url;
    url += 7 + strcspn(url + 7, "/");
    return *url ? url : "/";
}

static size_t max_body(const struct route *route, size_t most)
{
    size_t n = route ? route->max_body & ~ROUTE_FILE : 0;
    bool file = route && route->max_body & ROUTE_FILE;
    return file ? (n > most ? n : most) : n < most ? n : most;
}

static enum MHD_Result on_headers(struct api *a, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, void **con_cls)
{
    bool now = false;
    struct req *r = req_new(a, a->svc, conn);
    if (!r)
        return MHD_NO;
    *con_cls = r;
    pthread_mutex_lock(&a->lock);
    list_push(&a->reqs, &r->link);
    pthread_mutex_unlock(&a->lock);
    make_id(r);
    snprintf(r->method, sizeof r->method, "%s", method);
    r->head = strcmp(method, "HEAD") == 0;
    watch(r, r->received_ns + a->opt.body_s * UINT64_C(1000000000), true);
    r->route = route_find(r, method, origin_form(url), &r->err);
    if (r->err.code == ERR_METHOD && !strcmp(method, "OPTIONS")) {
        r->preflight = true;
        r->err = (struct err){0};
    }
    gate_check(r);
    r->max_body = max_body(r->route, a->opt.max_body);
    buf_init(&r->body, r->max_body);
    if (check_framing(r, method, version, &now) < 0 && now) {
        r->handled = r->close = true;
        return answer_error(r);
    }
    return MHD_YES;
}

static void keep_body(struct req *r, const char *p, size_t n)
{
    size_t held = atomic_fetch_add(&r->api->body_bytes, n) + n;
    r->body_counted += n;
    if (r->body_seen > r->max_body)
        err_set(&r->err, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->max_body);
    else if (held > BODIES_LIMIT || buf_append(&r->body, p, n) < 0)
        err_set(&r->err, ERR_NOMEM, "no memory for the request's body");
    if (r->err.code)
        drop_body(r);
}

static enum MHD_Result on_body(struct req *r, const char *p, size_t *n)
{
    r->body_seen += *n;
    if (r->body_seen > r->max_body + DRAIN_LIMIT)
        return MHD_NO;
    if (!r->err.code && r->max_body)
        keep_body(r, p, *n);
    *n = 0;
    return MHD_YES;
}

enum MHD_Result http_on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_bytes, void **con_cls)
{
    struct req *r = *con_cls;
    if (!r)
        return on_headers(cls, conn, url, method, version, con_cls);
    if (*upload_bytes)
        return on_body(r, upload, upload_bytes);
    if (!r->handled)
        watch(r, 0, false);
    return on_whole(r);
}

void http_on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                       enum MHD_RequestTerminationCode toe)
{
    struct api *a = cls;
    struct req *r = *con_cls;
    (void)conn;
    if (!r)
        return;
    *con_cls = NULL;
    watch(r, clock_ns() + a->header_ns, false);
    pthread_mutex_lock(&r->lock);
    r->conn = NULL;
    pthread_mutex_unlock(&r->lock);
    /* Also lets go of streams that still wait: their wake-up must not come after this request. */
    req_cancel(r);
    if (r->handled)
        gate_close(r, toe == MHD_REQUEST_TERMINATED_COMPLETED_OK ? r->reply.status
                                                                 : err_http(ERR_CANCELLED));
    drop_body(r);
    set_busy(r, false);
    pthread_mutex_lock(&a->lock);
    list_remove(&r->link);
    pthread_cond_broadcast(&a->idle);
    pthread_mutex_unlock(&a->lock);
    req_unref(r);
}

void http_on_connection(void *cls, struct MHD_Connection *conn, void **context,
                        enum MHD_ConnectionNotificationCode what)
{
    struct api *a = cls;
    struct conn *c = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *i =
            MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!i || !(c = calloc(1, sizeof *c)))
            return;
        c->fd = i->connect_fd;
        c->due_ns = clock_ns() + a->header_ns;
        *context = c;
        pthread_mutex_lock(&a->lock);
        list_push(&a->conns, &c->link);
        pthread_mutex_unlock(&a->lock);
    } else if (c) {
        pthread_mutex_lock(&a->lock);
        list_remove(&c->link);
        pthread_mutex_unlock(&a->lock);
        *context = NULL;
        free(c);
    }
}
