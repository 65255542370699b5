/* Sequences with vectors of their own: the model's own numbers give the model's own bytes, others are
 * what training computes with them, and a batch of different ones is each of them alone. */
#include "tests/lib/model.h"

#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/grad.h"
#include "engine/tensor/tensor.h"

#include <math.h>
#include <stdlib.h>

#define FP32 "rwkv7-rand/rwkv7-rand-fp32.safetensors"

enum { N = 5, T = 19 };

struct sequence {
    uint32_t tokens[T];
    float *theta, *state, *logits; /* logits [T, V] */
};

static void draw(const struct test_model *t, struct sequence *s)
{
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (size_t i = 0; i < N; i++) {
        const size_t n = rwkv_theta_floats(t->info);
        for (size_t k = 0; k < T; k++)
            s[i].tokens[k] = (uint32_t)rng_below(&rng, t->info->n_vocab);
        s[i].theta = calloc(n, sizeof(float));
        s[i].state = rwkv_state_new(t->info);
        s[i].logits = calloc(T * t->info->n_vocab, sizeof(float));
        assert_true(s[i].theta && s[i].state && s[i].logits);
        rwkv_get_theta(t->m, s[i].theta);
        for (size_t k = 0; i > 1 && k < n; k++) /* 0 and 1: the model's own */
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
                                         .logits = s[k].logits + at * V,
                                         .all_logits = true};
        if (rwkv_eval(session, q, j - i, &e) < 0)
            fail_msg("%s", e.msg);
    }
    rwkv_session_free(session);
}

static void test_batches(void **state)
{
    (void)state;
    static const int types[] = {DTYPE_F32, DTYPE_Q8_0};
    for (size_t l = 0, v = 0; test_level(l); l += v, v ^= 1) {
        struct test_model t;
        struct sequence a[N], b[N];
        test_model_open(&t, FP32, 1 + (int)v, types[v], test_level(l));
        const size_t n = T * t.info->n_vocab * sizeof(float);
        draw(&t, a);
        draw(&t, b);
        for (size_t i = 0; i < N; i++)
            feed(&t, a, i, i + 1, T);
        feed(&t, b, 0, N, 1 + 6 * v);
        for (size_t i = 0; i < N; i++) {
            assert_memory_equal(a[i].logits, b[i].logits, n);
            assert_memory_equal(a[i].state, b[i].state, rwkv_state_floats(t.info) * sizeof(float));
        }
        /* the model's own vectors, given: the same bytes as not given */
        memcpy(b[1].tokens, b[0].tokens, sizeof b[0].tokens);
        memset(b[1].state, 0, rwkv_state_floats(t.info) * sizeof(float));
        feed(&t, b, 1, 2, T);
        assert_memory_equal(b[1].logits, a[0].logits, n);
        assert_true(memcmp(a[2].logits, a[3].logits, n) != 0);
        sequences_free(a);
        sequences_free(b);
        test_model_close(&t);
    }
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
    const size_t V = shape.n_vocab, n = rwkv_layout_theta(&l);
    float *flat = calloc(l.count, sizeof *flat), *theta = calloc(n, sizeof *theta);
    double *p = calloc(l.count, sizeof *p), *th = calloc(n, sizeof *th);
    double *logits = calloc(T * V, sizeof *logits), weight[T] = {0};
    assert_int_equal(rwkv_params_read(&l, flat, f, &e), 0);
    for (size_t i = 0; i < l.count; i++)
        p[i] = (double)flat[i];
    rwkv_params_theta(&l, flat, theta);
    assert_int_equal(n, rwkv_theta_floats(t.info));
    assert_memory_equal(theta, s[1].theta, n * sizeof *theta);
    struct rwkv_work_f64 *w = rwkv_work_new_f64(&l, &nn_f64, T);
    assert_non_null(w);
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < n; k++)
            th[k] = (double)s[i].theta[k];
        rwkv_work_set_theta_f64(w, th, NULL);
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
        cmocka_unit_test(test_like_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
