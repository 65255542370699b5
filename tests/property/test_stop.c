/* The stop matcher against a naive search over the whole text, with few letters so that overlaps
 * are the rule, fed in random pieces. */
#include "engine/kernels/rng.h"
#include "engine/sampling/sampling.h"
#include "tests/lib/check.h"

#define MAX_STOPS 4
#define MAX_TEXT  60

struct round {
    char text[MAX_TEXT], stop[MAX_STOPS][8];
    const char *stops[MAX_STOPS];
    size_t lens[MAX_STOPS], n_text, n;
};

static void make_round(struct rng *r, struct round *x)
{
    uint32_t letters = 2 + (uint32_t)rng_below(r, 2);
    x->n = 1 + rng_below(r, MAX_STOPS);
    x->n_text = rng_below(r, MAX_TEXT);
    for (size_t i = 0; i < x->n_text; i++)
        x->text[i] = (char)('a' + rng_below(r, letters));
    for (size_t i = 0; i < x->n; i++) {
        x->stops[i] = x->stop[i];
        x->lens[i] = 1 + rng_below(r, sizeof x->stop[i]);
        for (size_t k = 0; k < x->lens[i]; k++)
            x->stop[i][k] = (char)('a' + rng_below(r, letters));
    }
}

/* The string ending at text + end, longest first, then lowest index; -1: none. */
static int naive_ending(const struct round *x, size_t end)
{
    int found = -1;
    for (size_t i = 0; i < x->n; i++)
        if (x->lens[i] <= end && memcmp(x->text + end - x->lens[i], x->stops[i], x->lens[i]) == 0)
            if (found < 0 || x->lens[i] > x->lens[found])
                found = (int)i;
    return found;
}

/* How much of text [end] can no longer become part of a stop string. */
static size_t naive_releasable(const struct round *x, size_t end)
{
    for (size_t from = 0; from < end; from++)
        for (size_t i = 0; i < x->n; i++)
            if (end - from < x->lens[i] && memcmp(x->text + from, x->stops[i], end - from) == 0)
                return from;
    return end;
}

static void check_round(struct rng *r, const struct round *x)
{
    struct stop_matcher *m = stop_new(x->stops, x->lens, x->n);
    size_t fed = 0, shown = 0, end = 1;
    int found = -1, want = -1;
    assert_non_null(m);
    for (; end <= x->n_text && want < 0; end++)
        want = naive_ending(x, end);
    size_t start = want < 0 ? 0 : end - 1 - x->lens[want];
    while (fed < x->n_text && found < 0) {
        size_t release, n = 1 + rng_below(r, x->n_text - fed < 4 ? x->n_text - fed : 4);
        found = stop_feed(m, x->text + fed, n, &release);
        fed += n;
        shown += release;
        if (found < 0)
            assert_int_equal(shown, naive_releasable(x, fed));
    }
    assert_int_equal(found, want);
    if (want >= 0) {
        assert_int_equal(shown, start);
        assert_true(fed >= end - 1);
    }
    stop_free(m);
}

static void test_naive(void **state)
{
    (void)state;
    struct rng r;
    struct round x;
    rng_init(&r, 4, 0);
    for (int i = 0; i < 100000; i++) {
        make_round(&r, &x);
        check_round(&r, &x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_naive)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
