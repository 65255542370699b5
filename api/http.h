/* What http.c (the life of a request) and server.c (the socket, the threads, the sweep) share. */
#ifndef API_HTTP_H
#define API_HTTP_H

#include "api/api.h"
#include "api/cors.h"
#include "api/limits.h"
#include "api/req.h"

struct api {
    struct service *svc;
    struct MHD_Daemon *mhd;
    int listen_fd, port;
    struct api_options opt;
    struct auth *auth; /* NULL: everybody may do everything */
    struct word_list origins, hosts;
    struct limits *limits;
    struct buf cert, key;     /* in PEM; empty: no TLS */
    uint64_t header_ns;       /* a request's headers may take this long to come */
    atomic_size_t body_bytes; /* of request bodies held now */
    atomic_bool quiet;        /* no new connections; answers close theirs */
    pthread_mutex_t lock;
    pthread_cond_t idle; /* with lock: a request has completed */
    struct list reqs;    /* guard: lock */
    uint64_t looked_ns;  /* the sweep's */
    struct list conns;   /* guard: lock */
    size_t n_busy;       /* guard: lock; requests whose handler has begun */
};

/* A TCP connection, watched while the headers or the body of a request are on their way. */
struct conn {
    struct list link;
    int fd;
    bool ended;      /* guard: api.lock; at the last look its client had closed its side */
    char id[65];     /* guard: api.lock; of the request whose body is on its way; "" */
    uint64_t due_ns; /* guard: api.lock; what is on its way must be there; 0: nothing is */
};

/* MHD's callbacks; cls is the struct api. */
enum MHD_Result http_on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_bytes, void **con_cls);
void http_on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                       enum MHD_RequestTerminationCode toe);
void http_on_connection(void *cls, struct MHD_Connection *conn, void **context,
                        enum MHD_ConnectionNotificationCode what);

#endif
