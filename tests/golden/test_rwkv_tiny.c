/* rwkv7-tiny (third-party, in ../shared): logits after each token, the state after the prompt and 100
 * greedy tokens, at every CPU level. Its README explains why 1e-5 and the long prompt are needed. */
#include "tests/lib/model.h"

#include <stdlib.h>

#define TOL 1e-5

struct run {
    struct test_model t;
    struct tensor_file *g;
    const char *prompt;
    uint32_t *tokens;
    size_t n;
};

static float *golden_of(const struct run *r, const char *what, size_t count)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", r->prompt, what);
    return golden_f32(r->g, name, count);
}

static void check_greedy(const struct run *r, float *state, const float *logits)
{
    size_t n, V = r->t.info->n_vocab;
    char name[64];
    snprintf(name, sizeof name, "%s.greedy_tokens", r->prompt);
    uint32_t *want = golden_tokens(r->g, name, &n);
    float *want_logits = golden_of(r, "greedy_logits", n * V), now[256];
    memcpy(now, logits + (r->n - 1) * V, sizeof now);
    for (size_t i = 0; i < n; i++) {
        check_close("greedy logits", now, want_logits + i * V, V, TOL);
        uint32_t best = 0;
        for (uint32_t j = 1; j < V; j++)
            best = now[j] > now[best] ? j : best;
        assert_int_equal(best, want[i]);
        test_feed(&r->t, &best, 1, 1, 1, state, now);
    }
    free(want), free(want_logits);
}

static void check_prompt(const char *file, const char *prompt, enum cpu_level level)
{
    struct run r = {.prompt = prompt};
    char name[64];
    r.g = golden_open("rwkv7-tiny/golden.safetensors");
    test_model_open(&r.t, file, 2, -1, level);
    size_t V = r.t.info->n_vocab;
    assert_int_equal(V, 256);
    snprintf(name, sizeof name, "%s.tokens", prompt);
    r.tokens = golden_tokens(r.g, name, &r.n);
    float *want = golden_of(&r, "logits", r.n * V), *state = rwkv_state_new(r.t.info);
    float *logits = malloc(r.n * V * sizeof *logits);
    snprintf(name, sizeof name, "%s.%%s", prompt);
    float *want_state = golden_state(r.g, name, r.t.info);
    assert_true(state && logits);

    test_feed(&r.t, r.tokens, r.n, 32, 32, state, logits);
    check_close("logits", logits, want, r.n * V, TOL);
    check_close("state", state, want_state, rwkv_state_floats(r.t.info), TOL);
    printf("  %s, %s, %s: logits off by %.2g\n", file, prompt, cpu_level_name(level),
           max_abs_diff(logits, want, r.n * V));
    check_greedy(&r, state, logits);

    free(want), free(want_state), free(state), free(logits), free(r.tokens);
    test_model_close(&r.t);
    tensor_file_close(r.g);
}

static void test_prompt(void **state)
{
    (void)state;
    for (size_t l = 0; test_level(l); l++)
        check_prompt("rwkv7-tiny/rwkv7-tiny.safetensors", "prompt", test_level(l));
}
static void test_long(void **state)
{
    (void)state;
    for (size_t l = 0; test_level(l); l++)
        check_prompt("rwkv7-tiny/rwkv7-tiny.safetensors", "long", test_level(l));
}
static void test_pth(void **state)
{
    (void)state;
    check_prompt("rwkv7-tiny/rwkv7-tiny.pth", "long", CPU_AUTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_pth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
