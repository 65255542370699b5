/* What states do to text: how well it is predicted, and in which manner it goes on. And making states. */
#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"
#include "engine/rwkv/score.h"
#include "engine/sampling/sampling.h"

#include <math.h>

const size_t ds_length[DS_LENGTHS] = {16, 32, 64, 128};
#define LONGEST 128
#define ROWS    64 /* states continued together */

/* States first.. first + n: out [n, S]. */
static void start_states(const struct ds_bench *b, const struct ds_starts *s, size_t first,
                         size_t n, float *out)
{
    if (s->states)
        memcpy(out, s->states + first * b->S, n * b->S * sizeof *out);
    else
        memset(out, 0, n * b->S * sizeof *out);
}

int ds_likelihood(const struct ds_bench *b, const struct ds_starts *s, float *bits, struct err *e)
{
    struct score_seq *seq = calloc(b->n, sizeof *seq);
    uint32_t *ids = calloc(b->n, (LONGEST + 1) * sizeof *ids);
    float *cost = calloc(b->n, LONGEST * sizeof *cost), *x = malloc(b->n * b->S * sizeof *x);
    int rc = seq && ids && cost && x ? 0 : err_set(e, ERR_NOMEM, "no memory for texts");
    if (rc == 0)
        start_states(b, s, 0, b->n, x);
    for (size_t i = 0; rc == 0 && i < b->n; i++) {
        const struct ds_piece *p = &b->target[s->text_of ? s->text_of[i] : i];
        uint32_t *to = ids + i * (LONGEST + 1);
        size_t n = p->n + p->indent < LONGEST ? p->n + p->indent : LONGEST;
        to[0] = tokenizer_separator(b->tokenizer);
        tokenizer_encode(b->tokenizer, p->text - p->indent, n, to + 1);
        seq[i] = (struct score_seq){
            .tokens = to, .n_tokens = 1 + n, .bits = cost + i * LONGEST, .state = x + i * b->S};
    }
    if (rc == 0)
        rc = rwkv_score(b->model, b->pool, seq, b->n, e);
    for (size_t i = 0; rc == 0 && i < b->n; i++) {
        double sum = 0;
        for (size_t t = 0, l = 0; t < LONGEST && l < DS_LENGTHS; t++) {
            sum += (double)cost[i * LONGEST + t];
            if (t + 1 == ds_length[l])
                bits[i * DS_LENGTHS + l++] = (float)(sum / (double)(t + 1));
        }
    }
    free(seq);
    free(ids);
    free(cost);
    free(x);
    return rc;
}

/* ---- Continuing ------------------------------------------------------------------------------ */

struct writer {
    struct rwkv_session *session;
    struct sampler *sampler[ROWS];
    float *state, *logits; /* [ROWS, S], [ROWS, 256] */
    uint32_t next[ROWS];
    char *text; /* [ROWS, judged] */
};

static int writer_open(struct writer *w, const struct ds_bench *b, struct err *e)
{
    w->state = malloc(ROWS * b->S * sizeof *w->state);
    w->logits = malloc(ROWS * 256 * sizeof *w->logits);
    w->text = malloc(ROWS * b->judged);
    if (!w->state || !w->logits || !w->text)
        return err_set(e, ERR_NOMEM, "no memory to continue texts");
    w->session = rwkv_session_new(b->model, b->pool, ROWS, e);
    return w->session ? 0 : e->code;
}

static void writer_close(struct writer *w)
{
    rwkv_session_free(w->session);
    for (size_t i = 0; i < ROWS; i++)
        sampler_free(w->sampler[i]);
    free(w->state);
    free(w->logits);
    free(w->text);
}

/* Continues items first.. first + n; item i draws from seed i. */
static int write_some(struct writer *w, const struct ds_bench *b, const struct ds_starts *s,
                      size_t first, size_t n, struct err *e)
{
    struct rwkv_seq seq[ROWS];
    int rc = 0;
    start_states(b, s, first, n, w->state);
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct sampling_params p = SAMPLING_DEFAULT;
        p.seed = b->o.seed * 1000003u + first + i;
        sampler_free(w->sampler[i]);
        rc = (w->sampler[i] = sampler_new(&p, 256, rwkv_get_kern(b->model), e)) ? 0 : e->code;
        w->next[i] = tokenizer_separator(b->tokenizer);
    }
    for (size_t t = 0; t < b->judged && rc == 0; t++) {
        for (size_t i = 0; i < n; i++)
            seq[i] = (struct rwkv_seq){.tokens = &w->next[i],
                                       .n_tokens = 1,
                                       .state = w->state + i * b->S,
                                       .logits = w->logits + i * 256};
        rc = rwkv_eval(w->session, seq, n, e);
        for (size_t i = 0; i < n && rc == 0; i++) {
            w->next[i] = sampler_pick(w->sampler[i], w->logits + i * 256);
            sampler_accept(w->sampler[i], w->next[i]);
            w->text[i * b->judged + t] = (char)w->next[i];
        }
    }
    return rc;
}

int ds_continued(const struct ds_bench *b, const struct ds_starts *s,
                 double by_corpus[BENCH_CORPORA], struct err *e)
{
    struct writer w = {0};
    int rc = writer_open(&w, b, e);
    for (size_t k = 0; k < BENCH_CORPORA; k++)
        by_corpus[k] = 0;
    for (size_t i = 0; rc == 0 && i < b->n; i += ROWS) {
        size_t n = b->n - i < ROWS ? b->n - i : ROWS;
        rc = write_some(&w, b, s, i, n, e);
        for (size_t k = 0; rc == 0 && k < n; k++)
            if (ds_judge_classify(b->judge, w.text + k * b->judged, b->judged) == b->own[i + k])
                by_corpus[b->own[i + k]] += 1.0 / (double)b->per;
    }
    writer_close(&w);
    return rc;
}

/* ---- Making states --------------------------------------------------------------------------- */

int ds_generate(const struct ds_bench *b, const struct ds_generate *g, struct err *e)
{
    struct diffuser_options o = DIFFUSER_OPTIONS;
    o.steps = b->o.steps;
    o.guidance = g->guidance;
    o.seed = b->o.seed;
    const struct diffuser_job job = {.n = g->n,
                                     .condition = g->condition,
                                     .start = g->start,
                                     .strength = g->strength,
                                     .states = g->states};
    int rc = diffuser_run(b->diffuser, b->pool, &o, &job, e);
    if (rc == 0 && g->z)
        rc = ds_encode(b, g->states, g->n, g->z, e);
    return rc;
}
