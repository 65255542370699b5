/* One HTTP request: what was asked, the calls that work on it, the answer.
 *
 * A route's handler reads method-independent parts (params, body, query), then either fills
 * r->reply (r->reply.status and the body) and is done, or hands over one or more calls with
 * req_await and lets the task's functions build the answer from their streams:
 *
 *     record(r, i, p, n)   one record of the i-th call's stream
 *     ended(r, i, e)       the i-th call's stream has ended without error; may fail
 *     finish(r)            all have ended: fill r->reply (or, streaming, append the last events)
 *
 * Waiting. Each call's stream tells, under its own lock, that it is empty (suspend) or no longer so
 * (resume). req_pump suspends the connection only when every stream that has not ended waits, and
 * the first that wakes resumes it. No wake-up is lost: the count of waiting streams and MHD's
 * suspend are one critical section of r->lock, and so are the count and MHD's resume.
 *
 * Threads: everything is the connection's HTTP thread's but the fields marked. Lock order: api's
 * list lock or a stream's lock -> req.lock -> MHD's own. References: the connection's (dropped in
 * on_completed), the streaming response's, and the sweep's while it wakes a request. */
#ifndef API_REQ_H
#define API_REQ_H

#include "api/auth.h"
#include "daemon/base/buf.h"
#include "daemon/base/list.h"
#include "daemon/service.h"

#include <microhttpd.h>

#define REQ_PARAMS  1
#define REQ_SOURCES 64 /* calls of one request */

#define REPLY_HEADERS 6

struct req;

struct reply {
    int status;
    unsigned retry_s;  /* Retry-After of a 429 or 503; 0 = 1 */
    const char *type;  /* Content-Type; NULL: application/json */
    const char *cache; /* Cache-Control; NULL: no-store */
    struct buf body;
    const char *still; /* a body that is not copied: static, or still_held; else NULL */
    size_t still_bytes;
    bool still_held;    /* it ends with the request, which lives until it is sent */
    char location[160]; /* "" = none */
    char allow[48];
    struct reply_header {
        const char *name; /* static */
        char value[192];
    } headers[REPLY_HEADERS]; /* [n_headers]: more of them, dropped if the request fails */
    size_t n_headers;
};

struct task {
    void (*record)(struct req *r, size_t source, const void *record, size_t bytes);
    int (*ended)(struct req *r, size_t source, struct err *e);
    int (*finish)(struct req *r, struct err *e);
    void (*free)(void *data);
    bool streams; /* the answer is a stream of events: record and finish append to r->out */
};

struct source {
    struct req *r;
    struct call *call; /* one reference */
    bool waiting;      /* guard: req.lock */
    bool ended;
};

struct req {
    atomic_int refs;
    struct api *api;
    struct service *svc;
    struct list link;      /* guard: api's list lock */
    struct list gone_link; /* the sweep's */

    pthread_mutex_t lock;
    struct MHD_Connection *conn; /* guard: lock; NULL once completed */
    int fd;                      /* valid while conn is */
    bool suspended;              /* guard: lock */
    size_t n_waiting;            /* guard: lock */
    atomic_bool gone;            /* the client has left, or the server ends: no more waiting */
    bool busy;                   /* guard: api's list lock; its handler has begun */

    const struct route *route;
    bool head; /* HEAD: the answer's body is not sent */
    uint64_t received_ns;
    char id[65]; /* X-Request-Id */
    char method[12];
    char address[48];             /* of the other side */
    char caller[72];              /* whose limits count: "key NAME", or an address */
    struct grant grant;           /* of the key that asks; grant.name "" where none is wanted */
    char params[REQ_PARAMS][256]; /* decoded path parameters */
    struct buf body;
    uint64_t sent_bytes;        /* of the answer's body */
    size_t max_body, body_seen; /* bytes kept at most; bytes that came */
    size_t body_counted;        /* in the server's count of body bytes */
    bool body_lives_on;         /* see req_keep_count */
    bool handled, close;        /* its handler has run; the connection ends behind its answer */
    bool preflight;             /* OPTIONS: no handler */
    struct err err;

    const struct task *task;
    void *data; /* the task's */
    struct source sources[REQ_SOURCES];
    size_t n_sources, n_ended;
    struct buf batch; /* records just taken */

    struct reply reply;
    struct buf out; /* a stream's events, not yet sent */
    size_t out_at;
    bool out_last; /* nothing follows what is in out */
};

/* conn NULL: a request with no connection, for tests of handlers that decode a body. */
struct req *req_new(struct api *a, struct service *svc, struct MHD_Connection *conn);
void req_ref(struct req *r);
void req_unref(struct req *r);

/* The decoded value of a query parameter into out (NUL-terminated); *found says whether it is
 * there. ERR_INVALID: a bad escape, a NUL, too long. */
int req_query(struct req *r, const char *name, char *out, size_t size, bool *found, struct err *e);
/* Percent-decodes n bytes; false: a bad escape, a NUL, or longer than size - 1. */
bool req_unescape(const char *p, size_t n, char *out, size_t size);

/* May the request's key do this too? ERR_PERMISSION. Where keys are off, everybody may. */
int req_allow(struct req *r, enum scope scope, struct err *e);

/* The value of a request's header, or NULL. */
const char *req_header(struct req *r, const char *name);

/* An answer at once. */
void req_reply_json(struct req *r, int status); /* then write r->reply.body */
/* One more header of the answer: at most REPLY_HEADERS, values are cut to fit. */
void req_reply_header(struct req *r, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* What the handler made of the body lives on in its calls: the body's bytes count among those of all
 * requests until this one has ended. */
void req_keep_count(struct req *r);
/* Gives the body's bytes away (free), which are counted so. */
char *req_take_body(struct req *r, size_t *n);
/* Counts bytes that the request keeps until it has ended among those of all bodies, which have a
 * limit. ERR_NOMEM. */
int req_hold(struct req *r, size_t bytes, struct err *e);

/* Waits for the calls added with req_add_source. */
void req_await(struct req *r, const struct task *t, void *data);
/* Takes over one reference to a call that was submitted. False: too many (nothing taken). */
bool req_add_source(struct req *r, struct call *c);
/* Waits for one call, which the service took (rc 0); one that it refused is given back. Returns rc. */
int req_follow(struct req *r, struct call *c, const struct task *t, int rc);

enum pump { PUMP_DATA, PUMP_END, PUMP_WAIT, PUMP_GONE };
/* Moves records from the streams to the task. WAIT: the connection is suspended now. END: all have
 * ended and finish was called, or one failed: r->err.code is set then. */
enum pump req_pump(struct req *r);

/* Any thread: no more work for this request; a suspended connection wakes. */
void req_cancel(struct req *r);
/* Any thread: is its client suspended and gone? Half-closed counts unless half_open. */
bool req_client_gone(struct req *r, bool half_open);

#endif
