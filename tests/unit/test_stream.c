/* daemon/stream.h: framing, limits, and that no wake-up is lost or doubled between two threads. */
#include "daemon/stream.h"

#include "daemon/base/err.h"
#include "tests/lib/check.h"

#include <stdatomic.h>
#include <stdlib.h>

static void count_up(void *arg)
{
    ++*(int *)arg;
}

static void test_records_and_end(void **state)
{
    (void)state;
    struct stream s;
    struct buf batch;
    buf_init(&batch, 1000);
    assert_int_equal(stream_init(&s, 1000), 0);
    assert_int_equal(stream_push(&s, "abc", 3), 0);
    assert_int_equal(stream_push(&s, "", 0), 0);
    assert_int_equal(stream_push(&s, "de", 2), 0);
    stream_end(&s);
    assert_int_equal(stream_push(&s, "late", 4), 0); /* dropped */
    assert_int_equal(stream_take(&s, &batch), STREAM_DATA);
    size_t at = 0, n = 99;
    assert_memory_equal(stream_next_record(&batch, &at, &n), "abc", 3);
    assert_int_equal(n, 3);
    assert_non_null(stream_next_record(&batch, &at, &n));
    assert_int_equal(n, 0);
    assert_memory_equal(stream_next_record(&batch, &at, &n), "de", 2);
    assert_int_equal(n, 2);
    assert_null(stream_next_record(&batch, &at, &n));
    assert_int_equal(stream_take(&s, &batch), STREAM_END);
    assert_int_equal(stream_take(&s, &batch), STREAM_END);
    buf_fini(&batch);
    stream_fini(&s);
}

static void test_limit(void **state)
{
    (void)state;
    struct stream s;
    struct buf batch;
    char bytes[64] = {0};
    buf_init(&batch, 1000);
    assert_int_equal(stream_init(&s, 40), 0);
    assert_int_equal(stream_push(&s, bytes, 37), ERR_TOO_LARGE);
    assert_int_equal(stream_push(&s, bytes, 16), 0);
    assert_true(stream_room(&s, 16));
    assert_false(stream_room(&s, 17));
    assert_int_equal(stream_push(&s, bytes, 17), ERR_BUSY);
    assert_int_equal(stream_push(&s, bytes, 16), 0);
    assert_false(stream_room(&s, 0));
    assert_int_equal(stream_push(&s, bytes, 0), ERR_BUSY);
    assert_int_equal(stream_take(&s, &batch), STREAM_DATA);
    assert_int_equal(batch.len, 40);
    assert_true(stream_room(&s, 36));
    /* A batch that is not empty is appended to. */
    assert_int_equal(stream_push(&s, bytes, 6), 0);
    assert_int_equal(stream_take(&s, &batch), STREAM_DATA);
    assert_int_equal(batch.len, 50);
    buf_fini(&batch);
    stream_fini(&s);
}

static void test_wake_once(void **state)
{
    (void)state;
    struct stream s;
    struct buf batch;
    int suspends = 0, resumes = 0;
    buf_init(&batch, 1000);
    assert_int_equal(stream_init(&s, 1000), 0);
    stream_set_wake(&s, &(struct stream_wake){count_up, NULL, &suspends});
    assert_int_equal(stream_take(&s, &batch), STREAM_WAIT);
    assert_int_equal(suspends, 1);
    stream_set_wake(&s, &(struct stream_wake){NULL, count_up, &resumes});
    stream_push(&s, "a", 1);
    stream_push(&s, "b", 1);
    stream_poke(&s);
    assert_int_equal(resumes, 1);
    assert_int_equal(stream_take(&s, &batch), STREAM_DATA);
    buf_reset(&batch);
    assert_int_equal(stream_take(&s, &batch), STREAM_WAIT);
    stream_poke(&s);
    assert_int_equal(resumes, 2);
    assert_int_equal(stream_take(&s, &batch), STREAM_WAIT);
    stream_end(&s);
    stream_end(&s);
    assert_int_equal(resumes, 3);
    buf_fini(&batch);
    stream_fini(&s);
}

static void test_bad_batch(void **state)
{
    (void)state;
    struct buf b;
    size_t at = 0, n;
    buf_init(&b, 100);
    assert_null(stream_next_record(&b, &at, &n));
    buf_append(&b, "\x05\0\0\0abc", 7); /* says 5, has 3 */
    assert_null(stream_next_record(&b, &at, &n));
    assert_int_equal(at, 0);
    buf_fini(&b);
}

/* A consumer that really sleeps, as a suspended connection does. */
struct sleeper {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int permits; /* guard: lock; resumes not yet used */
    atomic_int suspends, resumes;
};

static void on_suspend(void *arg)
{
    atomic_fetch_add(&((struct sleeper *)arg)->suspends, 1);
}

static void on_resume(void *arg)
{
    struct sleeper *z = arg;
    atomic_fetch_add(&z->resumes, 1);
    pthread_mutex_lock(&z->lock);
    z->permits++;
    pthread_cond_signal(&z->cond);
    pthread_mutex_unlock(&z->lock);
}

static void sleeper_wait(struct sleeper *z)
{
    pthread_mutex_lock(&z->lock);
    while (z->permits == 0)
        pthread_cond_wait(&z->cond, &z->lock);
    z->permits--;
    pthread_mutex_unlock(&z->lock);
}

enum { EVENTS = 20000 };

static void *produce(void *arg)
{
    struct stream *s = arg;
    for (uint32_t i = 0; i < EVENTS;) {
        uint32_t record[3] = {i, i * 7, ~i};
        if (stream_push(s, record, 4 + 4 * (i % 3)) == 0)
            i++;
    }
    stream_end(s);
    return NULL;
}

static void test_two_threads(void **state)
{
    (void)state;
    struct stream s;
    struct sleeper z = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct buf batch;
    buf_init(&batch, 1u << 20);
    assert_int_equal(stream_init(&s, 256), 0);
    stream_set_wake(&s, &(struct stream_wake){on_suspend, on_resume, &z});
    pthread_t producer;
    assert_int_equal(pthread_create(&producer, NULL, produce, &s), 0);
    uint32_t want = 0;
    for (enum stream_take what; (what = stream_take(&s, &batch)) != STREAM_END;) {
        if (what == STREAM_WAIT) {
            sleeper_wait(&z);
            continue;
        }
        size_t at = 0, n;
        const void *p;
        while ((p = stream_next_record(&batch, &at, &n))) {
            uint32_t got;
            assert_int_equal(n, 4 + 4 * (want % 3));
            memcpy(&got, p, sizeof got);
            assert_int_equal(got, want);
            want++;
        }
        assert_int_equal(at, batch.len);
        buf_reset(&batch);
    }
    pthread_join(producer, NULL);
    assert_int_equal(want, EVENTS);
    assert_int_equal(atomic_load(&z.suspends), atomic_load(&z.resumes));
    assert_int_equal(z.permits, 0);
    buf_fini(&batch);
    stream_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_and_end), cmocka_unit_test(test_limit),
        cmocka_unit_test(test_wake_once),       cmocka_unit_test(test_bad_batch),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
