/* What store.c (the interface) and serve.c (the thread behind it) share. */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include "daemon/base/list.h"
#include "store/q_states.h"

#include <pthread.h>

#define STORE__SMALL_BYTES (4 * BLOB_SLICE) /* a blob of more makes its request a large one */

enum { QUEUE_SMALL, QUEUE_LARGE };
enum req_kind { REQ_PUT, REQ_GET, REQ_DELETE, REQ_LIST };

struct req {
    struct list link;
    enum req_kind kind;
    store_state_fn *done;
    store_list_fn *done_list;
    void *arg;
    char name[STORE_NAME_MAX + 1];   /* get, delete; list: after */
    char prefix[STORE_NAME_MAX + 1]; /* list */
    uint64_t version;
    bool with_blob;
    size_t limit;
    enum store_if_exists mode;
    struct store_state state; /* put: its record */
    void *blob;               /* put: given; get: being read */
    size_t off;               /* get: bytes of the blob read */
    int64_t blob_id;          /* get */
    struct q_put put;
    /* The answer: */
    struct err err;
    struct store_state out;
    struct q_counts change;
};

struct store {
    struct db db;      /* store thread only, after store_open */
    bool upkeep;       /* store thread only: there may be something to tidy */
    struct req *large; /* store thread only: the large request being served */
    pthread_t thread;
    size_t max_queue;     /* set once before the start */
    pthread_mutex_t lock; /* a leaf; never held during a callback. Guards what follows: */
    pthread_cond_t wake;
    struct list queue[2];
    size_t n_queued[2];
    bool closing;
    struct store_stats stats; /* queued is taken from n_queued */
};

void store__req_free(struct req *r); /* NULL is fine */
/* With s->lock held. ERR_BUSY. */
int store__enqueue(struct store *s, struct req *r, int queue, struct err *e);
/* The thread. Ends when s->closing is set and everything queued is answered. */
void *store__run(void *store);
/* One small step of tidying; false when there is none left to do, or it fails. Only on the thread,
 * or after it has ended. */
bool store__upkeep_step(struct store *s);

#endif
