#include "daemon/loop.h"

#include "daemon/base/thread.h"

#include <stdlib.h>
#include <uv.h>

#define LOOP_LETTERS 4096

struct loop {
    uv_loop_t uv;
    uv_async_t async; /* rings when box gets a letter; coalesces, so all letters are taken */
    struct mailbox box;
};

/* A timer or signal with its callback. Freed when libuv has closed the handle. */
struct loop_timer {
    union {
        uv_handle_t any;
        uv_timer_t timer;
        uv_signal_t signal;
    } handle;
    loop_fn *fn;
    void *arg;
};

static void ring(void *arg)
{
    uv_async_send(arg);
}

static void on_letters(uv_async_t *async)
{
    struct loop *l = async->data;
    struct list mails;
    list_init(&mails);
    mailbox_take(&l->box, &mails);
    mailbox_run(&mails);
}

int loop_new(struct loop **out, struct err *e)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l || mailbox_init(&l->box, LOOP_LETTERS, ring, &l->async) < 0) {
        free(l);
        return err_set(e, ERR_NOMEM, "no memory for the control loop");
    }
    int rc = uv_loop_init(&l->uv);
    if (rc == 0 && (rc = uv_async_init(&l->uv, &l->async, on_letters)) < 0)
        uv_loop_close(&l->uv);
    if (rc < 0) {
        mailbox_fini(&l->box);
        free(l);
        return err_set(e, ERR_UNAVAILABLE, "control loop: %s", uv_strerror(rc));
    }
    l->async.data = l;
    *out = l;
    return 0;
}

static void free_watch(uv_handle_t *h)
{
    free(h->data);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    struct loop *l = arg;
    if (!uv_is_closing(h))
        uv_close(h, h == (uv_handle_t *)&l->async ? NULL : free_watch);
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    mailbox_close(&l->box);
    uv_walk(&l->uv, close_handle, l);
    uv_run(&l->uv, UV_RUN_DEFAULT); /* runs the close callbacks, then has nothing left */
    ASSERT(uv_loop_close(&l->uv) == 0);
    mailbox_fini(&l->box);
    free(l);
}

int loop_post(struct loop *l, struct mail *m)
{
    return mailbox_post(&l->box, m);
}

static void on_timer(uv_timer_t *h)
{
    struct loop_timer *t = h->data;
    loop_fn *fn = t->fn;
    void *arg = t->arg;
    if (uv_timer_get_repeat(h) == 0)
        loop_cancel_timer(t);
    fn(arg);
}

int loop_start_timer(struct loop *l, uint64_t first_ms, uint64_t repeat_ms, loop_fn *fn, void *arg,
                     struct loop_timer **timer, struct err *e)
{
    struct loop_timer *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "no memory for a timer");
    *t = (struct loop_timer){.fn = fn, .arg = arg};
    uv_timer_init(&l->uv, &t->handle.timer);
    t->handle.any.data = t;
    uv_timer_start(&t->handle.timer, on_timer, first_ms, repeat_ms);
    if (timer)
        *timer = t;
    return 0;
}

void loop_cancel_timer(struct loop_timer *t)
{
    if (!uv_is_closing(&t->handle.any))
        uv_close(&t->handle.any, free_watch);
}

static void on_signal(uv_signal_t *h, int signum)
{
    (void)signum;
    struct loop_timer *t = h->data;
    t->fn(t->arg);
}

int loop_on_signal(struct loop *l, int signum, loop_fn *fn, void *arg, struct err *e)
{
    struct loop_timer *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "no memory for a signal");
    *t = (struct loop_timer){.fn = fn, .arg = arg};
    int rc = uv_signal_init(&l->uv, &t->handle.signal);
    if (rc < 0) {
        free(t);
        return err_set(e, ERR_UNAVAILABLE, "signal %d: %s", signum, uv_strerror(rc));
    }
    t->handle.any.data = t;
    rc = uv_signal_start(&t->handle.signal, on_signal, signum);
    if (rc < 0) {
        uv_close(&t->handle.any, free_watch);
        return err_set(e, ERR_UNAVAILABLE, "signal %d: %s", signum, uv_strerror(rc));
    }
    return 0;
}

void loop_run(struct loop *l)
{
    thread_enter(THREAD_LOOP, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT); /* the async handle keeps it alive until uv_stop */
    thread_enter(THREAD_OTHER, NULL);
}

void loop_stop(struct loop *l)
{
    ASSERT_THREAD(THREAD_LOOP);
    uv_stop(&l->uv);
}
