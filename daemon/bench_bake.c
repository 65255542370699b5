#include "daemon/bench_bake.h"

#include "engine/train/bake.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 16 /* texts read together */

struct work {
    const struct bench_baker *b;
    const struct rwkv_info *info;
    struct rwkv_session *session;
    uint32_t *ids; /* [SLOTS, BENCH_TEXT + 1] */
    float *hidden; /* [SLOTS, BENCH_TEXT + 1, C] */
};

static void mean_hidden(const struct rwkv_seq *q, size_t C, float *vector)
{
    for (size_t c = 0; c < C; c++) {
        double sum = 0;
        for (size_t t = 0; t < q->n_tokens; t++)
            sum += (double)q->hidden[t * C + c];
        vector[c] = (float)(sum / (double)q->n_tokens);
    }
}

static int bake_some(const struct work *w, const struct bench_text *t, size_t n,
                     const struct bench_baked *to, struct err *e)
{
    const size_t C = w->info->n_embd, S = rwkv_state_floats(w->info);
    struct rwkv_seq seq[SLOTS];
    memset(to->state, 0, n * S * sizeof *to->state);
    for (size_t i = 0; i < n; i++) {
        uint32_t *id = w->ids + i * (BENCH_TEXT + 1);
        seq[i] = (struct rwkv_seq){.tokens = id,
                                   .n_tokens = bake_tokens(w->b->tokenizer, t[i].text, t[i].n, id),
                                   .state = to->state + i * S,
                                   .hidden = w->hidden + i * (BENCH_TEXT + 1) * C};
    }
    int rc = rwkv_eval(w->session, seq, n, e);
    if (rc == 0 && to->own)
        memcpy(to->own, to->state, n * S * sizeof *to->own);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = bake_forget_last(w->info, seq[i].state, e);
        if (to->vector)
            mean_hidden(&seq[i], C, to->vector + i * C);
    }
    return rc;
}

int bench_bake(const struct bench_baker *b, const struct bench_text *t, size_t n,
               const struct bench_baked *to, struct err *e)
{
    struct work w = {.b = b, .info = rwkv_get_info(b->model)};
    const size_t C = w.info->n_embd, S = rwkv_state_floats(w.info);
    int rc = (w.session = rwkv_session_new(b->model, b->pool, 256, e)) ? 0 : e->code;
    w.ids = malloc(SLOTS * (BENCH_TEXT + 1) * sizeof *w.ids);
    w.hidden = malloc(SLOTS * (BENCH_TEXT + 1) * C * sizeof *w.hidden);
    if (rc == 0 && (!w.ids || !w.hidden))
        rc = err_set(e, ERR_NOMEM, "no memory to bake texts");
    for (size_t i = 0; rc == 0 && i < n; i += SLOTS) {
        const struct bench_baked at = {to->state + i * S, to->own ? to->own + i * S : NULL,
                                       to->vector ? to->vector + i * C : NULL};
        rc = bake_some(&w, t + i, n - i < SLOTS ? n - i : SLOTS, &at, e);
    }
    rwkv_session_free(w.session);
    free(w.ids);
    free(w.hidden);
    return rc;
}
