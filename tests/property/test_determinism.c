/* The determinism rule: logits, final hidden states and states have the same bytes alone, in any batch, at
 * any thread count, split into calls and blocks in any way, for every weights type and CPU level, and
 * whether hidden states or logits are asked for beside each other or not. And beside it, what the
 * weights types cost: the error of their logits against F32 weights, printed. */
#include "tests/lib/model.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_SEQS = 32, LONGEST = 24 };

struct sequence {
    uint32_t tokens[LONGEST];
    size_t n, at; /* length; how many were fed */
    float *state, *logits; /* logits [n, V] */
    float *hidden;         /* [n, C] */
};

struct world {
    struct test_model t;
    struct sequence want[MAX_SEQS], got[MAX_SEQS];
};

static void sequences_new(struct world *w, struct sequence *s, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed, 0);
    for (size_t i = 0; i < MAX_SEQS; i++) {
        s[i].n = 1 + rng_below(&r, LONGEST);
        s[i].at = 0;
        for (size_t t = 0; t < s[i].n; t++)
            s[i].tokens[t] = (uint32_t)rng_below(&r, w->t.info->n_vocab);
        s[i].state = rwkv_state_new(w->t.info);
        s[i].logits = calloc(s[i].n * w->t.info->n_vocab, sizeof(float));
        s[i].hidden = calloc(s[i].n * w->t.info->n_embd, sizeof(float));
        assert_true(s[i].state && s[i].logits && s[i].hidden);
    }
}

static void sequences_free(struct sequence *s)
{
    for (size_t i = 0; i < MAX_SEQS; i++) {
        free(s[i].state);
        free(s[i].logits);
        free(s[i].hidden);
    }
}

static void open_world(struct world *w, int threads, int type, enum cpu_level level)
{
    test_model_open(&w->t, "rwkv7-rand/rwkv7-rand-fp32.safetensors", threads, type, level);
}

/* Each sequence alone: token by token for its logits, then at once for its hidden states. */
static void feed_alone(struct world *w, struct sequence *s, size_t n)
{
    struct err e = {0};
    for (size_t i = 0; i < n; i++) {
        test_feed(&w->t, s[i].tokens, s[i].n, 1, 1, s[i].state, s[i].logits);
        struct rwkv_session *session = rwkv_session_new(w->t.m, w->t.pool, 5, &e);
        float *state = rwkv_state_new(w->t.info);
        assert_true(session && state);
        struct rwkv_seq q = {.tokens = s[i].tokens, .n_tokens = s[i].n, .state = state,
                             .hidden = s[i].hidden};
        assert_int_equal(rwkv_eval(session, &q, 1, &e), 0);
        assert_memory_equal(state, s[i].state, rwkv_state_floats(w->t.info) * sizeof *state);
        free(state);
        rwkv_session_free(session);
    }
}

/* Rounds in which a random part of the unfinished sequences takes a random number of tokens, so that
 * they join and leave at random; blocks of random size. */
static void feed_together(struct world *w, struct sequence *s, struct rng *r, size_t most)
{
    struct err e = {0};
    size_t V = w->t.info->n_vocab, C = w->t.info->n_embd, left = most;
    while (left) {
        struct rwkv_session *session =
            rwkv_session_new(w->t.m, w->t.pool, 1 + rng_below(r, 80), &e);
        assert_non_null(session);
        for (int round = 0; round < 4; round++) {
            struct rwkv_seq q[MAX_SEQS];
            size_t n = 0, done[MAX_SEQS], of[MAX_SEQS];
            for (size_t i = 0; i < most; i++) {
                size_t rest = s[i].n - s[i].at;
                if (!rest || rng_below(r, 3) == 0)
                    continue;
                done[n] = rng_below(r, 2) ? 1 : 1 + rng_below(r, rest);
                of[n] = i;
                q[n] = (struct rwkv_seq){.tokens = s[i].tokens + s[i].at, .n_tokens = done[n],
                                         .state = s[i].state, .logits = s[i].logits + s[i].at * V,
                                         .all_logits = true,
                                         .hidden = i % 3 ? s[i].hidden + s[i].at * C : NULL};
                n++;
            }
            if (rwkv_eval(session, q, n, &e) < 0)
                fail_msg("%s", e.msg);
            for (size_t k = 0; k < n; k++) {
                s[of[k]].at += done[k];
                left -= s[of[k]].at == s[of[k]].n;
            }
        }
        rwkv_session_free(session);
    }
}

static void compare(const struct world *w, size_t n, const char *what)
{
    size_t V = w->t.info->n_vocab, C = w->t.info->n_embd;
    for (size_t i = 0; i < n; i++) {
        const struct sequence *a = &w->want[i], *b = &w->got[i];
        if (memcmp(a->logits, b->logits, a->n * V * sizeof(float)) != 0)
            fail_msg("%s: logits of sequence %zu differ by %.3g", what, i,
                     max_abs_diff(a->logits, b->logits, a->n * V));
        if (memcmp(a->state, b->state, rwkv_state_floats(w->t.info) * sizeof(float)) != 0)
            fail_msg("%s: state of sequence %zu differs", what, i);
        if (i % 3 && memcmp(a->hidden, b->hidden, a->n * C * sizeof(float)) != 0)
            fail_msg("%s: hidden states of sequence %zu differ", what, i);
    }
}

/* full: all sequences, 1 to 4 threads; else a few of them on 1 and 3. */
static void check_type(int type, enum cpu_level level, bool full)
{
    struct world *w = malloc(sizeof *w);
    struct rng r;
    assert_non_null(w);
    rng_init(&r, 77, (uint64_t)type);
    open_world(w, 1, type, level);
    sequences_new(w, w->want, 1);
    size_t all = full ? MAX_SEQS : 6;
    feed_alone(w, w->want, all);
    test_model_close(&w->t);
    for (int threads = 1; threads <= 4; threads += full ? 1 : 2) {
        char what[64];
        snprintf(what, sizeof what, "%s, %s, %d threads", dtype_name((enum dtype)type),
                 cpu_level_name(level), threads);
        open_world(w, threads, type, level);
        size_t most = threads == 1 ? all : 1 + rng_below(&r, all);
        sequences_new(w, w->got, 1);
        feed_together(w, w->got, &r, most);
        compare(w, most, what);
        sequences_free(w->got);
        test_model_close(&w->t);
    }
    sequences_free(w->want);
    free(w);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    for (size_t l = 0; test_level(l); l++)
        for (size_t t = 0; t < 5; t++)
            check_type((int)types[t], test_level(l), !test_level(l + 1));
}

/* rms of the difference over the standard deviation of the F32 logits, and the bound that the type's
 * rounding gives with a wide margin: a broken product would be near 1. */
static void test_error_of_types(void **state)
{
    (void)state;
    static const struct {
        enum dtype type;
        double most;
    } types[] = {{DTYPE_F16, 3e-3}, {DTYPE_BF16, 2e-2}, {DTYPE_Q8_0, 5e-2}, {DTYPE_Q4_0, 0.6}};
    struct world *w = malloc(sizeof *w);
    assert_non_null(w);
    open_world(w, 2, DTYPE_F32, CPU_AUTO);
    size_t V = w->t.info->n_vocab;
    sequences_new(w, w->want, 2);
    feed_alone(w, w->want, MAX_SEQS);
    test_model_close(&w->t);
    for (size_t k = 0; k < 4; k++) {
        open_world(w, 2, (int)types[k].type, CPU_AUTO);
        sequences_new(w, w->got, 2);
        feed_alone(w, w->got, MAX_SEQS);
        double sum = 0, sq = 0, diff = 0, n = 0;
        for (size_t i = 0; i < MAX_SEQS; i++)
            for (size_t j = 0; j < w->want[i].n * V; j++, n++) {
                double a = (double)w->want[i].logits[j], b = (double)w->got[i].logits[j];
                sum += a, sq += a * a, diff += (a - b) * (a - b);
            }
        double error = sqrt(diff / n) / sqrt(sq / n - sum * sum / n / n);
        printf("  %s weights: rms logit error %.2g of a standard deviation\n",
               dtype_name(types[k].type), error);
        assert_true(error > 0 && error < types[k].most);
        sequences_free(w->got);
        test_model_close(&w->t);
    }
    sequences_free(w->want);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_error_of_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
