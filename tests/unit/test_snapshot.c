/* daemon/base/snapshot.h: a reader never sees a half-written struct, and sees the last one. */
#include "daemon/base/snapshot.h"
#include "tests/lib/check.h"

#include <pthread.h>

enum { WORDS = 97, ROUNDS = 20000 };

struct shown {
    uint64_t word[WORDS]; /* all the same */
};

static void *write_all(void *arg)
{
    struct shown v;
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        for (size_t i = 0; i < WORDS; i++)
            v.word[i] = n;
        snapshot_write(arg, &v);
    }
    return NULL;
}

static void test_whole_or_not_at_all(void **state)
{
    (void)state;
    struct snapshot s;
    struct shown v;
    pthread_t writer;
    assert_true(snapshot_init(&s, sizeof v));
    snapshot_read(&s, &v);
    assert_int_equal(v.word[0], 0);
    assert_int_equal(pthread_create(&writer, NULL, write_all, &s), 0);
    for (uint64_t last = 0; last < ROUNDS;) {
        snapshot_read(&s, &v);
        for (size_t i = 0; i < WORDS; i++)
            assert_int_equal(v.word[i], v.word[0]);
        assert_true(v.word[0] >= last);
        last = v.word[0];
    }
    pthread_join(writer, NULL);
    snapshot_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole_or_not_at_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
