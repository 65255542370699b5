/* daemon/state_cache.h: gives back what was put, forgets the least recently used, keeps its limit. */
#include "daemon/state_cache.h"

#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <pthread.h>
#include <stdlib.h>

enum { L = 2, C = 8, N = 4, V = 11, STATE = L * (2 * C + C * N) };

static struct rwkv_info small_info(void)
{
    struct rwkv_info i = {.n_layer = L, .n_embd = C, .head_size = N, .n_head = C / N, .n_vocab = V};
    memset(i.fingerprint, 'f', 64);
    return i;
}

static void name(char sha256[65], unsigned k)
{
    snprintf(sha256, 65, "%08x%056x", k * 2654435761u, k);
}

static void put(struct state_cache *c, unsigned k, bool with_logits)
{
    struct rwkv_info i = small_info();
    float state[STATE], logits[V];
    char sha256[65];
    name(sha256, k);
    for (size_t n = 0; n < STATE; n++)
        state[n] = (float)k + (float)n;
    for (size_t n = 0; n < V; n++)
        logits[n] = (float)k - (float)n;
    state_cache_put(c, sha256, &i,
                    &(struct cached_state){
                        .state = state, .logits = with_logits ? logits : NULL, .n_tokens = k});
}

/* Is it there, and whole? */
static bool has(struct state_cache *c, unsigned k, bool with_logits)
{
    struct rwkv_info i = small_info();
    float state[STATE], logits[V] = {0};
    struct cached_state s = {.state = state, .logits = logits};
    char sha256[65];
    name(sha256, k);
    if (!state_cache_get(c, sha256, &i, &s))
        return false;
    for (size_t n = 0; n < STATE; n++)
        assert_true(state[n] == (float)k + (float)n);
    for (size_t n = 0; n < V; n++)
        assert_true(logits[n] == (with_logits ? (float)k - (float)n : 0));
    assert_int_equal(s.has_logits, with_logits);
    assert_int_equal(s.n_tokens, k);
    return true;
}

static void test_put_get(void **unused)
{
    (void)unused;
    struct state_cache *c = state_cache_new(1 << 20);
    struct state_cache_stats st;
    assert_false(has(c, 1, true));
    put(c, 1, true);
    put(c, 2, false);
    put(c, 2, false);
    assert_true(has(c, 1, true));
    assert_true(has(c, 2, false));
    struct rwkv_info other = small_info();
    float state[STATE], logits[V];
    char sha256[65];
    other.fingerprint[5] = '0';
    name(sha256, 1);
    assert_false(state_cache_get(c, sha256, &other,
                                 &(struct cached_state){.state = state, .logits = logits}));
    state_cache_get_stats(c, &st);
    assert_int_equal(st.hits, 2);
    assert_int_equal(st.misses, 2);
    assert_int_equal(st.entries, 2);
    assert_int_equal(st.evicted, 0);
    assert_true(st.bytes >= (2 * STATE + V) * sizeof(float) && st.bytes < 4096);
    state_cache_free(c);
}

static void test_least_recently_used(void **unused)
{
    (void)unused;
    struct state_cache *c = state_cache_new(1 << 20);
    struct state_cache_stats st;
    put(c, 0, true);
    state_cache_get_stats(c, &st);
    size_t one = st.bytes;
    state_cache_free(c);
    c = state_cache_new(4 * one + one / 2);
    for (unsigned k = 0; k < 4; k++)
        put(c, k, true);
    assert_true(has(c, 0, true)); /* so 1 is the oldest */
    put(c, 4, true);
    assert_false(has(c, 1, true));
    put(c, 2, true); /* is there: 3 is the oldest now */
    put(c, 5, true);
    assert_false(has(c, 3, true));
    assert_true(has(c, 0, true) && has(c, 2, true) && has(c, 4, true) && has(c, 5, true));
    for (unsigned k = 100; k < 3000; k++) {
        put(c, k, k % 2);
        state_cache_get_stats(c, &st);
        assert_true(st.bytes <= st.limit && st.entries <= 5);
        assert_true(has(c, k, k % 2));
    }
    state_cache_free(c);
    c = state_cache_new(one - 1); /* too small for any */
    put(c, 1, true);
    assert_false(has(c, 1, true));
    state_cache_free(c);
}

static void *work(void *arg)
{
    struct state_cache *c = arg;
    for (unsigned k = 0; k < 3000; k++) {
        put(c, k * 7 % 40, true);
        has(c, k * 11 % 40, true);
    }
    return NULL;
}

static void test_threads(void **unused)
{
    (void)unused;
    struct state_cache *c = state_cache_new(8 * STATE * sizeof(float));
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, work, c), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    state_cache_free(c);
}

static int use(void *arg)
{
    (void)arg;
    struct state_cache *c = state_cache_new(1 << 20);
    if (!c)
        return ERR_NOMEM;
    put(c, 1, true);
    int rc = has(c, 1, true) ? 0 : ERR_NOMEM;
    state_cache_free(c);
    return rc;
}

static void test_no_memory(void **unused)
{
    (void)unused;
    alloc_sweep(use, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get),
        cmocka_unit_test(test_least_recently_used),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
