/* How many threads work gets, on a machine that is made up: a piece takes as long as its slowest thread. */
#include "tests/lib/check.h"

#include "engine/kernels/effort.h"

struct machine {
    int cores, busy; /* cores, and those of them that another program holds half of the time */
};

/* ns of 40 ms of work cut into `parts`; those beyond the cores that are free take three times as long: their core is
 * shared, and at every barrier it is taken anew. */
static uint64_t time_of(const struct machine *m, int parts, uint64_t *lost)
{
    const uint64_t share = 40000000 / (uint64_t)parts;
    const bool shared = parts > m->cores - m->busy;
    *lost = shared ? 2 * share * (uint64_t)(m->cores - m->busy) : 0;
    return shared ? 3 * share : share;
}

/* Works for so many pieces; returns the ns they took. */
static uint64_t work(struct effort *e, const struct machine *m, int pieces)
{
    uint64_t all = 0, lost;
    for (int i = 0; i < pieces; i++) {
        const int parts = effort_parts(e);
        assert_in_range(parts, 1, m->cores);
        const uint64_t ns = time_of(m, parts, &lost);
        effort_note(e, 1, ns, lost);
        all += ns;
    }
    return all;
}

static void test_quiet(void **state)
{
    (void)state;
    struct effort e;
    effort_init(&e, 4);
    assert_int_equal(work(&e, &(struct machine){4, 0}, 1000), 1000 * UINT64_C(10000000));
}

/* The threads settle where nobody shares a core, and come back when the other program has gone. */
static void test_shared(void **state)
{
    (void)state;
    for (int cores = 2; cores <= 8; cores *= 2)
        for (int busy = 1; busy <= cores / 2; busy += 1 + cores / 4) {
            const struct machine now = {cores, busy}, then = {cores, 0};
            struct effort e;
            uint64_t lost, best = time_of(&now, cores - busy, &lost);
            effort_init(&e, cores);
            work(&e, &now, 400);
            assert_int_equal(e.parts, cores - busy);
            uint64_t took = work(&e, &now, 1000);
            assert_true(took < best * 1000 * 11 / 10);
            work(&e, &then, 1500);
            assert_int_equal(e.parts, cores);
        }
}

/* Where fewer threads are no faster, all stay, and trials cost little. */
static void test_no_better(void **state)
{
    (void)state;
    struct effort e;
    uint64_t all = 0;
    effort_init(&e, 2);
    for (int i = 0; i < 5000; i++) {
        const uint64_t ns = effort_parts(&e) == 2 ? 20000000 : 30000000;
        effort_note(&e, 1, ns, 10000000);
        all += ns;
    }
    assert_int_equal(e.parts, 2);
    assert_true(all < 5000 * UINT64_C(20000000) * 104 / 100);
}

/* Pieces of changing sizes say nothing about each other. */
static void test_sizes(void **state)
{
    (void)state;
    struct effort e;
    effort_init(&e, 2);
    for (size_t i = 0; i < 1000; i++) {
        effort_note(&e, i, 20000000, 10000000);
        assert_int_equal(effort_parts(&e), 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_no_better),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
