/* Sequences with vectors of their own, some of them with low-rank additions: the model's own numbers give
 * the model's own bytes, others are what training computes with them, and a batch of different ones is each
 * of them alone. */
#include "tests/lib/model.h"

#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/grad.h"
#include "engine/rwkv/score.h"
#include "engine/tensor/tensor.h"

#include <math.h>
#include <stdlib.h>

#define FP32 "rwkv7-rand/rwkv7-rand-fp32.safetensors"

/* The model's own vectors for 0 (not given), 1 and 2 (given), others behind them. */
enum { N = 8, T = 19, OWN = 3 };
static const size_t ranks[N] = {0, 0, 3, 0, 1, 0, RWKV_MAX_RANK, 2};

struct sequence {
    uint32_t tokens[T];
    float *theta, *state, *logits; /* logits [T, V] */
};

static void draw(const struct test_model *t, struct sequence *s)
{
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (size_t i = 0; i < N; i++) {
        const size_t n = rwkv_theta_floats(t->info, ranks[i]);
        for (size_t k = 0; k < T; k++)
            s[i].tokens[k] = (uint32_t)rng_below(&rng, t->info->n_vocab);
        s[i].theta = calloc(n, sizeof(float));
        s[i].state = rwkv_state_new(t->info);
        s[i].logits = calloc(T * t->info->n_vocab, sizeof(float));
        assert_true(s[i].theta && s[i].state && s[i].logits);
        rwkv_get_theta(t->m, ranks[i], s[i].theta);
        for (size_t k = 0; i >= OWN && k < n; k++)
            s[i].theta[k] += 0.2f * (float)rng_normal(&rng);
    }
}

static void sequences_free(struct sequence *s)
{
    for (size_t i = 0; i < N; i++) {
        free(s[i].theta);
        free(s[i].state);
        free(s[i].logits);
    }
}

/* Feeds sequences i..j together, `chunk` tokens a call. */
static void feed(const struct test_model *t, struct sequence *s, size_t i, size_t j, size_t chunk)
{
    struct err e = {0};
    const size_t V = t->info->n_vocab;
    struct rwkv_session *session = rwkv_session_new(t->m, t->pool, 17, &e);
    assert_non_null(session);
    for (size_t at = 0; at < T; at += chunk) {
        struct rwkv_seq q[N];
        for (size_t k = i; k < j; k++)
            q[k - i] = (struct rwkv_seq){.tokens = s[k].tokens + at,
                                         .n_tokens = T - at < chunk ? T - at : chunk,
                                         .state = s[k].state,
                                         .theta = k ? s[k].theta : NULL,
                                         .rank = ranks[k],
                                         .logits = s[k].logits + at * V,
                                         .all_logits = true};
        if (rwkv_eval(session, q, j - i, &e) < 0)
            fail_msg("%s", e.msg);
    }
    rwkv_session_free(session);
}

static void check_batches(enum cpu_level level, int type, size_t turn)
{
    struct test_model t;
    struct sequence a[N], b[N];
    test_model_open(&t, FP32, 1 + (int)(turn % 3), type, level);
    const size_t n = T * t.info->n_vocab * sizeof(float);
    const size_t n_state = rwkv_state_floats(t.info) * sizeof(float);
    draw(&t, a);
    draw(&t, b);
    for (size_t i = 0; i < N; i++)
        feed(&t, a, i, i + 1, T);
    feed(&t, b, 0, N, 1 + 6 * (turn % 2));
    for (size_t i = 0; i < N; i++) {
        assert_memory_equal(a[i].logits, b[i].logits, n);
        assert_memory_equal(a[i].state, b[i].state, n_state);
    }
    /* the model's own vectors, given: the same bytes as not given */
    for (size_t i = 1; i < OWN; i++) {
        memcpy(b[i].tokens, b[0].tokens, sizeof b[0].tokens);
        memset(b[i].state, 0, n_state);
        feed(&t, b, i, i + 1, T);
        assert_memory_equal(b[i].logits, a[0].logits, n);
        assert_memory_equal(b[i].state, a[0].state, n_state);
    }
    for (size_t i = OWN; i < N; i++) { /* others: others */
        memcpy(b[i].tokens, b[0].tokens, sizeof b[0].tokens);
        memset(b[i].state, 0, n_state);
        feed(&t, b, i, i + 1, T);
        assert_true(memcmp(b[i].logits, a[0].logits, n) != 0);
    }
    sequences_free(a);
    sequences_free(b);
    test_model_close(&t);
}

static void test_batches(void **state)
{
    (void)state;
    static const int types[] = {DTYPE_F32, DTYPE_Q8_0, DTYPE_BF16, DTYPE_Q4_0};
    size_t turn = 0;
    for (size_t l = 0; test_level(l); l++)
        for (size_t v = 0; v < sizeof types / sizeof *types; v++)
            check_batches(test_level(l), types[v], turn++);
}

/* Scores are those of the logits. */
static void test_scored(void **state)
{
    (void)state;
    struct test_model t;
    struct sequence s[N];
    struct err e = {0};
    test_model_open(&t, FP32, 2, DTYPE_F32, CPU_AUTO);
    draw(&t, s);
    feed(&t, s, 0, N, T);
    const size_t V = t.info->n_vocab;
    struct score_seq q[N];
    float bits[N][T - 1];
    for (size_t i = 0; i < N; i++)
        q[i] = (struct score_seq){s[i].tokens, T, bits[i], NULL, i ? s[i].theta : NULL, ranks[i]};
    assert_int_equal(rwkv_score(t.m, t.pool, q, N, &e), 0);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < T - 1; k++) {
            const float *logits = s[i].logits + k * V;
            double sum = 0;
            for (size_t v = 0; v < V; v++)
                sum += exp((double)logits[v]);
            const double want = (log(sum) - (double)logits[s[i].tokens[k + 1]]) / log(2);
            assert_true(fabs((double)bits[i][k] - want) < 1e-4 * (1 + want));
        }
    sequences_free(s);
    test_model_close(&t);
}

/* Ranks that are none. */
static void test_rank(void **state)
{
    (void)state;
    struct test_model t;
    struct sequence s[N];
    struct err e = {0};
    test_model_open(&t, FP32, 1, DTYPE_F32, CPU_AUTO);
    draw(&t, s);
    struct rwkv_session *session = rwkv_session_new(t.m, t.pool, 17, &e);
    struct rwkv_seq q = {.tokens = s[0].tokens,
                         .n_tokens = T,
                         .state = s[0].state,
                         .theta = s[1].theta,
                         .rank = RWKV_MAX_RANK + 1};
    assert_int_equal(rwkv_eval(session, &q, 1, &e), ERR_INVALID);
    q.rank = SIZE_MAX;
    assert_int_equal(rwkv_eval(session, &q, 1, &e), ERR_INVALID);
    for (size_t i = 0; i < rwkv_state_floats(t.info); i++)
        assert_true(s[0].state[i] == 0);
    rwkv_session_free(session);
    sequences_free(s);
    test_model_close(&t);
}

/* The trainer's forward in double with the same vectors. */
static void test_like_training(void **state)
{
    (void)state;
    struct test_model t;
    struct sequence s[N];
    struct rwkv_shape shape;
    struct rwkv_layout l;
    struct err e = {0};
    gemm_setup();
    test_model_open(&t, FP32, 1, DTYPE_F32, CPU_AUTO);
    draw(&t, s);
    feed(&t, s, 0, N, T);
    const struct tensor_file *f = rwkv_get_file(t.m);
    assert_int_equal(rwkv_shape_read(&shape, f, &e), 0);
    assert_int_equal(rwkv_layout_init(&l, &shape, &e), 0);
    const size_t V = shape.n_vocab, n = rwkv_layout_theta(&l, RWKV_MAX_RANK);
    float *flat = calloc(l.count, sizeof *flat), *theta = calloc(n, sizeof *theta);
    double *p = calloc(l.count, sizeof *p), *th = calloc(n, sizeof *th);
    double *logits = calloc(T * V, sizeof *logits), weight[T] = {0};
    assert_int_equal(rwkv_params_read(&l, flat, f, &e), 0);
    for (size_t i = 0; i < l.count; i++)
        p[i] = (double)flat[i];
    for (size_t i = 1; i < OWN; i++) {
        rwkv_params_theta(&l, flat, ranks[i], theta);
        assert_int_equal(rwkv_layout_theta(&l, ranks[i]), rwkv_theta_floats(t.info, ranks[i]));
        assert_memory_equal(theta, s[i].theta, rwkv_theta_floats(t.info, ranks[i]) * sizeof *theta);
    }
    struct rwkv_work_f64 *w = rwkv_work_new_f64(&l, &nn_f64, T);
    assert_non_null(w);
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < rwkv_layout_theta(&l, ranks[i]); k++)
            th[k] = (double)s[i].theta[k];
        rwkv_work_set_theta_f64(w, ranks[i], th, NULL);
        rwkv_forward_f64(w, p, s[i].tokens, s[i].tokens, weight, T, NULL, NULL, logits);
        for (size_t k = 0; k < T * V; k++)
            if (!(fabs(logits[k] - (double)s[i].logits[k]) <= 1e-4 * (1 + fabs(logits[k]))))
                fail_msg("sequence %zu: logit %zu is %g, training says %g", i, k,
                         (double)s[i].logits[k], logits[k]);
    }
    rwkv_work_free_f64(w);
    rwkv_layout_fini(&l);
    free(flat), free(theta), free(p), free(th), free(logits);
    sequences_free(s);
    test_model_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_scored),
        cmocka_unit_test(test_rank),
        cmocka_unit_test(test_like_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
