#include "api/req.h"

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_LIMIT ((size_t)64 << 20)
#define OUT_LIMIT   ((size_t)256 << 20)

struct req *req_new(struct api *a, struct service *svc, struct MHD_Connection *conn)
{
    struct req *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    if (pthread_mutex_init(&r->lock, NULL)) {
        free(r);
        return NULL;
    }
    atomic_init(&r->refs, 1);
    atomic_init(&r->gone, false);
    r->api = a;
    r->svc = svc;
    r->conn = conn;
    const union MHD_ConnectionInfo *i =
        conn ? MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD) : NULL;
    r->fd = i ? i->connect_fd : -1;
    r->received_ns = clock_ns();
    list_init(&r->link);
    list_init(&r->gone_link);
    buf_init(&r->batch, BATCH_LIMIT);
    buf_init(&r->reply.body, OUT_LIMIT);
    buf_init(&r->out, OUT_LIMIT);
    return r;
}

void req_ref(struct req *r)
{
    atomic_fetch_add(&r->refs, 1);
}

void req_unref(struct req *r)
{
    if (!r || atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    for (size_t i = 0; i < r->n_sources; i++)
        call_unref(r->sources[i].call);
    if (r->task && r->task->free)
        r->task->free(r->data);
    buf_fini(&r->body);
    buf_fini(&r->batch);
    buf_fini(&r->reply.body);
    buf_fini(&r->out);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- what was asked ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool req_unescape(const char *p, size_t n, char *out, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++, len++) {
        int c = (unsigned char)p[i];
        if (c == '%') {
            if (n - i < 3 || hex_digit(p[i + 1]) < 0 || hex_digit(p[i + 2]) < 0)
                return false;
            c = hex_digit(p[i + 1]) * 16 + hex_digit(p[i + 2]);
            i += 2;
        }
        if (!c || len + 1 >= size)
            return false;
        out[len] = (char)c;
    }
    out[len] = 0;
    return true;
}

int req_query(struct req *r, const char *name, char *out, size_t size, bool *found, struct err *e)
{
    const char *raw =
        r->conn ? MHD_lookup_connection_value(r->conn, MHD_GET_ARGUMENT_KIND, name) : NULL;
    *found = raw != NULL;
    out[0] = 0;
    if (raw && !req_unescape(raw, strlen(raw), out, size))
        return err_set_param(e, ERR_INVALID, name, "%s is badly escaped or too long", name);
    return 0;
}

int req_allow(struct req *r, enum scope scope, struct err *e)
{
    return auth_allow(&r->grant, scope, e);
}

const char *req_header(struct req *r, const char *name)
{
    return r->conn ? MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name) : NULL;
}

void req_keep_count(struct req *r)
{
    r->body_lives_on = true;
}

char *req_take_body(struct req *r, size_t *n)
{
    req_keep_count(r);
    return buf_take(&r->body, n);
}

void req_reply_header(struct req *r, const char *name, const char *fmt, ...)
{
    va_list ap;
    ASSERT(r->reply.n_headers < REPLY_HEADERS);
    struct reply_header *h = &r->reply.headers[r->reply.n_headers++];
    h->name = name;
    va_start(ap, fmt);
    vsnprintf(h->value, sizeof h->value, fmt, ap);
    va_end(ap);
}

void req_reply_json(struct req *r, int status)
{
    r->reply.status = status;
    r->reply.type = "application/json";
}

/* ---- waiting ---- */

static void on_suspend(void *arg)
{
    struct source *s = arg;
    pthread_mutex_lock(&s->r->lock);
    s->waiting = true;
    s->r->n_waiting++;
    pthread_mutex_unlock(&s->r->lock);
}

static void on_resume(void *arg)
{
    struct source *s = arg;
    struct req *r = s->r;
    pthread_mutex_lock(&r->lock);
    if (s->waiting) {
        s->waiting = false;
        r->n_waiting--;
    }
    if (r->suspended) {
        r->suspended = false;
        MHD_resume_connection(r->conn);
    }
    pthread_mutex_unlock(&r->lock);
}

bool req_add_source(struct req *r, struct call *c)
{
    if (r->n_sources == REQ_SOURCES)
        return false;
    struct source *s = &r->sources[r->n_sources++];
    *s = (struct source){.r = r, .call = c};
    stream_set_wake(&c->stream, &(struct stream_wake){on_suspend, on_resume, s});
    return true;
}

void req_await(struct req *r, const struct task *t, void *data)
{
    r->task = t;
    r->data = data;
}

int req_follow(struct req *r, struct call *c, const struct task *t, int rc)
{
    if (rc < 0) {
        call_unref(c);
        return rc;
    }
    req_add_source(r, c);
    req_await(r, t, NULL);
    return 0;
}

static bool source_waits(struct source *s)
{
    pthread_mutex_lock(&s->r->lock);
    bool waiting = s->waiting;
    pthread_mutex_unlock(&s->r->lock);
    return waiting;
}

static void take_records(struct req *r, size_t i)
{
    size_t at = 0, bytes;
    const void *rec;
    while ((rec = stream_next_record(&r->batch, &at, &bytes)))
        r->task->record(r, i, rec, bytes);
}

/* Takes what one source has; true if that was anything. */
static bool pump_source(struct req *r, size_t i)
{
    struct source *s = &r->sources[i];
    if (s->ended || source_waits(s))
        return false;
    buf_reset(&r->batch);
    enum stream_take got = stream_take(&s->call->stream, &r->batch);
    if (got == STREAM_WAIT)
        return false;
    if (r->batch.failed) {
        err_set(&r->err, ERR_NOMEM, "no memory for the answer");
        return true;
    }
    take_records(r, i);
    if (got == STREAM_DATA)
        return true;
    s->ended = true;
    r->n_ended++;
    if (s->call->err.code == ERR_CANCELLED)
        err_set(&r->err, ERR_UNAVAILABLE, "the daemon is shutting down"); /* its client is here */
    else if (s->call->err.code)
        r->err = s->call->err;
    else
        r->task->ended(r, i, &r->err);
    return true;
}

/* Suspends if every source that has not ended waits. */
static bool suspend_if_idle(struct req *r)
{
    pthread_mutex_lock(&r->lock);
    bool idle = r->n_waiting == r->n_sources - r->n_ended;
    if (idle) {
        r->suspended = true;
        MHD_suspend_connection(r->conn);
    }
    pthread_mutex_unlock(&r->lock);
    return idle;
}

enum pump req_pump(struct req *r)
{
    for (;;) {
        if (atomic_load(&r->gone))
            return PUMP_GONE;
        bool data = false;
        for (size_t i = 0; i < r->n_sources && !r->err.code; i++)
            data |= pump_source(r, i);
        if (r->err.code)
            return PUMP_END;
        if (r->n_ended == r->n_sources) {
            r->task->finish(r, &r->err);
            return PUMP_END;
        }
        if (data)
            return PUMP_DATA;
        if (suspend_if_idle(r))
            return PUMP_WAIT;
    }
}

void req_cancel(struct req *r)
{
    atomic_store(&r->gone, true);
    for (size_t i = 0; i < r->n_sources; i++) {
        call_cancel(r->sources[i].call);
        stream_poke(&r->sources[i].call->stream);
    }
}

bool req_client_gone(struct req *r, bool half_open)
{
    bool gone = false;
    pthread_mutex_lock(&r->lock);
    if (r->suspended && r->fd >= 0) {
        struct pollfd p = {.fd = r->fd, .events = half_open ? 0 : POLLRDHUP};
        gone = poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
    }
    pthread_mutex_unlock(&r->lock);
    return gone;
}
