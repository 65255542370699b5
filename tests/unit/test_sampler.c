/* The sampler's rules one by one, penalties against values computed by hand, log-probabilities. */
#include "engine/sampling/sampling.h"
#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>

static struct sampler *make(struct sampling_params p, size_t n_vocab)
{
    struct err e;
    struct sampler *s = sampler_new(&p, n_vocab, test_kern(), &e);
    if (!s)
        fail_msg("%s", e.msg);
    return s;
}

static struct sampling_params greedy(void)
{
    struct sampling_params p = SAMPLING_DEFAULT;
    p.temperature = 0;
    return p;
}

static void test_check(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        float bad[3];
        const char *name;
    } cases[] = {
        {offsetof(struct sampling_params, temperature), {-0.1f, INFINITY, NAN}, "temperature"},
        {offsetof(struct sampling_params, top_p), {-0.1f, 1.01f, NAN}, "top_p"},
        {offsetof(struct sampling_params, min_p), {-0.1f, 1.01f, NAN}, "min_p"},
        {offsetof(struct sampling_params, typical_p), {-0.1f, 1.01f, NAN}, "typical_p"},
        {offsetof(struct sampling_params, presence_penalty),
         {-101, INFINITY, NAN},
         "presence_penalty"},
        {offsetof(struct sampling_params, frequency_penalty),
         {101, -INFINITY, NAN},
         "frequency_penalty"},
        {offsetof(struct sampling_params, penalty_decay), {-0.1f, 1.01f, NAN}, "penalty_decay"},
        {offsetof(struct sampling_params, repeat_penalty), {0, -1, NAN}, "repeat_penalty"},
    };
    struct err e;
    struct sampling_params p = SAMPLING_DEFAULT;
    assert_int_equal(sampling_check(&p, &e), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t k = 0; k < 3; k++) {
            p = SAMPLING_DEFAULT;
            memcpy((char *)&p + cases[i].at, &cases[i].bad[k], sizeof(float));
            assert_int_equal(sampling_check(&p, &e), ERR_INVALID);
            assert_string_equal(e.param, cases[i].name);
            assert_null(sampler_new(&p, 10, test_kern(), &e));
        }
    p = SAMPLING_DEFAULT;
    assert_null(sampler_new(&p, 0, test_kern(), &e));
    assert_int_equal(e.code, ERR_INVALID);
}

static void test_greedy(void **state)
{
    (void)state;
    static const struct {
        float logits[4];
        uint32_t want;
    } cases[] = {
        {{0, 1, 3, 2}, 2},
        {{5, 1, 5, 5}, 0}, /* ties: the lowest id */
        {{-2, -1, -1, -9}, 1},
        {{NAN, -1, NAN, 0}, 3},
        {{NAN, NAN, NAN, NAN}, 0},
        {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, 0},
        {{1, INFINITY, 2, INFINITY}, 1},
        {{-INFINITY, -1e38f, 0, -1}, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sampler *s = make(greedy(), 4);
        float before[4];
        memcpy(before, cases[i].logits, sizeof before);
        assert_int_equal(sampler_pick(s, cases[i].logits), cases[i].want);
        assert_memory_equal(before, cases[i].logits, sizeof before);
        sampler_free(s);
    }
    sampler_free(NULL);
}

/* Whatever the parameters, odd logits give an id of the vocabulary, and never an impossible one. */
static void test_odd_logits(void **state)
{
    (void)state;
    struct sampling_params all = SAMPLING_DEFAULT;
    all.temperature = 0.7f;
    all.top_k = 3;
    all.top_p = 0.9f;
    all.min_p = 0.01f;
    all.typical_p = 0.9f;
    const struct sampling_params params[] = {SAMPLING_DEFAULT, all, greedy()};
    const float logits[][4] = {
        {NAN, 1, -INFINITY, NAN},
        {NAN, 3e38f, -3e38f, -INFINITY},
        {-INFINITY, INFINITY, 1e30f, NAN},
        {-INFINITY, 0, -INFINITY, -200},
    };
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 4; k++) {
            struct sampler *s = make(params[i], 4);
            for (int t = 0; t < 50; t++) {
                assert_int_equal(sampler_pick(s, logits[k]), 1);
                sampler_accept(s, 1);
            }
            sampler_free(s);
        }
}

/* Two tokens, the second behind by `gap`: which one greedy takes tells on which side of gap the
 * penalty on the first, sampled `times` times, is. */
static void check_penalty(struct sampling_params p, const uint32_t *history, size_t n, float logit,
                          float want)
{
    for (int side = -1; side <= 1; side += 2) {
        struct sampler *s = make(p, 3);
        for (size_t i = 0; i < n; i++)
            sampler_accept(s, history[i]);
        const float logits[3] = {logit, want + (float)side * 1e-3f, -1000};
        assert_int_equal(sampler_pick(s, logits), side < 0 ? 0 : 1);
        sampler_free(s);
    }
}

static void test_penalties(void **state)
{
    (void)state;
    const uint32_t once[] = {0}, thrice[] = {0, 0, 0}, apart[] = {0, 2, 0, 2}, other[] = {2, 2};
    struct sampling_params p = greedy();
    p.presence_penalty = 0.5f;
    check_penalty(p, once, 1, 2, 1.5f);
    check_penalty(p, thrice, 3, 2, 1.5f);
    check_penalty(p, other, 2, 2, 2);
    p.frequency_penalty = 0.25f;
    check_penalty(p, once, 1, 2, 1.25f);
    check_penalty(p, thrice, 3, 2, 0.75f);
    p.frequency_penalty = -0.25f;
    check_penalty(p, thrice, 3, 2, 2.25f);

    p = greedy();
    p.frequency_penalty = 1;
    p.penalty_decay = 0.5f;
    check_penalty(p, once, 1, 4, 3);
    check_penalty(p, thrice, 3, 4, 4 - 1.75f); /* 1 + 1/2 + 1/4 */
    check_penalty(p, apart, 4, 4, 4 - 0.625f); /* 1/8 + 1/2 */
    p.penalty_decay = 0;
    check_penalty(p, apart, 4, 4, 4);
    check_penalty(p, thrice, 3, 4, 3);

    p = greedy();
    p.repeat_penalty = 1.25f;
    check_penalty(p, thrice, 3, 2, 1.6f);
    check_penalty(p, once, 1, -2, -2.5f);
    p.presence_penalty = 1; /* after the repeat penalty */
    check_penalty(p, once, 1, 2, 0.6f);
}

static void test_bias(void **state)
{
    (void)state;
    const float logits[4] = {4, 3, 2, 1};
    const struct logit_bias up[] = {{2, 1.5f}, {3, 3.5f}}, ban[] = {{0, -INFINITY}, {1, -100}};
    struct sampler *s = make(greedy(), 4);
    struct err e;
    assert_int_equal(sampler_set_bias(s, up, 2, &e), 0);
    assert_int_equal(sampler_pick(s, logits), 3);
    assert_int_equal(sampler_set_bias(s, ban, 2, &e), 0);
    assert_int_equal(sampler_pick(s, logits), 2);
    const struct logit_bias bad[] = {{4, 0}, {0, NAN}, {0, INFINITY}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sampler_set_bias(s, &bad[i], 1, &e), ERR_INVALID);
        assert_string_equal(e.param, "logit_bias");
    }
    assert_int_equal(sampler_pick(s, logits), 2); /* a refused bias changes nothing */
    assert_int_equal(sampler_set_bias(s, NULL, 0, &e), 0);
    assert_int_equal(sampler_pick(s, logits), 0);
    sampler_free(s);
}

/* Which of the five ids are ever picked, as bits. */
static unsigned picked(struct sampling_params p, const float *logits)
{
    struct sampler *s = make(p, 5);
    unsigned set = 0;
    for (int i = 0; i < 3000; i++) {
        uint32_t id = sampler_pick(s, logits);
        assert_true(id < 5);
        set |= 1u << id;
        sampler_accept(s, id);
    }
    sampler_free(s);
    return set;
}

static void test_filters(void **state)
{
    (void)state;
    /* probabilities .1 .4 .2 .05 .25 */
    float logits[5];
    const float prob[5] = {0.1f, 0.4f, 0.2f, 0.05f, 0.25f}, even[5] = {0};
    for (int i = 0; i < 5; i++)
        logits[i] = logf(prob[i]);
    struct sampling_params p = SAMPLING_DEFAULT;
    assert_int_equal(picked(p, logits), 0x1F);
    p.top_k = 1;
    assert_int_equal(picked(p, logits), 0x02);
    p.top_k = 3;
    assert_int_equal(picked(p, logits), 0x16);
    p.top_k = 100;
    assert_int_equal(picked(p, logits), 0x1F);
    p.top_k = 2;
    assert_int_equal(picked(p, even), 0x03); /* ties: the lowest ids */
    p.top_k = 0;
    p.top_p = 0;
    assert_int_equal(picked(p, logits), 0x02);
    p.top_p = 0.39f;
    assert_int_equal(picked(p, logits), 0x02);
    p.top_p = 0.5f;
    assert_int_equal(picked(p, logits), 0x12);
    p.top_p = 0.84f;
    assert_int_equal(picked(p, logits), 0x16);
    p.top_p = 0.5f;
    assert_int_equal(picked(p, even), 0x07);
    p.top_p = 0.5f; /* of what top-k leaves: .4 / .65 is enough */
    p.top_k = 2;
    assert_int_equal(picked(p, logits), 0x02);
    p = SAMPLING_DEFAULT;
    p.min_p = 0.3f; /* of .4: at least .12 */
    assert_int_equal(picked(p, logits), 0x16);
    p.min_p = 1;
    assert_int_equal(picked(p, logits), 0x02);
    p.min_p = 0.3f;
    p.temperature = 2; /* square roots of the ratios: .5 for .1, .35 for .05 */
    assert_int_equal(picked(p, logits), 0x1F);
}

static void test_typical(void **state)
{
    (void)state;
    /* H of .1 .4 .2 .05 .25 is 1.415 nats; |-log p - H|: .887 .499 .194 1.58 .029, so the order is
     * 4 2 1 0 3 */
    float logits[5];
    const float prob[5] = {0.1f, 0.4f, 0.2f, 0.05f, 0.25f}, even[5] = {0};
    for (int i = 0; i < 5; i++)
        logits[i] = logf(prob[i]);
    static const struct {
        float typical_p;
        unsigned want;
    } cases[] = {{0, 0x10}, {0.24f, 0x10}, {0.26f, 0x14}, {0.46f, 0x16}, {0.86f, 0x17}, {1, 0x1F}};
    struct sampling_params p = SAMPLING_DEFAULT;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        p.typical_p = cases[i].typical_p;
        assert_int_equal(picked(p, logits), cases[i].want);
    }
    p.typical_p = 0.5f;
    assert_int_equal(picked(p, even), 0x07); /* ties: the lowest ids */
    p.typical_p = 0.3f; /* leaves 4 and 2; then .5 of that is 4 alone */
    p.top_p = 0.5f;
    assert_int_equal(picked(p, logits), 0x10);
    p.top_p = 1;
    p.min_p = 0.9f; /* of .25, not of .4 */
    assert_int_equal(picked(p, logits), 0x10);
    p.min_p = 0.7f;
    assert_int_equal(picked(p, logits), 0x14);
}

static void test_allowed(void **state)
{
    (void)state;
    enum { N = 130 };
    float logits[N];
    const uint64_t allowed[3] = {1u << 5, 1u << 3, 1u << 1}, none[3] = {0}; /* 5 67 129 */
    for (int i = 0; i < N; i++)
        logits[i] = (float)(i % 3) / 4 + (i % 64 == 9 ? 9 : 0);
    struct sampling_params p = SAMPLING_DEFAULT;
    p.top_k = 3; /* of the allowed ones: the mask comes first */
    struct sampler *s = make(p, N);
    unsigned seen = 0;
    for (int i = 0; i < 4000; i++) {
        uint32_t id = sampler_pick_allowed(s, logits, allowed);
        assert_true(id == 5 || id == 67 || id == 129);
        seen |= 1u << id / 64;
        sampler_accept(s, id);
    }
    assert_int_equal(seen, 7);
    for (int i = 0; i < N; i++)
        logits[i] = i == 70 ? 1 : -INFINITY;
    assert_int_equal(sampler_pick(s, logits), 70);
    assert_int_equal(sampler_pick_allowed(s, logits, allowed), 5);
    assert_int_equal(sampler_pick_allowed(s, logits, none), 0);
    sampler_free(s);
}

static void sequence(uint64_t seed, int skip, uint32_t *ids, size_t n)
{
    struct sampling_params p = SAMPLING_DEFAULT;
    p.seed = seed;
    struct sampler *s = make(p, 1000);
    float logits[1000] = {0};
    for (int i = 0; i < skip; i++)
        sampler_accept(s, 7);
    for (size_t i = 0; i < n; i++) {
        ids[i] = sampler_pick(s, logits);
        assert_int_equal(sampler_pick(s, logits), ids[i]); /* a pick alone draws nothing new */
        sampler_accept(s, ids[i]);
    }
    sampler_free(s);
}

static void test_seed(void **state)
{
    (void)state;
    uint32_t a[40], b[40], c[40], tail[20];
    sequence(1, 0, a, 40);
    sequence(1, 0, b, 40);
    sequence(2, 0, c, 40);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    sequence(1, 20, tail, 20); /* the draw depends on the position, not on what came before */
    assert_memory_equal(a + 20, tail, sizeof tail);
}

static void test_logprobs(void **state)
{
    (void)state;
    /* log of .1 .4 .2 .05 .25, shifted by a constant that softmax removes */
    const float prob[5] = {0.1f, 0.4f, 0.2f, 0.05f, 0.25f};
    float logits[5];
    struct token_logprob top[5];
    const uint32_t order[5] = {1, 4, 2, 0, 3};
    for (int i = 0; i < 5; i++)
        logits[i] = logf(prob[i]) + 17;
    for (size_t n = 0; n <= 5; n++) {
        float lp = logprobs_of(logits, 5, 3, top, n);
        assert_true(fabsf(lp - logf(0.05f)) < 1e-5f);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(top[i].id, order[i]);
            assert_true(fabsf(top[i].logprob - logf(prob[order[i]])) < 1e-5f);
        }
    }
    const float odd[5] = {NAN, 2, -INFINITY, 2, 2};
    assert_true(fabsf(logprobs_of(odd, 5, 1, top, 5) - logf(1 / 3.0f)) < 1e-6f);
    assert_int_equal(top[0].id, 1); /* ties: the lowest id first */
    assert_int_equal(top[1].id, 3);
    assert_int_equal(top[2].id, 4);
    assert_true(top[3].logprob == -9999 && top[4].logprob == -9999);
    assert_true(logprobs_of(odd, 5, 0, NULL, 0) == -9999);
    const float none[2] = {NAN, -INFINITY}, huge[2] = {INFINITY, 0};
    assert_true(logprobs_of(none, 2, 0, top, 2) == -9999);
    assert_true(logprobs_of(huge, 2, 0, top, 2) == 0);
    assert_true(top[1].logprob == -9999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),      cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_odd_logits), cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_bias),       cmocka_unit_test(test_filters),
        cmocka_unit_test(test_seed),       cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_typical),    cmocka_unit_test(test_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
