/* Orientation of the recurrent state: tuned state files against logits computed with them. The wrong
 * orientation is off by 5.9. */
#include "tests/lib/model.h"

#include <stdlib.h>

/* blocks.i.att.time_state [H, N, N] into the wkv part of a state; transposed: Ai00's last two axes. */
static void load_time_state(const struct test_model *t, const char *file, bool transposed,
                            float *state)
{
    struct tensor_file *f = golden_open(file);
    size_t H = t->info->n_head, N = t->info->head_size;
    for (size_t l = 0; l < t->info->n_layer; l++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%zu.att.time_state", l);
        float *x = golden_f32(f, name, H * N * N), *wkv = rwkv_state_wkv(t->info, state, l);
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < N; i++)
                for (size_t j = 0; j < N; j++)
                    wkv[(h * N + i) * N + j] =
                        transposed ? x[(h * N + j) * N + i] : x[(h * N + i) * N + j];
        free(x);
    }
    tensor_file_close(f);
}

static void check_file(const char *model, const char *file, bool transposed, const char *golden)
{
    struct tensor_file *g = golden_open("state-files/golden.safetensors");
    for (size_t l = 0; test_level(l); l++) {
        struct test_model t;
        test_model_open(&t, model, 1, -1, test_level(l));
        size_t n, V = t.info->n_vocab;
        uint32_t *tokens = golden_tokens(g, "tokens", &n);
        float *want = golden_f32(g, golden, n * V), *state = rwkv_state_new(t.info);
        float *logits = malloc(n * V * sizeof *logits);
        assert_true(state && logits);
        if (file)
            load_time_state(&t, file, transposed, state);
        test_feed(&t, tokens, n, 5, 16, state, logits);
        check_close(golden, logits, want, n * V, 5e-5);
        free(want), free(state), free(logits), free(tokens);
        test_model_close(&t);
    }
    tensor_file_close(g);
}

static void test_files(void **state)
{
    (void)state;
    static const char st[] = "state-files/model-fp32.safetensors", pth[] = "state-files/model-fp32.pth";
    check_file(st, NULL, false, "logits.zero_state");
    check_file(st, "state-files/state-fp32.pth", false, "logits.fp32");
    check_file(pth, "state-files/state-fp32.safetensors", false, "logits.fp32");
    check_file(st, "state-files/state-bf16.pth", false, "logits.bf16");
    check_file(st, "state-files/state-webrwkv-f16.st", true, "logits.webrwkv_f16");
    check_file(st, "state-files/state-fp32.pth", true, "logits.WRONG_transposed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
