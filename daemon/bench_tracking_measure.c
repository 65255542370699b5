/* Models asked by `bench tracking`. */
#include "daemon/bench_tracking.h"

#include "engine/hybrid/hybrid.h"
#include "engine/train/bake.h"
#include "engine/train/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 256 /* bytes of a context, at most */
enum { CONTEXTS = 8, BATCH_ROWS = 256, V = 256 };
enum { LINES = 1 << 20, CONTEXT_LINES = 2 << 20 }; /* streams, behind those of the texts */

const size_t track_length[TRACK_LENGTHS] = {0, TRACK_LONGEST, 2 * TRACK_LONGEST, 4 * TRACK_LONGEST,
                                            8 * TRACK_LONGEST};

struct asked {
    const struct track_options *o;
    struct pool *pool;
    struct rwkv_model *model, *tuned;
    struct hybrid *hybrid, *control;
    struct rwkv_session *session, *tuned_session;
    const struct rwkv_info *info;
    size_t S, n_theta; /* room for the vectors of either hybrid */
    float *theta;           /* [TASKS, CONTEXTS, n_theta], then of none and of the control */
    float *state;           /* [TASKS, CONTEXTS, S] */
    struct rwkv_seq *seq;   /* [per] */
    float *states, *logits; /* [per, S] of either model, [per, V] */
    uint32_t (*tokens)[TRACK_LINE]; /* [per] */
    uint32_t *answer;               /* [per] */
};

static int open_path(char path[4096], const char *folder, const char *name, struct err *e)
{
    const int n = snprintf(path, 4096, "%s/%s.safetensors", folder, name);
    return n < 0 || n >= 4096 ? err_set(e, ERR_INVALID, "the folder's name is too long") : 0;
}

static int open_model(const struct asked *a, const char *folder, const char *name,
                      struct rwkv_model **out, struct err *e)
{
    const struct rwkv_options as_stored = {.weights_type = -1};
    char path[4096];
    int rc = open_path(path, folder, name, e);
    rc = rc < 0 ? rc : rwkv_open(path, &as_stored, a->pool, out, e);
    if (rc == 0 && rwkv_get_info(*out)->n_vocab != V)
        rc = err_set(e, ERR_INVALID, "%s: this bench needs a model of bytes", path);
    return rc;
}

static int open_hybrid(const char *folder, const char *name, struct hybrid **out, struct err *e)
{
    char path[4096];
    int rc = open_path(path, folder, name, e);
    return rc < 0 ? rc : hybrid_open(path, out, e);
}

static int open_all(struct asked *a, const char *folder, struct err *e)
{
    if (!(a->pool = pool_new(a->o->threads, "bench", 0, e)))
        return e->code;
    int rc = open_model(a, folder, "model", &a->model, e);
    rc = rc < 0 ? rc : open_model(a, folder, "tuned", &a->tuned, e);
    rc = rc < 0 ? rc : open_hybrid(folder, "hybrid", &a->hybrid, e);
    rc = rc < 0 ? rc : open_hybrid(folder, "control", &a->control, e);
    if (rc < 0)
        return rc;
    a->info = rwkv_get_info(a->model);
    a->S = rwkv_state_floats(a->info);
    const size_t rank[2] = {hybrid_get_info(a->hybrid)->rank, hybrid_get_info(a->control)->rank};
    a->n_theta = rwkv_theta_floats(a->info, rank[0] > rank[1] ? rank[0] : rank[1]);
    if (rwkv_state_floats(rwkv_get_info(a->tuned)) != a->S)
        return err_set(e, ERR_INVALID, "%s: tuned is of another shape than model", folder);
    const size_t n = TRACK_TASKS * CONTEXTS, per = a->o->per;
    a->theta = calloc((n + 2) * a->n_theta, sizeof *a->theta);
    a->state = calloc(n * a->S, sizeof *a->state);
    a->seq = calloc(per, sizeof *a->seq);
    a->states = calloc(per, a->S * sizeof *a->states);
    a->logits = calloc(per, V * sizeof *a->logits);
    a->tokens = calloc(per, sizeof *a->tokens);
    a->answer = calloc(per, sizeof *a->answer);
    if (!a->theta || !a->state || !a->seq || !a->states || !a->logits || !a->tokens || !a->answer)
        return err_set(e, ERR_NOMEM, "no memory for %zu lines", per);
    if (!(a->session = rwkv_session_new(a->model, a->pool, BATCH_ROWS, e)) ||
        !(a->tuned_session = rwkv_session_new(a->tuned, a->pool, BATCH_ROWS, e)))
        return e->code;
    return 0;
}

static void close_all(struct asked *a)
{
    rwkv_session_free(a->session);
    rwkv_session_free(a->tuned_session);
    hybrid_close(a->hybrid);
    hybrid_close(a->control);
    rwkv_close(a->model);
    rwkv_close(a->tuned);
    pool_free(a->pool);
    void *const all[] = {a->theta, a->state, a->seq, a->states, a->logits, a->tokens, a->answer};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* What h makes of a text (n 0: an empty context), and the model's state behind it where that is wanted. */
static int read_context(const struct asked *a, const struct hybrid *h, const char *text, size_t n,
                        float *theta, float *state, struct err *e)
{
    const struct hybrid_options o = {.strength = 1, .seed = a->o->seed};
    struct hybrid_norms norms;
    uint32_t tokens[CONTEXT + 1] = {CORPUS_SEPARATOR};
    struct hybrid_context *c = hybrid_context_new(h, a->model, e);
    int rc = c ? 0 : e->code;
    for (size_t i = 0; i < n; i++)
        tokens[i + 1] = (uint8_t)text[i];
    if (rc == 0 && n)
        rc = hybrid_context_feed(c, a->session, tokens, n + 1, e);
    if (rc == 0 && state) {
        memcpy(state, hybrid_context_state(c), a->S * sizeof *state);
        rc = bake_forget_last(a->info, state, e);
    }
    rc = rc < 0 ? rc : hybrid_adjust(h, c, &o, theta, &norms, e);
    hybrid_context_free(c);
    return rc;
}

static float *theta_of(const struct asked *a, size_t task, size_t context)
{
    return a->theta + (task * CONTEXTS + context) * a->n_theta;
}

static int read_contexts(const struct asked *a, struct err *e)
{
    char text[CONTEXT];
    int rc = read_context(a, a->hybrid, NULL, 0, theta_of(a, TRACK_TASKS, 0), NULL, e);
    rc = rc < 0 ? rc : read_context(a, a->control, NULL, 0, theta_of(a, TRACK_TASKS, 1), NULL, e);
    for (size_t i = 0; i < TRACK_TASKS * CONTEXTS && rc == 0; i++) {
        struct rng rng;
        rng_init(&rng, a->o->seed, CONTEXT_LINES + i);
        const size_t n = track_text(&rng, i / CONTEXTS, text, sizeof text);
        rc = read_context(a, a->hybrid, text, n, a->theta + i * a->n_theta, a->state + i * a->S, e);
    }
    return rc;
}

/* The lines of a task and length, the same for every row and folder. */
static void draw_lines(const struct asked *a, size_t task, size_t length)
{
    for (size_t i = 0; i < a->o->per; i++) {
        char line[TRACK_LINE];
        struct rng rng;
        rng_init(&rng, a->o->seed, LINES + (i * TRACK_TASKS + task) * TRACK_LENGTHS + length);
        const size_t n = track_line(&rng, task, track_length[length], line) - 2;
        a->tokens[i][0] = CORPUS_SEPARATOR;
        for (size_t t = 0; t < n; t++)
            a->tokens[i][t + 1] = (uint8_t)line[t];
        a->answer[i] = (uint8_t)line[n];
        a->seq[i] = (struct rwkv_seq){.tokens = a->tokens[i],
                                      .n_tokens = n + 1,
                                      .state = a->states + i * a->S,
                                      .logits = a->logits + i * V};
    }
}

static const float *theta_for(const struct asked *a, enum track_row row, size_t task,
                              size_t context)
{
    switch (row) {
    case TRACK_CONTROL:
    case TRACK_NONE:
        return theta_of(a, TRACK_TASKS, row == TRACK_CONTROL);
    case TRACK_WRONG:
        return theta_of(a, (task + 1) % TRACK_TASKS, context);
    case TRACK_HYBRID:
        return theta_of(a, task, context);
    default:
        return NULL;
    }
}

/* The share of the drawn lines that a row answers. */
static int ask(const struct asked *a, enum track_row row, size_t task, double *right, struct err *e)
{
    size_t n = 0;
    memset(a->states, 0, a->o->per * a->S * sizeof *a->states);
    for (size_t i = 0; i < a->o->per; i++) {
        const size_t context = i % CONTEXTS;
        a->seq[i].theta = theta_for(a, row, task, context);
        a->seq[i].rank = hybrid_get_info(row == TRACK_CONTROL ? a->control : a->hybrid)->rank;
        if (row == TRACK_STATE)
            memcpy(a->states + i * a->S, a->state + (task * CONTEXTS + context) * a->S,
                   a->S * sizeof *a->states);
    }
    int rc = rwkv_eval(row == TRACK_TUNED ? a->tuned_session : a->session, a->seq, a->o->per, e);
    for (size_t i = 0; i < a->o->per; i++) {
        const float *logits = a->logits + i * V;
        uint32_t best = 0;
        for (uint32_t v = 1; v < V; v++)
            if (logits[v] > logits[best])
                best = v;
        n += best == a->answer[i];
    }
    *right = (double)n / (double)a->o->per;
    return rc;
}

int track_measure(const struct track_options *o, const char *folder, struct track_figures *f,
                  struct err *e)
{
    struct asked a = {.o = o};
    int rc = open_all(&a, folder, e);
    rc = rc < 0 ? rc : read_contexts(&a, e);
    for (size_t task = 0; task < TRACK_TASKS; task++)
        for (size_t length = 0; length < TRACK_LENGTHS && rc == 0; length++) {
            draw_lines(&a, task, length);
            for (int row = 0; row < TRACK_ROWS && rc == 0; row++)
                rc = ask(&a, (enum track_row)row, task, &f->right[row][task][length], e);
        }
    close_all(&a);
    return rc;
}
