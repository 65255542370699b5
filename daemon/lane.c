#include "daemon/lane.h"

#include "daemon/base/thread.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The most urgent task above `below`, or NULL. guard: lock */
static struct lane_task *pop(struct lane *l, enum lane_urgency below)
{
    for (int u = 0; u < (int)below; u++) {
        struct list *node = list_pop(&l->queued[u]);
        if (node) {
            struct lane_task *t = LIST_OWNER(node, struct lane_task, link);
            l->n -= !t->bounded;
            return t;
        }
    }
    return NULL;
}

static void run(struct lane *l, struct lane_task *t)
{
    enum lane_urgency before = l->running;
    l->running = t->urgency;
    t->run(l, t);
    l->running = before;
}

static void lane_main(void *arg)
{
    struct lane *l = arg;
    if (l->options.nice)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), l->options.nice);
    pthread_mutex_lock(&l->lock);
    for (;;) {
        struct lane_task *t = pop(l, LANE_URGENCIES);
        if (!t && l->closed)
            break;
        if (!t) {
            pthread_cond_wait(&l->wake, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        run(l, t);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

static void fini(struct lane *l)
{
    pool_free(l->pool);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
}

int lane_start(struct lane *l, const struct lane_options *o, struct err *e)
{
    *l = (struct lane){.options = *o, .running = LANE_URGENCIES};
    for (int u = 0; u < LANE_URGENCIES; u++)
        list_init(&l->queued[u]);
    if (pthread_mutex_init(&l->lock, NULL) != 0)
        return err_set(e, ERR_NOMEM, "no memory for the background lane");
    pthread_cond_init(&l->wake, NULL);
    l->pool = pool_new(o->threads, "lane", o->nice, e);
    if (!l->pool || thread_start(&l->thread, THREAD_LANE, "lane", lane_main, l, e) < 0) {
        fini(l);
        return e->code;
    }
    return 0;
}

void lane_stop(struct lane *l)
{
    pthread_mutex_lock(&l->lock);
    l->closed = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    fini(l);
}

int lane_post(struct lane *l, struct lane_task *t, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    if (l->closed)
        rc = err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    else if (!t->bounded && l->n == l->options.limit)
        rc = err_set(e, ERR_BUSY, "%zu tasks are waiting in the background: try again later", l->n);
    if (rc == 0) {
        list_push(&l->queued[t->urgency], &t->link);
        l->n += !t->bounded;
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

size_t lane_waiting(struct lane *l)
{
    pthread_mutex_lock(&l->lock);
    size_t n = l->n;
    pthread_mutex_unlock(&l->lock);
    return n;
}

struct pool *lane_pool(const struct lane *l)
{
    return l->pool;
}

void lane_yield(struct lane *l)
{
    ASSERT_THREAD(THREAD_LANE);
    for (;;) {
        pthread_mutex_lock(&l->lock);
        struct lane_task *t = pop(l, l->running);
        pthread_mutex_unlock(&l->lock);
        if (!t)
            return;
        run(l, t);
    }
}
