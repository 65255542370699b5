/* The way from one thread to another: a bounded queue of letters, many writers, one reader.
 *
 * A letter is a function to run on the reader's thread, inside whatever it is about; posting
 * allocates nothing, and what the letter carries changes hands with it.
 *
 *     struct sequence { struct mail mail; ... };
 *     q->mail.run = worker_admit;
 *     mailbox_post(&worker->box, &q->mail);               any thread; q is the worker's now
 *     while (mailbox_wait(&box, &mails, MAILBOX_FOREVER))  reader: takes all there is,
 *         mailbox_run(&mails);                             runs it outside the lock
 *
 * The pattern is h2o's (lib/common/multithread.c). Threads: post and close from any thread, take
 * and wait from the reader. The lock is a leaf, except that `wake` runs under it: it may only
 * signal (uv_async_send). */
#ifndef DAEMON_MAILBOX_H
#define DAEMON_MAILBOX_H

#include "daemon/base/list.h"

#include <pthread.h>
#include <stdint.h>

struct mail {
    struct list link;
    void (*run)(struct mail *m); /* may free or post the letter again */
};

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct list queued;      /* guard: lock */
    size_t n;                /* guard: lock */
    bool closed;             /* guard: lock */
    size_t limit;            /* set once */
    void (*wake)(void *arg); /* set once; NULL: the reader uses mailbox_wait */
    void *arg;
};

/* limit: letters that may wait. ERR_NOMEM. */
int mailbox_init(struct mailbox *b, size_t limit, void (*wake)(void *arg), void *arg);
/* Nobody may post any more. */
void mailbox_fini(struct mailbox *b);

/* 0; ERR_BUSY when full and ERR_UNAVAILABLE when closed: then the letter stays the caller's. */
int mailbox_post(struct mailbox *b, struct mail *m);
/* No more letters; the reader gets those that wait, then false from mailbox_wait. */
void mailbox_close(struct mailbox *b);

/* Moves all letters to the end of *out (a list that was initialised), oldest first; their number.
 */
size_t mailbox_take(struct mailbox *b, struct list *out);
/* The same, after waiting until there is one, the box is closed, or the time has passed. False when
 * it is closed and empty. */
#define MAILBOX_FOREVER UINT64_MAX
bool mailbox_wait(struct mailbox *b, struct list *out, uint64_t timeout_ns);
/* Runs the letters in order, emptying the list. */
void mailbox_run(struct list *mails);

#endif
