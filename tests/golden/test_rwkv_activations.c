/* Inside a step: what the last layer computes for each of three tokens, and every layer's wkv state,
 * against float64 (debug-activations); and the final hidden state, by its product with the head against
 * float64 logits: V > C, so no other vector gives the same ones. Looks into the session's buffers, which hold the last layer of
 * the last row. */
#include "tests/lib/model.h"

#include "engine/rwkv/session.h"

#include <math.h>
#include <stdlib.h>

#define TOL 2e-5

static void check_vector(const struct tensor_file *g, int token, size_t layer, const char *what,
                         const float *got, size_t n)
{
    char name[64];
    snprintf(name, sizeof name, "t%d.layer%zu.%s", token, layer, what);
    float *want = golden_f32(g, name, n);
    check_close(name, got, want, n, TOL);
    free(want);
}

/* The session keeps kk before its normalisation. */
static void check_kk(const struct tensor_file *g, int token, size_t layer, const float *kk,
                     const struct rwkv_info *info)
{
    float unit[512];
    size_t N = info->head_size;
    assert_true(info->n_embd <= 512);
    for (size_t h = 0; h < info->n_head; h++) {
        double sum = 0;
        for (size_t i = 0; i < N; i++)
            sum += (double)kk[h * N + i] * (double)kk[h * N + i];
        for (size_t i = 0; i < N; i++)
            unit[h * N + i] = (float)((double)kk[h * N + i] / sqrt(sum));
    }
    check_vector(g, token, layer, "kk", unit, info->n_embd);
}

static void check_token(const struct tensor_file *g, const struct test_model *t,
                        const struct rwkv_session *s, float *state, int token)
{
    size_t C = t->info->n_embd, last = t->info->n_layer - 1;
    const struct {
        const char *name;
        const struct rows_buf *buf;
    } of[] = {{"xk", &s->in[MIX_K]}, {"xv", &s->in[MIX_V]}, {"xa", &s->in[MIX_A]},
              {"xg", &s->in[MIX_G]}, {"r", &s->r}, {"k_mod", &s->k}, {"v", &s->v},
              {"decay", &s->lora[LORA_W]}, {"a", &s->lora[LORA_A]}, {"g", &s->lora[LORA_G]}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        check_vector(g, token, last, of[i].name, of[i].buf->data, C);
    check_kk(g, token, last, s->kk.data, t->info);
    for (size_t l = 0; l <= last; l++)
        check_vector(g, token, l, "wkv_state", rwkv_state_wkv(t->info, state, l),
                     C * t->info->head_size);
}

/* The head times the final hidden state. */
static void check_hidden(const float *head, const float *hidden, const float *want,
                         const struct rwkv_info *info, const char *name)
{
    size_t V = info->n_vocab, C = info->n_embd;
    float *got = malloc(V * sizeof *got);
    assert_non_null(got);
    for (size_t v = 0; v < V; v++) {
        double sum = 0;
        for (size_t c = 0; c < C; c++)
            sum += (double)head[v * C + c] * (double)hidden[c];
        got[v] = (float)sum;
    }
    check_close(name, got, want, V, 5e-5);
    free(got);
}

static void test_activations(void **unused)
{
    (void)unused;
    struct tensor_file *g = golden_open("rwkv7-rand/debug-activations.safetensors");
    struct tensor_file *tok = golden_open("rwkv7-rand/golden.safetensors");
    struct tensor_file *model = golden_open("rwkv7-rand/rwkv7-rand-fp32.safetensors");
    size_t n;
    uint32_t *tokens = golden_tokens(tok, "tokens", &n);
    for (size_t l = 0; test_level(l); l++) {
        struct test_model t;
        struct err e = {0};
        test_model_open(&t, "rwkv7-rand/rwkv7-rand-fp32.safetensors", 2, -1, test_level(l));
        struct rwkv_session *s = rwkv_session_new(t.m, t.pool, 1, &e);
        float *state = rwkv_state_new(t.info), *logits = malloc(t.info->n_vocab * sizeof *logits);
        float *hidden = malloc(t.info->n_embd * sizeof *hidden);
        float *head = golden_f32(model, "head.weight", t.info->n_vocab * t.info->n_embd);
        assert_true(s && state && logits && hidden);
        for (int i = 0; i < 3; i++) {
            struct rwkv_seq q = {.tokens = tokens + i, .n_tokens = 1, .state = state,
                                 .logits = logits, .hidden = hidden};
            assert_int_equal(rwkv_eval(s, &q, 1, &e), 0);
            check_token(g, &t, s, state, i);
            char name[32];
            snprintf(name, sizeof name, "t%d.logits", i);
            float *want = golden_f32(g, name, t.info->n_vocab);
            check_close(name, logits, want, t.info->n_vocab, 5e-5);
            check_hidden(head, hidden, want, t.info, name);
            free(want);
        }
        free(state), free(logits), free(hidden), free(head);
        rwkv_session_free(s);
        test_model_close(&t);
    }
    free(tokens);
    tensor_file_close(model);
    tensor_file_close(tok);
    tensor_file_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_activations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
