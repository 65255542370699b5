#include "daemon/mailbox.h"

#include "daemon/base/clock.h"
#include "daemon/base/err.h"

int mailbox_init(struct mailbox *b, size_t limit, void (*wake)(void *arg), void *arg)
{
    *b = (struct mailbox){.limit = limit, .wake = wake, .arg = arg};
    list_init(&b->queued);
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0)
        return ERR_NOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&b->cond, &attr);
    pthread_condattr_destroy(&attr);
    if (failed)
        return ERR_NOMEM;
    if (pthread_mutex_init(&b->lock, NULL) != 0) {
        pthread_cond_destroy(&b->cond);
        return ERR_NOMEM;
    }
    return 0;
}

void mailbox_fini(struct mailbox *b)
{
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->cond);
}

/* guard: lock */
static void wake_reader(struct mailbox *b)
{
    if (b->wake)
        b->wake(b->arg);
    else
        pthread_cond_signal(&b->cond);
}

int mailbox_post(struct mailbox *b, struct mail *m)
{
    int rc = 0;
    pthread_mutex_lock(&b->lock);
    if (b->closed) {
        rc = ERR_UNAVAILABLE;
    } else if (b->n >= b->limit) {
        rc = ERR_BUSY;
    } else {
        list_push(&b->queued, &m->link);
        b->n++;
        wake_reader(b);
    }
    pthread_mutex_unlock(&b->lock);
    return rc;
}

void mailbox_close(struct mailbox *b)
{
    pthread_mutex_lock(&b->lock);
    if (!b->closed) {
        b->closed = true;
        wake_reader(b);
    }
    pthread_mutex_unlock(&b->lock);
}

/* guard: lock */
static size_t take_all(struct mailbox *b, struct list *out)
{
    size_t n = b->n;
    if (n) { /* splice: constant time under the lock */
        b->queued.next->prev = out->prev;
        out->prev->next = b->queued.next;
        b->queued.prev->next = out;
        out->prev = b->queued.prev;
        list_init(&b->queued);
        b->n = 0;
    }
    return n;
}

size_t mailbox_take(struct mailbox *b, struct list *out)
{
    pthread_mutex_lock(&b->lock);
    size_t n = take_all(b, out);
    pthread_mutex_unlock(&b->lock);
    return n;
}

bool mailbox_wait(struct mailbox *b, struct list *out, uint64_t timeout_ns)
{
    uint64_t now = clock_ns();
    uint64_t end = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    struct timespec until = {.tv_sec = (time_t)(end / 1000000000u),
                             .tv_nsec = (long)(end % 1000000000u)};
    int timed_out = timeout_ns == 0;
    pthread_mutex_lock(&b->lock);
    while (b->n == 0 && !b->closed && !timed_out) {
        if (end == UINT64_MAX)
            pthread_cond_wait(&b->cond, &b->lock);
        else
            timed_out = pthread_cond_timedwait(&b->cond, &b->lock, &until) != 0;
    }
    bool open = take_all(b, out) > 0 || !b->closed;
    pthread_mutex_unlock(&b->lock);
    return open;
}

void mailbox_run(struct list *mails)
{
    for (struct list *n; (n = list_pop(mails));) {
        struct mail *m = LIST_OWNER(n, struct mail, link);
        m->run(m);
    }
}
