/* The control loop (libuv): letters from other threads, timers, signals. It does nothing slow: no
 * database, no arithmetic, no file.
 *
 *     loop_new(&l, &e);  loop_on_signal(l, SIGTERM, on_term, arg, &e);
 *     loop_run(l);                                  becomes the loop thread, until loop_stop
 *     loop_free(l);                                 after all that could post have been joined
 *
 * Threads: loop_post from any; the rest from the loop thread, or before loop_run from the one that
 * sets it up. */
#ifndef DAEMON_LOOP_H
#define DAEMON_LOOP_H

#include "daemon/base/err.h"
#include "daemon/mailbox.h"

struct loop;
typedef void loop_fn(void *arg);

int loop_new(struct loop **out, struct err *e) __attribute__((warn_unused_result));
void loop_free(struct loop *l); /* NULL is fine */

/* As mailbox_post. */
int loop_post(struct loop *l, struct mail *m);

/* Calls fn(arg) after first_ms, then every repeat_ms (0: once), until the loop ends or
 * loop_cancel_timer. *timer (may be NULL) is valid until it is cancelled or, of a single shot, has
 * run. */
struct loop_timer;
int loop_start_timer(struct loop *l, uint64_t first_ms, uint64_t repeat_ms, loop_fn *fn, void *arg,
                     struct loop_timer **timer, struct err *e);
void loop_cancel_timer(struct loop_timer *t);
/* Calls fn(arg) at every arrival of a signal. */
int loop_on_signal(struct loop *l, int signum, loop_fn *fn, void *arg, struct err *e);

void loop_run(struct loop *l);
void loop_stop(struct loop *l);

#endif
