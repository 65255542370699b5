/* rwkv7-rand: logits after each token and the final state, from a zero and from a given state, in
 * every file format and at every CPU level, against float64 arithmetic on the same weights. */
#include "tests/lib/model.h"

#include <math.h>
#include <stdlib.h>

#define LOGITS_TOL 5e-5 /* the data's README: for F32 code */
#define STATE_TOL  2e-5

static void check_run(const char *file, const char *weights, bool given, int weights_type,
                      enum cpu_level level)
{
    struct test_model t;
    test_model_open(&t, file, 2, weights_type, level); /* first: skips where the file is absent */
    struct tensor_file *g = golden_open("rwkv7-rand/golden.safetensors");
    size_t n, V = t.info->n_vocab;
    uint32_t *tokens = golden_tokens(g, "tokens", &n);
    char name[64], what[128];
    snprintf(name, sizeof name, "%s.%s.logits", weights, given ? "given" : "zero");
    float *want = golden_f32(g, name, n * V);
    snprintf(name, sizeof name, "%s.%s.final.%%s", weights, given ? "given" : "zero");
    float *want_state = golden_state(g, name, t.info);
    float *state = given ? golden_state(g, "init_state.%s", t.info) : rwkv_state_new(t.info);
    float *logits = malloc(n * V * sizeof *logits);
    assert_true(state && logits);

    test_feed(&t, tokens, n, 7, 16, state, logits);
    snprintf(what, sizeof what, "%s, %s state, %s: logits", file, given ? "given" : "zero",
             cpu_level_name(level));
    check_close(what, logits, want, n * V, LOGITS_TOL);
    check_close("state", state, want_state, rwkv_state_floats(t.info), STATE_TOL);
    printf("  %s: off by %.2g, state %.2g\n", what, max_abs_diff(logits, want, n * V),
           max_abs_diff(state, want_state, rwkv_state_floats(t.info)));

    free(logits), free(state), free(want_state), free(want), free(tokens);
    test_model_close(&t);
    tensor_file_close(g);
}

static void test_fp32(void **state)
{
    (void)state;
    for (size_t l = 0; test_level(l); l++) {
        check_run("rwkv7-rand/rwkv7-rand-fp32.safetensors", "fp32", false, DTYPE_F32, test_level(l));
        check_run("rwkv7-rand/rwkv7-rand-fp32.safetensors", "fp32", true, DTYPE_F32, test_level(l));
    }
}

static void test_bf16(void **state)
{
    (void)state;
    for (size_t l = 0; test_level(l); l++) {
        check_run("rwkv7-rand/rwkv7-rand-bf16.pth", "bf16", false, DTYPE_F32, test_level(l));
        check_run("rwkv7-rand/rwkv7-rand-bf16.pth", "bf16", true, DTYPE_F32, test_level(l));
        check_run("rwkv7-rand/rwkv7-rand-bf16.pth", "bf16", false, -1, test_level(l));
        check_run("rwkv7-rand/rwkv7-rand-bf16.pth", "bf16", true, -1, test_level(l));
    }
}

/* The formats that are not copied into the repository. */
static void test_fp32_pth(void **state)
{
    (void)state;
    check_run("rwkv7-rand/rwkv7-rand-fp32.pth", "fp32", false, DTYPE_F32, CPU_AUTO);
}
static void test_fp32_gguf(void **state)
{
    (void)state;
    check_run("rwkv7-rand/rwkv7-rand-f32.gguf", "fp32", false, DTYPE_F32, CPU_AUTO);
}
static void test_bf16_safetensors(void **state)
{
    (void)state;
    check_run("rwkv7-rand/rwkv7-rand-bf16.safetensors", "bf16", false, DTYPE_F32, CPU_AUTO);
}

static void check_rounding(const char *what, const float *got, const float *want, size_t n, double most)
{
    const double error = relative_rms(got, want, n);
    printf("  %s: rounding to int8 costs %.2g of a standard deviation\n", what, error);
    assert_true(error > 0 && error < most);
}

/* Weights of a file type, dequantised to F32 by us, and as they are in memory. Those of plain types are the
 * same numbers then; of quantised ones too, but what they multiply is rounded to int8, which may cost
 * `rounding`: rms of the difference over the standard deviation of the logits. */
static void check_format(const char *file, const char *golden, int weights_type, double rounding)
{
    if (!golden_path(file))
        skip();
    struct tensor_file *g = golden_open("rwkv7-rand/golden-formats.safetensors");
    struct tensor_file *tok = golden_open("rwkv7-rand/golden.safetensors");
    for (size_t l = 0; test_level(l); l++) {
        struct test_model t;
        test_model_open(&t, file, 2, weights_type, test_level(l));
        size_t n, V = t.info->n_vocab;
        uint32_t *tokens = golden_tokens(tok, "tokens", &n);
        float *want = golden_f32(g, golden, n * V), *state = rwkv_state_new(t.info);
        float *logits = malloc(n * V * sizeof *logits);
        assert_true(state && logits);
        test_feed(&t, tokens, n, n, 64, state, logits);
        if (rounding > 0)
            check_rounding(cpu_level_name(test_level(l)), logits, want, n * V, rounding);
        else
            check_close(file, logits, want, n * V, LOGITS_TOL);
        free(logits), free(state), free(want), free(tokens);
        test_model_close(&t);
    }
    tensor_file_close(tok);
    tensor_file_close(g);
}

static void test_f16_gguf(void **state)
{
    (void)state;
    check_format("rwkv7-rand/rwkv7-rand-f16.gguf", "logits.gguf_f16", DTYPE_F32, 0);
    check_format("rwkv7-rand/rwkv7-rand-f16.gguf", "logits.gguf_f16", -1, 0);
}
static void test_q8_gguf(void **state)
{
    (void)state;
    check_format("rwkv7-rand/rwkv7-rand-q8_0.gguf", "logits.gguf_q8_0", DTYPE_F32, 0);
    check_format("rwkv7-rand/rwkv7-rand-q8_0.gguf", "logits.gguf_q8_0", -1, 0.016);
}
static void test_webrwkv(void **state)
{
    (void)state;
    check_format("rwkv7-rand/rwkv7-rand-webrwkv-f16.st", "logits.webrwkv_st_f16", DTYPE_F32, 0);
    check_format("rwkv7-rand/rwkv7-rand-webrwkv-f16.st", "logits.webrwkv_st_f16", -1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp32),      cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_fp32_pth),  cmocka_unit_test(test_fp32_gguf),
        cmocka_unit_test(test_bf16_safetensors), cmocka_unit_test(test_f16_gguf),
        cmocka_unit_test(test_q8_gguf),   cmocka_unit_test(test_webrwkv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
