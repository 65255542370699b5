#include "tests/lib/model.h"

#include <stdlib.h>

void test_model_open(struct test_model *t, const char *name, int threads, int weights_type,
                     enum cpu_level level)
{
    struct err e = {0};
    const char *path = golden_path(name);
    if (!path)
        skip();
    t->pool = pool_new(threads, "test", 0, &e);
    if (!t->pool)
        fail_msg("%s", e.msg);
    struct rwkv_options o = {.weights_type = weights_type, .cpu = level};
    if (rwkv_open(path, &o, t->pool, &t->m, &e) < 0)
        fail_msg("%s: %s", name, e.msg);
    t->info = rwkv_get_info(t->m);
}

void test_model_close(struct test_model *t)
{
    rwkv_close(t->m);
    pool_free(t->pool);
}

enum cpu_level test_level(size_t i)
{
    enum cpu_level l = CPU_C;
    while (l && i--)
        l = cpu_level_next(l);
    return l && cpu_detect(l) == l ? l : CPU_AUTO;
}

void test_feed(const struct test_model *t, const uint32_t *tokens, size_t n, size_t chunk,
               size_t max_rows, float *state, float *logits)
{
    struct err e = {0};
    struct rwkv_session *s = rwkv_session_new(t->m, t->pool, max_rows, &e);
    assert_non_null(s);
    for (size_t at = 0; at < n; at += chunk) {
        struct rwkv_seq q = {.tokens = tokens + at,
                             .n_tokens = n - at < chunk ? n - at : chunk,
                             .state = state,
                             .logits = logits ? logits + at * t->info->n_vocab : NULL,
                             .all_logits = true};
        if (rwkv_eval(s, &q, 1, &e) < 0)
            fail_msg("%s", e.msg);
    }
    rwkv_session_free(s);
}

uint32_t *golden_tokens(const struct tensor_file *f, const char *name, size_t *n)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != DTYPE_I32)
        fail_msg("no I32 tensor %s", name);
    uint32_t *ids = malloc(t->count * sizeof *ids);
    assert_non_null(ids);
    memcpy(ids, t->data, t->count * sizeof *ids);
    *n = t->count;
    return ids;
}

float *golden_state(const struct tensor_file *f, const char *format, const struct rwkv_info *i)
{
    static const char *const parts[] = {"att_x_prev", "wkv", "ffn_x_prev"};
    size_t C = i->n_embd, count[3] = {C, C * i->head_size, C};
    float *state = rwkv_state_new(i);
    assert_non_null(state);
    size_t at = 0;
    for (int p = 0; p < 3; p++) {
        char name[80];
        const char *mark = strstr(format, "%s");
        assert_non_null(mark);
        snprintf(name, sizeof name, "%.*s%s%s", (int)(mark - format), format, parts[p], mark + 2);
        float *x = golden_f32(f, name, i->n_layer * count[p]);
        for (size_t l = 0; l < i->n_layer; l++)
            memcpy(state + l * (2 * C + C * i->head_size) + at, x + l * count[p],
                   count[p] * sizeof *x);
        free(x);
        at += count[p];
    }
    return state;
}
