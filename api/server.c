/* The listening socket, MHD's threads, the sweep for clients that left, the orderly end. */
#include "api/http.h"

#include "api/json.h"
#include "daemon/base/clock.h"
#include "daemon/log.h"
#include "daemon/text_file.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SWEEP_MS 25
#define LOOK_NS  UINT64_C(1000000000) /* between looks at connections that wait for a request */

/* ---- the sweep: clients that left while suspended, requests that do not come ---- */

/* Did the client close its side? MHD's edge-triggered reading does not see an end that came
 * together with the last bytes. */
static bool conn_ended(const struct conn *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* The body did not come in time. MHD answers nothing while a body is on its way, so this is written
 * past it; the connection ends behind it. [locked: a->lock] */
static void tell_late(struct api *a, struct conn *c)
{
    struct err e;
    struct buf body, all;
    buf_init(&body, 1024);
    buf_init(&all, 2048);
    err_set(&e, ERR_TIMEOUT, "the body did not come within %u s", a->opt.body_s);
    json_error_body(&body, &e, c->id);
    buf_printf(
        &all,
        "HTTP/1.1 408 Request Timeout\r\nX-Request-Id: %s\r\n"
        "Content-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
        c->id, body.len, body.data ? body.data : "");
    if (!all.failed && !body.failed &&
        send(c->fd, all.data, all.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        LOG(service_log(a->svc), LOG_DEBUG, "late", LOG_STR("id", c->id));
    buf_fini(&body);
    buf_fini(&all);
    c->id[0] = 0;
}

/* Closes connections whose request does not come in time, or, after one look's grace, will not
 * come. */
static void sweep_conns(struct api *a)
{
    uint64_t now = clock_ns();
    if (now - a->looked_ns < LOOK_NS)
        return;
    a->looked_ns = now;
    LIST_FOR_EACH(n, &a->conns)
    {
        struct conn *c = LIST_OWNER(n, struct conn, link);
        bool late = c->due_ns && now > c->due_ns;
        bool ended = c->due_ns && conn_ended(c);
        if (late && c->id[0] && !a->cert.len)
            tell_late(a, c);
        if (late || (ended && c->ended))
            shutdown(c->fd, SHUT_RDWR);
        c->ended = ended;
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
    service_end_waiting(a->svc);
}

/* ---- start and stop ---- */

__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list ap)
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
    if (!a->opt.body_s)
        a->opt.body_s = 240;
    if (!a->opt.max_headers)
        a->opt.max_headers = 65536;
    if (!a->opt.grace_ms)
        a->opt.grace_ms = 5000;
    if (!a->opt.connections)
        a->opt.connections = 1000;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY &&
        files.rlim_cur < a->opt.connections + 128)
        a->opt.connections = files.rlim_cur > 256 ? (unsigned)files.rlim_cur - 128 : 128;
    a->header_ns = (uint64_t)a->opt.timeout_s * 1000000000u;
}

/* The certificates and the key, which MHD reads from memory. */
static int read_tls(struct api *a, struct err *e)
{
    const char *cert = a->opt.tls_cert, *key = a->opt.tls_key;
    if (!cert && !key)
        return 0;
    if (!cert || !key)
        return err_set(e, ERR_INVALID, "--tls-cert and --tls-key: one needs the other");
    if (text_file_read(cert, &a->cert, e) < 0 || text_file_read(key, &a->key, e) < 0)
        return e->code;
    if (!a->cert.len || !a->key.len)
        return err_set(e, ERR_INVALID, "%s: empty", a->cert.len ? key : cert);
    return 0;
}

static int start_mhd(struct api *a, struct err *e)
{
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, a->cert.data},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, a->key.data},
                                   {MHD_OPTION_END, 0, NULL}};
    a->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
            (a->cert.len ? MHD_USE_TLS : 0),
        0, NULL, NULL, http_on_request, a, MHD_OPTION_EXTERNAL_LOGGER, on_log, a,
        MHD_OPTION_LISTEN_SOCKET, a->listen_fd, MHD_OPTION_THREAD_POOL_SIZE,
        (unsigned)a->opt.threads, MHD_OPTION_CONNECTION_LIMIT, a->opt.connections,
        MHD_OPTION_CONNECTION_TIMEOUT, a->opt.timeout_s, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        a->opt.connections_per_address, MHD_OPTION_CONNECTION_MEMORY_LIMIT, a->opt.max_headers,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)1 << 20, MHD_OPTION_STRICT_FOR_CLIENT, 0,
        MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, a, MHD_OPTION_NOTIFY_CONNECTION,
        http_on_connection, a, MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_ARRAY,
        a->cert.len ? tls : &tls[2], MHD_OPTION_END);
    if (a->mhd)
        return 0;
    return a->cert.len ? err_set(e, ERR_INVALID,
                                 "--tls-cert, --tls-key: not a certificate and its key in PEM")
                       : err_set(e, ERR_IO, "the HTTP threads did not start: %s", strerror(errno));
}

static int open_gates(struct api *a, struct err *e)
{
    const struct log *log = service_log(a->svc);
    if (auth_open(a->opt.keys_file, a->opt.admin_key, log, &a->auth, e) < 0 ||
        word_list_init(&a->origins, a->opt.origins, e) < 0 ||
        word_list_init(&a->hosts, a->opt.hosts, e) < 0 || cors_check_origins(&a->origins, e) < 0)
        return e->code;
    if (!(a->limits = limits_new()))
        return err_set(e, ERR_NOMEM, "no memory for the limits");
    if (a->auth)
        LOG(log, LOG_INFO, "api_keys", LOG_INT("keys", auth_count(a->auth)));
    if (a->opt.log_bodies)
        LOG(log, LOG_WARN, "bodies_logged",
            LOG_STR("why", "--log-bodies yes: what clients send stands in this log"));
    return 0;
}

void api_reload(struct api *a)
{
    struct err e = {0};
    if (!a->auth)
        return;
    if (auth_reload(a->auth, &e) < 0)
        LOG(service_log(a->svc), LOG_ERROR, "api_keys_kept", LOG_STR("why", e.msg));
    else
        LOG(service_log(a->svc), LOG_INFO, "api_keys", LOG_INT("keys", auth_count(a->auth)));
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
    rc = open_gates(a, e);
    if (rc == 0)
        rc = read_tls(a, e);
    if (rc == 0)
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
        while (a->n_busy && clock_ns() - start < a->opt.grace_ms * UINT64_C(1000000))
            wait_ms(a, 20);
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
    buf_fini(&a->cert);
    if (a->key.data)
        explicit_bzero(a->key.data, a->key.len);
    buf_fini(&a->key);
    auth_close(a->auth);
    limits_free(a->limits);
    word_list_fini(&a->origins);
    word_list_fini(&a->hosts);
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
