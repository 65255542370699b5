/* The background lane: order by urgency, running the more urgent between the steps of a task, the bound
 * of its queue, its end. */
#include "tests/lib/check.h"

#include "daemon/base/thread.h"
#include "daemon/lane.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { MOST = 64 };

struct job {
    struct lane_task task;
    char name;
    struct job *inside; /* posted while it runs, before its step ends */
    pthread_mutex_t *gate;
};

static char order[MOST];
static atomic_size_t n_done;

static void run(struct lane *l, struct lane_task *t)
{
    struct job *j = (struct job *)(void *)t;
    struct err e = {0};
    ASSERT_THREAD(THREAD_LANE);
    if (j->gate) {
        pthread_mutex_lock(j->gate);
        pthread_mutex_unlock(j->gate);
    }
    if (j->inside && lane_post(l, &j->inside->task, &e) < 0)
        abort();
    lane_yield(l);
    order[atomic_fetch_add(&n_done, 1)] = j->name;
}

static struct job job(char name, enum lane_urgency urgency)
{
    struct job j = {.task = {.urgency = urgency, .run = run}, .name = name};
    return j;
}

static void start(struct lane *l, size_t limit)
{
    struct err e = {0};
    memset(order, 0, sizeof order);
    atomic_store(&n_done, 0);
    struct lane_options o = {.threads = 2, .nice = 1, .limit = limit};
    assert_int_equal(lane_start(l, &o, &e), 0);
    assert_int_equal(pool_threads(lane_pool(l)), 2);
}

static void post(struct lane *l, struct job *j)
{
    struct err e = {0};
    list_init(&j->task.link);
    assert_int_equal(lane_post(l, &j->task, &e), 0);
}

/* While the first is held at its gate the others queue up: the most urgent first, of equals the oldest. */
static void test_order(void **state)
{
    (void)state;
    struct lane l;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct job first = job('1', LANE_NOW),
               jobs[] = {job('p', LANE_PROJECT), job('t', LANE_TRAIN),    job('n', LANE_NOW),
                         job('u', LANE_TRAIN),   job('g', LANE_GENERATE), job('m', LANE_NOW)};
    first.gate = &gate;
    start(&l, 8);
    pthread_mutex_lock(&gate);
    post(&l, &first);
    for (size_t i = 0; i < 6; i++)
        post(&l, &jobs[i]);
    pthread_mutex_unlock(&gate);
    lane_stop(&l);
    assert_string_equal(order, "1nmgtup");
}

/* A task that yields lets run what is more urgent, and what that lets run, but not its equal. */
static void test_yield(void **state)
{
    (void)state;
    struct lane l;
    struct job p = job('p', LANE_PROJECT), t = job('t', LANE_TRAIN), n = job('n', LANE_NOW);
    struct job q = job('q', LANE_PROJECT);
    list_init(&t.task.link), list_init(&n.task.link), list_init(&q.task.link);
    p.inside = &t;
    t.inside = &n;
    n.inside = &q;
    start(&l, 8);
    post(&l, &p);
    while (atomic_load(&n_done) < 4)
        sched_yield();
    lane_stop(&l);
    assert_string_equal(order, "ntpq");
}

static void test_bound(void **state)
{
    (void)state;
    struct lane l;
    struct err e = {0};
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct job held = job('h', LANE_TRAIN), more[4] = {job('a', LANE_NOW), job('b', LANE_NOW),
                                                       job('c', LANE_NOW), job('d', LANE_NOW)};
    held.gate = &gate;
    start(&l, 3);
    pthread_mutex_lock(&gate);
    post(&l, &held);
    size_t taken = 0;
    for (size_t i = 0; i < 4; i++) {
        list_init(&more[i].task.link);
        taken += lane_post(&l, &more[i].task, &e) == 0;
    }
    /* `held` itself counts until the thread has it. */
    assert_true(taken == 2 || taken == 3);
    assert_int_equal(e.code, ERR_BUSY);
    pthread_mutex_unlock(&gate);
    lane_stop(&l);
    assert_int_equal(atomic_load(&n_done), taken + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_yield),
        cmocka_unit_test(test_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
