/* rwkv_score against tokens fed one at a time and a softmax in double, for sequences of lengths that
 * fill, share and leave its slots; and its refusals. */
#include "tests/lib/check.h"

#include "engine/rwkv/score.h"

#include <math.h>
#include <stdlib.h>

#define N_SEQS 21
#define LONGEST 300

struct fixture {
    struct pool *pool;
    struct rwkv_model *model;
};

static int setup(void **state)
{
    static struct fixture f;
    struct err e = {0};
    struct rwkv_options o = {.weights_type = -1};
    const char *path = golden_path("rwkv7-rand/rwkv7-rand-fp32.safetensors");
    f.pool = pool_new(2, "test", 0, &e);
    if (!path || !f.pool || rwkv_open(path, &o, f.pool, &f.model, &e) < 0) {
        printf("set-up: %s\n", e.msg);
        return -1;
    }
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    rwkv_close(f->model);
    pool_free(f->pool);
    return 0;
}

/* The oracle: bits of tokens[1..n-1], each token in a call of its own. */
static void score_slowly(struct fixture *f, const uint32_t *tokens, size_t n, double *bits)
{
    struct err e = {0};
    const struct rwkv_info *info = rwkv_get_info(f->model);
    struct rwkv_session *s = rwkv_session_new(f->model, f->pool, 1, &e);
    float *state = rwkv_state_new(info), *logits = calloc(info->n_vocab, sizeof *logits);
    assert_true(s && state && logits);
    for (size_t t = 0; t + 1 < n; t++) {
        struct rwkv_seq q = {.tokens = tokens + t, .n_tokens = 1, .state = state, .logits = logits};
        assert_int_equal(rwkv_eval(s, &q, 1, &e), 0);
        double sum = 0;
        for (size_t i = 0; i < info->n_vocab; i++)
            sum += exp((double)logits[i] - (double)logits[tokens[t + 1]]);
        bits[t] = log2(sum);
    }
    rwkv_session_free(s);
    free(state);
    free(logits);
}

static void test_against_single_steps(void **state)
{
    struct fixture *f = *state;
    static uint32_t tokens[N_SEQS][LONGEST];
    static float bits[N_SEQS][LONGEST];
    static double want[LONGEST];
    struct score_seq seqs[N_SEQS];
    struct err e = {0};
    size_t n_vocab = rwkv_get_info(f->model)->n_vocab;
    uint32_t x = 12345;
    for (size_t i = 0; i < N_SEQS; i++) {
        size_t n = i < 3 ? i : i * i * 7 % LONGEST + 1; /* none, one and two tokens too */
        for (size_t t = 0; t < n; t++)
            tokens[i][t] = (x = x * 1664525u + 1013904223u) / 65536 % (uint32_t)n_vocab;
        for (size_t t = 0; t < LONGEST; t++)
            bits[i][t] = -1;
        seqs[i] = (struct score_seq){.tokens = tokens[i], .n_tokens = n, .bits = bits[i]};
    }
    assert_int_equal(rwkv_score(f->model, f->pool, seqs, N_SEQS, &e), 0);
    for (size_t i = 0; i < N_SEQS; i++) {
        size_t n = seqs[i].n_tokens, scored = n ? n - 1 : 0;
        score_slowly(f, tokens[i], n, want);
        for (size_t t = 0; t < scored; t++)
            assert_true(fabs((double)bits[i][t] - want[t]) < 1e-4);
        assert_true(bits[i][scored] == -1.0f);
    }
}

static void test_refuses_foreign_tokens(void **state)
{
    struct fixture *f = *state;
    uint32_t tokens[3] = {1, 2, (uint32_t)rwkv_get_info(f->model)->n_vocab};
    float bits[2];
    struct score_seq last = {.tokens = tokens, .n_tokens = 3, .bits = bits},
                     first = {.tokens = tokens + 2, .n_tokens = 1, .bits = bits};
    struct err e = {0};
    assert_int_equal(rwkv_score(f->model, f->pool, &last, 1, &e), ERR_INVALID);
    assert_int_equal(rwkv_score(f->model, f->pool, &first, 1, &e), ERR_INVALID);
    tokens[1] = tokens[2];
    tokens[2] = 0;
    assert_int_equal(rwkv_score(f->model, f->pool, &last, 1, &e), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_single_steps),
        cmocka_unit_test(test_refuses_foreign_tokens),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
