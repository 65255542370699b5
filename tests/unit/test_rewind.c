/* daemon/rewind.h against a search over the whole text: whatever the pieces and the stop string,
 * the state comes back to the last token that was shown whole. */
#include "daemon/rewind.h"

#include "engine/kernels/rng.h"
#include "engine/sampling/sampling.h"
#include "tests/lib/check.h"

#include <stdlib.h>

enum { TOKENS = 60 };

struct text {
    char bytes[TOKENS * 3 + 1];
    size_t n, ends[TOKENS + 1]; /* bytes up to the end of token i - 1 */
};

static size_t random_letters(struct rng *r, char *to, size_t least, size_t most)
{
    size_t n = least + rng_below(r, most - least + 1);
    for (size_t i = 0; i < n; i++)
        to[i] = "ab"[rng_below(r, 2)];
    return n;
}

/* Reads id as the model would: the "state" counts tokens. */
static void read_token(float *state, float *logits, uint64_t *n_read)
{
    state[0] += 1;
    logits[0] = -state[0];
    ++*n_read;
}

/* Tokens until the stop string; true if it came. */
static bool run(struct stop_matcher *m, const struct text *t, struct rewind *w, float **state,
                float **logits, uint64_t *n_read, size_t *shown)
{
    struct err e;
    size_t held = 0;
    *shown = 0;
    for (uint32_t i = 0; i < TOKENS; i++) {
        size_t piece = t->ends[i + 1] - t->ends[i], released = piece;
        bool stopped = piece && stop_feed(m, t->bytes + t->ends[i], piece, &released) >= 0;
        *shown += released;
        held += piece - released;
        assert_int_equal(rewind_note(w, i, piece, released, held, *state, *logits, *n_read, &e), 0);
        if (stopped)
            return true;
        read_token(*state, *logits, n_read);
    }
    return false;
}

static void test_random(void **unused)
{
    (void)unused;
    size_t stopped = 0, replayed = 0;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct rng r;
        struct text t = {.n = 0};
        struct rewind w;
        struct err e;
        char stop[8];
        rng_init(&r, seed, 0);
        for (size_t i = 0; i < TOKENS; i++) {
            t.n += random_letters(&r, t.bytes + t.n, 0, 3);
            t.ends[i + 1] = t.n;
        }
        const char *stops[] = {stop};
        size_t len = random_letters(&r, stop, 3, 7);
        struct stop_matcher *m = stop_new(stops, &len, 1);
        assert_int_equal(rewind_init(&w, 1, 1, &e), 0);
        float *state = calloc(1, sizeof *state), *logits = calloc(1, sizeof *logits);
        uint64_t n_read = 0;
        size_t shown;
        assert_true(m && state && logits);
        if (run(m, &t, &w, &state, &logits, &n_read, &shown)) {
            const uint32_t *ids;
            uint64_t want = 0;
            size_t again = rewind_back(&w, &state, &logits, &n_read, &ids);
            for (size_t i = 0; i < again; i++) {
                assert_int_equal(ids[i], n_read); /* token i is the one after i read tokens */
                read_token(state, logits, &n_read);
            }
            while (want < TOKENS && t.ends[want + 1] <= shown)
                want++;
            assert_int_equal(n_read, want);
            assert_true(state[0] == (float)want);
            stopped++;
            replayed += again > 0;
        }
        free(state);
        free(logits);
        stop_free(m);
        rewind_fini(&w);
    }
    assert_true(stopped > 1000 && replayed > 50); /* the cases were met */
}

static void test_off(void **unused)
{
    (void)unused;
    struct rewind w = {0};
    struct err e;
    float x = 1, *state = &x, *logits = &x;
    uint64_t n_read = 5;
    const uint32_t *ids;
    assert_int_equal(rewind_note(&w, 1, 3, 0, 3, state, logits, n_read, &e), 0);
    assert_int_equal(rewind_back(&w, &state, &logits, &n_read, &ids), 0);
    assert_ptr_equal(state, &x);
    assert_int_equal(n_read, 5);
    rewind_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_off)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
