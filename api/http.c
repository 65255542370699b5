/* The listening socket, MHD's threads, and the life of a connection.
 *
 * The first call of on_request sees the headers: it finds the route and what is wrong with them.
 * The body is then read (or dropped, if the request is refused already: a client that is still
 * writing could not read an answer), and the last call runs the handler. A request that waits is
 * suspended and its on_request, or its stream's reader, is called again when a producer resumes it
 * (req.h). */
#include "api/api.h"

#include "api/json.h"
#include "api/route.h"
#include "api/sse.h"
#include "daemon/base/clock.h"
#include "daemon/log.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define DRAIN_LIMIT   ((uint64_t)64 << 20) /* bytes of a refused body that are read all the same */
#define BODY_SECONDS  240 /* that a body may take to come, beyond the time for headers */
#define SWEEP_MS      25
#define STOP_GRACE_NS (5 * UINT64_C(1000000000))
#define STREAM_BLOCK  16384

struct api {
    struct service *svc;
    struct MHD_Daemon *mhd;
    int listen_fd, port;
    struct api_options opt;
    uint64_t header_ns; /* a request's headers may take this long to come */
    atomic_bool quiet;  /* no new connections; answers close theirs */
    pthread_mutex_t lock;
    pthread_cond_t idle; /* with lock: a request has completed */
    struct list reqs;    /* guard: lock */
    struct list conns;   /* guard: lock */
    size_t n_busy;       /* guard: lock; requests whose handler has begun */
};

/* A TCP connection, watched while the headers or the body of a request are on their way. */
struct conn {
    struct list link;
    int fd;
    uint64_t since_ns; /* guard: api.lock; 0 while a request is worked on; may lie ahead */
};

/* ---- answers ---- */

static void add_headers(struct req *r, struct MHD_Response *m)
{
    MHD_add_response_header(m, "X-Request-Id", r->id);
    MHD_add_response_header(m, "X-Content-Type-Options", "nosniff");
    if (r->reply.location[0])
        MHD_add_response_header(m, "Location", r->reply.location);
    if (r->reply.allow[0])
        MHD_add_response_header(m, "Allow", r->reply.allow);
    if (r->reply.status == 429 || r->reply.status == 503)
        MHD_add_response_header(m, "Retry-After", "1");
    if (atomic_load(&r->api->quiet))
        MHD_add_response_header(m, "Connection", "close");
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

static enum MHD_Result answer(struct req *r)
{
    struct MHD_Response *m;
    size_t n = 0;
    if (r->reply.still) {
        m = MHD_create_response_from_buffer(r->reply.still_bytes, (void *)(uintptr_t)r->reply.still,
                                            MHD_RESPMEM_PERSISTENT);
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
        MHD_add_response_header(m, "Cache-Control", "no-store");
    }
    return queue_response(r, m);
}

static enum MHD_Result answer_error(struct req *r)
{
    r->reply.status = err_http(r->err.code);
    r->reply.type = "application/json";
    r->reply.still = NULL;
    r->reply.location[0] = 0;
    buf_reset(&r->reply.body);
    json_error_body(&r->reply.body, &r->err);
    return answer(r);
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
            sse_error(&r->out, &r->err);
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
    return (ssize_t)n;
}

static void on_stream_free(void *cls)
{
    req_unref(cls);
}

static enum MHD_Result answer_stream(struct req *r)
{
    req_ref(r);
    struct MHD_Response *m = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
                                                               on_read, r, on_stream_free);
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

static enum MHD_Result on_whole(struct req *r)
{
    if (r->handled)
        return advance(r);
    r->handled = true;
    set_busy(r, true);
    if (!r->err.code)
        r->route->handle(r, &r->err);
    buf_fini(&r->body);
    if (r->err.code)
        return answer_error(r);
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

static bool is_json(const char *type)
{
    static const char want[] = "application/json";
    size_t n = sizeof want - 1;
    return !type || (strncasecmp(type, want, n) == 0 && (!type[n] || strchr("; \t", type[n])));
}

struct framing {
    size_t n_lengths;
    const char *encoding;
    bool chunked, expect;
    uint64_t length;
};

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                 const char *value)
{
    struct framing *f = cls;
    (void)kind;
    if (!value)
        return MHD_YES;
    if (strcasecmp(key, "Content-Length") == 0) {
        f->n_lengths++;
        f->length = strtoull(value, NULL, 10);
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        f->encoding = value;
        f->chunked = strcasecmp(value, "chunked") == 0;
    } else if (strcasecmp(key, "Expect") == 0) {
        f->expect = true;
    }
    return MHD_YES;
}

/* What is wrong with the way the body is sent; *now: do not read it. */
static int check_framing(struct req *r, const char *method, bool *now)
{
    struct framing f = {0};
    struct err *e = &r->err;
    MHD_get_connection_values(r->conn, MHD_HEADER_KIND, on_header, &f);
    *now = f.expect || f.length > DRAIN_LIMIT;
    if (f.n_lengths > 1 || (f.n_lengths && f.encoding) || (f.encoding && !f.chunked)) {
        *now = true;
        return err_set(e, ERR_INVALID,
                       "the request's length is told in more than one way, or in a way "
                       "that is not known here");
    }
    if (e->code)
        return e->code;
    bool body = f.chunked || f.length;
    if (strcmp(method, "POST") == 0 && !f.chunked && !f.n_lengths)
        return err_set(e, ERR_LENGTH_REQUIRED, "a POST needs Content-Length or a chunked body");
    if (f.length > r->max_body && r->route->max_body)
        return err_set(e, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->max_body);
    if (body && r->route->max_body &&
        !is_json(MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "Content-Type")))
        return err_set(e, ERR_MEDIA_TYPE, "the body must be application/json");
    return 0;
}

static void watch_headers(struct req *r, uint64_t since_ns)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = i ? i->socket_context : NULL;
    if (!c)
        return;
    pthread_mutex_lock(&r->api->lock);
    c->since_ns = since_ns;
    pthread_mutex_unlock(&r->api->lock);
}

static enum MHD_Result on_headers(struct api *a, struct MHD_Connection *conn, const char *url,
                                  const char *method, void **con_cls)
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
    watch_headers(r, r->received_ns + BODY_SECONDS * UINT64_C(1000000000));
    r->route = route_find(r, method, url, &r->err);
    r->max_body = r->route ? r->route->max_body : 0;
    if (r->max_body > a->opt.max_body)
        r->max_body = a->opt.max_body;
    buf_init(&r->body, r->max_body);
    if (check_framing(r, method, &now) < 0 && now) {
        r->handled = true;
        return answer_error(r);
    }
    return MHD_YES;
}

static enum MHD_Result on_body(struct req *r, const char *p, size_t *n)
{
    r->body_seen += *n;
    if (r->body_seen > DRAIN_LIMIT)
        return MHD_NO;
    if (!r->err.code && r->max_body && buf_append(&r->body, p, *n) < 0) {
        if (r->body_seen > r->max_body)
            err_set(&r->err, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->max_body);
        else
            err_set(&r->err, ERR_NOMEM, "no memory for the request's body");
        buf_fini(&r->body);
    }
    *n = 0;
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **con_cls)
{
    struct req *r = *con_cls;
    (void)version;
    if (!r)
        return on_headers(cls, conn, url, method, con_cls);
    if (*upload_bytes)
        return on_body(r, upload, upload_bytes);
    if (!r->handled)
        watch_headers(r, 0);
    return on_whole(r);
}

static void count(struct req *r, bool sent)
{
    const char *pattern = r->route ? r->route->pattern : "other";
    int status = sent && r->reply.status ? r->reply.status : err_http(ERR_CANCELLED);
    double seconds = (double)(clock_ns() - r->received_ns) * 1e-9;
    service_count_http(r->svc, pattern, status, seconds);
    LOG(service_log(r->svc), LOG_DEBUG, "request", LOG_STR("id", r->id), LOG_STR("route", pattern),
        LOG_INT("status", status), LOG_NUM("seconds", seconds));
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode toe)
{
    struct api *a = cls;
    struct req *r = *con_cls;
    (void)conn;
    if (!r)
        return;
    *con_cls = NULL;
    watch_headers(r, clock_ns());
    pthread_mutex_lock(&r->lock);
    r->conn = NULL;
    pthread_mutex_unlock(&r->lock);
    /* Also lets go of streams that still wait: their wake-up must not come after this request. */
    req_cancel(r);
    if (r->handled)
        count(r, toe == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    set_busy(r, false);
    pthread_mutex_lock(&a->lock);
    list_remove(&r->link);
    pthread_cond_broadcast(&a->idle);
    pthread_mutex_unlock(&a->lock);
    req_unref(r);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
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
        c->since_ns = clock_ns();
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

/* ---- the sweep: clients that left while suspended, requests that do not come ---- */

static void sweep_conns(struct api *a)
{
    uint64_t now = clock_ns();
    LIST_FOR_EACH(n, &a->conns)
    {
        struct conn *c = LIST_OWNER(n, struct conn, link);
        if (c->since_ns && now > c->since_ns && now - c->since_ns > a->header_ns)
            shutdown(c->fd, SHUT_RDWR);
    }
}

/* Outside of the locks: a poke takes the stream's lock first, then the request's. */
static void cancel_listed(struct list *reqs)
{
    for (struct list *n; (n = list_pop(reqs));) {
        struct req *r = LIST_OWNER(n, struct req, gone_link);
        req_cancel(r);
        req_unref(r);
    }
}

static void sweep(void *arg)
{
    struct api *a = arg;
    struct list gone;
    list_init(&gone);
    pthread_mutex_lock(&a->lock);
    sweep_conns(a);
    LIST_FOR_EACH(n, &a->reqs)
    {
        struct req *r = LIST_OWNER(n, struct req, link);
        if (list_empty(&r->gone_link) && req_client_gone(r, a->opt.keep_half_open)) {
            req_ref(r);
            list_push(&gone, &r->gone_link);
        }
    }
    pthread_mutex_unlock(&a->lock);
    cancel_listed(&gone);
}

/* ---- start and stop ---- */

static void on_log(void *cls, const char *fmt, va_list ap)
{
    struct api *a = cls;
    char line[512];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = 0;
    LOG(service_log(a->svc), LOG_DEBUG, "http", LOG_STR("message", line));
}

/* Paths and queries reach us as they were sent: req_unescape is strict where MHD's is not. */
static size_t on_unescape(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls;
    (void)conn;
    return strlen(s);
}

static int listen_on(struct api *a, struct err *e)
{
    char port[16];
    struct addrinfo hint = {.ai_family = AF_UNSPEC,
                            .ai_socktype = SOCK_STREAM,
                            .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *ai = NULL;
    struct sockaddr_storage sa = {0};
    socklen_t sa_len = sizeof sa;
    int on = 1, fd = -1, rc;
    snprintf(port, sizeof port, "%d", a->opt.port);
    if (a->opt.port < 0 || a->opt.port > 65535 || getaddrinfo(a->opt.host, port, &hint, &ai) != 0)
        return err_set(e, ERR_INVALID, "listen on %s port %d: not a numeric address and port",
                       a->opt.host, a->opt.port);
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&sa, &sa_len) < 0) {
        rc = err_set(e, ERR_IO, "listen on %s port %d: %s", a->opt.host, a->opt.port,
                     strerror(errno));
        if (fd >= 0)
            close(fd);
    } else {
        const void *p = sa.ss_family == AF_INET6
                            ? (void *)&((struct sockaddr_in6 *)(void *)&sa)->sin6_port
                            : (void *)&((struct sockaddr_in *)(void *)&sa)->sin_port;
        uint16_t net;
        memcpy(&net, p, sizeof net);
        a->port = ntohs(net);
        a->listen_fd = fd;
        rc = 0;
    }
    freeaddrinfo(ai);
    return rc;
}

static void set_defaults(struct api *a, const struct api_options *o)
{
    struct rlimit files = {0};
    a->opt = *o;
    if (!a->opt.host)
        a->opt.host = "127.0.0.1";
    if (a->opt.threads <= 0)
        a->opt.threads = 2;
    if (!a->opt.max_body)
        a->opt.max_body = (size_t)16 << 20;
    if (!a->opt.timeout_s)
        a->opt.timeout_s = 60;
    if (!a->opt.connections)
        a->opt.connections = 1000;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY &&
        files.rlim_cur < a->opt.connections + 128)
        a->opt.connections = files.rlim_cur > 256 ? (unsigned)files.rlim_cur - 128 : 128;
    a->header_ns = (uint64_t)a->opt.timeout_s * 1000000000u;
}

static int start_mhd(struct api *a, struct err *e)
{
    a->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, a, MHD_OPTION_EXTERNAL_LOGGER, on_log, a, MHD_OPTION_LISTEN_SOCKET,
        a->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)a->opt.threads,
        MHD_OPTION_CONNECTION_LIMIT, a->opt.connections, MHD_OPTION_CONNECTION_TIMEOUT,
        a->opt.timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)65536,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)1 << 20, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, a, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        a, MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_END);
    return a->mhd ? 0 : err_set(e, ERR_IO, "the HTTP threads did not start: %s", strerror(errno));
}

int api_start(struct service *s, const struct api_options *o, struct api **out, struct err *e)
{
    struct api *a = calloc(1, sizeof *a);
    int rc;
    if (!a)
        return err_set(e, ERR_NOMEM, "no memory for the HTTP server");
    a->svc = s;
    a->listen_fd = -1;
    list_init(&a->reqs);
    list_init(&a->conns);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->idle, NULL);
    set_defaults(a, o);
    rc = listen_on(a, e);
    if (rc == 0)
        rc = start_mhd(a, e);
    if (rc == 0 && service_every(s, SWEEP_MS, sweep, a) < 0)
        rc = err_set(e, ERR_NOMEM, "no timer for the HTTP server");
    if (rc < 0) {
        api_stop(a);
        return rc;
    }
    *out = a;
    return 0;
}

int api_port(const struct api *a)
{
    return a->port;
}

void api_quiesce(struct api *a)
{
    if (!a->mhd || atomic_exchange(&a->quiet, true))
        return;
    MHD_quiesce_daemon(a->mhd);
    /* Refuses those that knock; the number itself must stay ours until MHD has stopped. */
    shutdown(a->listen_fd, SHUT_RDWR);
}

static void wait_ms(struct api *a, long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&a->idle, &a->lock, &t);
}

/* Ends every request that is being worked on: a suspended one wakes, one whose client does not read
 * loses its connection. [locked: a->lock, which is let go and taken again] */
static void end_requests(struct api *a)
{
    struct list ending;
    list_init(&ending);
    LIST_FOR_EACH(n, &a->reqs)
    {
        struct req *r = LIST_OWNER(n, struct req, link);
        atomic_store(&r->gone, true);
        pthread_mutex_lock(&r->lock);
        if (r->conn && r->busy)
            shutdown(r->fd, SHUT_RDWR);
        bool suspended = r->suspended;
        pthread_mutex_unlock(&r->lock);
        if (suspended && list_empty(&r->gone_link)) {
            req_ref(r);
            list_push(&ending, &r->gone_link);
        }
    }
    pthread_mutex_unlock(&a->lock);
    cancel_listed(&ending);
    pthread_mutex_lock(&a->lock);
}

void api_stop(struct api *a)
{
    if (!a)
        return;
    api_quiesce(a);
    if (a->mhd) {
        uint64_t start = clock_ns();
        pthread_mutex_lock(&a->lock);
        while (a->n_busy && clock_ns() - start < STOP_GRACE_NS)
            wait_ms(a, 100);
        /* MHD must not stop while a connection is suspended. */
        while (a->n_busy) {
            end_requests(a);
            wait_ms(a, 5);
        }
        pthread_mutex_unlock(&a->lock);
        MHD_stop_daemon(a->mhd);
    }
    if (a->listen_fd >= 0)
        close(a->listen_fd);
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
