/* What store.c (the interface) and serve.c (the thread behind it) share. */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include "daemon/base/list.h"
#include "store/backup.h"
#include "store/q_items.h"
#include "store/q_states.h"

#include <pthread.h>

#define STORE__SMALL_BYTES (4 * BLOB_SLICE)  /* a blob of more makes its request a large one */
#define STORE__TEXTS_MAX   ((size_t)1 << 20) /* bytes of a record's texts together */

enum { QUEUE_SMALL, QUEUE_LARGE };
enum req_kind {
    REQ_PUT,
    REQ_DELETE,
    REQ_PATCH,
    REQ_FORK,
    REQ_ITEM_PUT,
    REQ_ITEM_DELETE, /* the last that writes */
    REQ_ITEM_GET,
    REQ_ITEM_LIST,
    REQ_GET,
    REQ_FIND_KEY,
    REQ_LIST,
    REQ_VERSIONS,
    REQ_BACKUP
};

struct req {
    struct list link;
    enum req_kind kind;
    store_state_fn *done;
    store_list_fn *done_list;
    store_backup_fn *done_backup;
    store_items_fn *done_items;
    void *arg;
    char name[STORE_NAME_MAX + 1];  /* list: after */
    uint64_t version;               /* versions: before */
    uint64_t if_revision;           /* delete */
    bool with_blob;                 /* get */
    size_t limit;                   /* list, versions */
    bool newest;                    /* list */
    char to[STORE_NAME_MAX + 1];    /* fork; list: prefix */
    bool rollback;                  /* fork */
    char model[STORE_NAME_MAX + 1]; /* list */
    char *text;                     /* patch, fork: what patch points to; list: tag; backup: dir */
    struct store_patch patch;       /* patch, fork */
    struct store_write how;         /* what adds a version, or finds a key; its texts are: */
    char key[STORE_KEY_MAX + 1], request_sha256[65];
    struct store_state state; /* put: its record */
    void *blob;               /* put: given; get: being read */
    size_t off;               /* get: bytes of the blob read */
    int64_t blob_id;          /* get */
    struct q_put put;
    struct backup *backup;
    struct store_item item; /* item put: its record; get, delete: kind, name; list: see q_items.h */
    struct q_item_put item_put;
    /* The answer: */
    struct err err;
    struct store_state out;
    struct store_item item_out;
    struct q_items items; /* item list */
    bool found;           /* find key */
    struct q_counts change;
};

struct store {
    struct db db;       /* store thread only, after store_open */
    struct q_env env;   /* store thread only; total is what is committed, but within write_group */
    bool upkeep;        /* store thread only: there may be something to tidy */
    uint64_t due_ns;    /* store thread only: look for what is over then; 0 = nothing will be */
    struct req *large;  /* store thread only: the large request being served */
    struct req *backup; /* store thread only: the backup being made */
    int64_t (*wall_ms)(void *arg); /* set once before the start, as are the next two */
    void *wall_arg;
    size_t max_queue;
    pthread_t thread;
    pthread_mutex_t lock; /* a leaf; never held during a callback. Guards what follows: */
    pthread_cond_t wake;
    struct list queue[2];
    size_t n_queued[2];
    struct req *backup_asked; /* not begun */
    bool backup_runs;
    bool closing;
    struct store_stats stats; /* queued is taken from n_queued */
};

void store__req_free(struct req *r); /* NULL is fine */
/* NULL and ERR_NOMEM. */
struct req *store__req_new(enum req_kind kind, void *arg, struct err *e);
/* Queues a request; on failure it stays the caller's. ERR_BUSY, ERR_UNAVAILABLE. */
int store__queue(struct store *s, struct req *r, int queue, struct err *e);
/* The same, but on failure it is freed. */
int store__submit(struct store *s, struct req *r, int queue, struct err *e);
/* ERR_INVALID: not 1 to 1000. */
int store__check_limit(size_t limit, struct err *e);
bool store__is_name(const char *s, bool may_be_empty);
bool store__is_sha256(const char *s);
/* With s->lock held. ERR_BUSY. */
int store__enqueue(struct store *s, struct req *r, int queue, struct err *e);
/* Finds an item and its blob, so that r->item_out.bytes may be allocated. Store thread. */
int store__item_begin(struct store *s, struct req *r);
/* The blob that a put is writing. Store thread. */
int64_t store__blob_written(const struct req *r);
/* The callback of a request about items. Store thread. */
void store__item_answer(struct req *r);
/* The thread. Ends when s->closing is set and everything queued is answered. */
void *store__run(void *store);
/* One small step of tidying; false when there is none left to do, or it fails. Only on the thread,
 * or after it has ended. */
bool store__upkeep_step(struct store *s);

#endif
