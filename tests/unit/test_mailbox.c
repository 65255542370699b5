/* daemon/mailbox.h and daemon/loop.h: order, limits, closing, many writers at once. */
#include "daemon/base/thread.h"
#include "daemon/loop.h"
#include "daemon/mailbox.h"
#include "tests/lib/check.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

struct note {
    struct mail mail;
    int writer, number;
    struct reader *reader;
};

enum { WRITERS = 4, NOTES = 2000 };

struct reader {
    struct mailbox box;
    struct loop *loop;
    int next[WRITERS]; /* number expected from each writer */
    int got;
    struct note notes[WRITERS][NOTES];
};

static void read_note(struct mail *m)
{
    struct note *n = (struct note *)m;
    assert_int_equal(n->number, n->reader->next[n->writer]);
    n->reader->next[n->writer]++;
    n->reader->got++;
}

static struct reader *reader_new(void)
{
    struct reader *r = calloc(1, sizeof *r);
    assert_non_null(r);
    for (int w = 0; w < WRITERS; w++)
        for (int i = 0; i < NOTES; i++)
            r->notes[w][i] = (struct note){{.run = read_note}, w, i, r};
    return r;
}

static void test_limit_and_close(void **state)
{
    (void)state;
    struct reader *r = reader_new();
    struct list mails;
    list_init(&mails);
    assert_int_equal(mailbox_init(&r->box, 2, NULL, NULL), 0);
    assert_int_equal(mailbox_post(&r->box, &r->notes[0][0].mail), 0);
    assert_int_equal(mailbox_post(&r->box, &r->notes[0][1].mail), 0);
    assert_int_equal(mailbox_post(&r->box, &r->notes[0][2].mail), ERR_BUSY);
    assert_int_equal(mailbox_take(&r->box, &mails), 2);
    assert_int_equal(mailbox_post(&r->box, &r->notes[0][2].mail), 0);
    mailbox_close(&r->box);
    mailbox_close(&r->box);
    assert_int_equal(mailbox_post(&r->box, &r->notes[0][3].mail), ERR_UNAVAILABLE);
    assert_true(mailbox_wait(&r->box, &mails, MAILBOX_FOREVER));
    mailbox_run(&mails);
    assert_int_equal(r->got, 3); /* in order: read_note checks */
    assert_true(list_empty(&mails));
    assert_false(mailbox_wait(&r->box, &mails, MAILBOX_FOREVER));
    mailbox_fini(&r->box);
    free(r);
}

static void test_timeout(void **state)
{
    (void)state;
    struct mailbox b;
    struct list mails;
    list_init(&mails);
    assert_int_equal(mailbox_init(&b, 1, NULL, NULL), 0);
    assert_true(mailbox_wait(&b, &mails, 0));
    assert_true(mailbox_wait(&b, &mails, 1000));
    assert_true(list_empty(&mails));
    mailbox_fini(&b);
}

struct writer {
    struct reader *r;
    int w;
};

static void write_notes(void *arg)
{
    struct writer *w = arg;
    for (int i = 0; i < NOTES; i++) {
        struct mail *m = &w->r->notes[w->w][i].mail;
        while ((w->r->loop ? loop_post(w->r->loop, m) : mailbox_post(&w->r->box, m)) == ERR_BUSY)
            ;
    }
}

static void start_writers(struct reader *r, struct writer *w, pthread_t *t)
{
    struct err e;
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){r, i};
        assert_int_equal(thread_start(&t[i], THREAD_OTHER, "writer", write_notes, &w[i], &e), 0);
    }
}

static void test_many_writers(void **state)
{
    (void)state;
    struct reader *r = reader_new();
    struct writer w[WRITERS];
    pthread_t t[WRITERS];
    struct list mails;
    list_init(&mails);
    assert_int_equal(mailbox_init(&r->box, 64, NULL, NULL), 0);
    start_writers(r, w, t);
    while (r->got < WRITERS * NOTES) {
        assert_true(mailbox_wait(&r->box, &mails, MAILBOX_FOREVER));
        mailbox_run(&mails);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(mailbox_take(&r->box, &mails), 0);
    mailbox_fini(&r->box);
    free(r);
}

static void read_note_in_loop(struct mail *m)
{
    struct note *n = (struct note *)m;
    assert_int_equal(thread_kind(), THREAD_LOOP);
    read_note(m);
    if (n->reader->got == WRITERS * NOTES)
        loop_stop(n->reader->loop);
}

static void test_loop_post(void **state)
{
    (void)state;
    struct reader *r = reader_new();
    struct writer w[WRITERS];
    pthread_t t[WRITERS];
    struct err e;
    for (int i = 0; i < WRITERS; i++)
        for (int k = 0; k < NOTES; k++)
            r->notes[i][k].mail.run = read_note_in_loop;
    assert_int_equal(loop_new(&r->loop, &e), 0);
    start_writers(r, w, t);
    loop_run(r->loop);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(r->got, WRITERS * NOTES);
    assert_int_equal(thread_kind(), THREAD_OTHER);
    loop_free(r->loop);
    free(r);
}

struct clockwork {
    struct loop *loop;
    struct loop_timer *repeated;
    int once, often, signals;
};

static void on_once(void *arg)
{
    ((struct clockwork *)arg)->once++;
}

static void on_often(void *arg)
{
    struct clockwork *c = arg;
    if (++c->often == 3) {
        loop_cancel_timer(c->repeated);
        raise(SIGUSR1);
    }
}

static void on_signal(void *arg)
{
    struct clockwork *c = arg;
    c->signals++;
    loop_stop(c->loop);
}

static void test_timers_and_signals(void **state)
{
    (void)state;
    struct clockwork c = {0};
    struct err e;
    assert_int_equal(loop_new(&c.loop, &e), 0);
    assert_int_equal(loop_on_signal(c.loop, SIGUSR1, on_signal, &c, &e), 0);
    assert_int_equal(loop_start_timer(c.loop, 0, 0, on_once, &c, NULL, &e), 0);
    assert_int_equal(loop_start_timer(c.loop, 1, 1, on_often, &c, &c.repeated, &e), 0);
    assert_true(loop_on_signal(c.loop, -5, on_signal, &c, &e) < 0);
    loop_run(c.loop);
    assert_int_equal(c.once, 1);
    assert_int_equal(c.often, 3);
    assert_int_equal(c.signals, 1);
    loop_free(c.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit_and_close),    cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_many_writers),       cmocka_unit_test(test_loop_post),
        cmocka_unit_test(test_timers_and_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
