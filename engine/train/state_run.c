/* The loop of state tuning around state.c's step. */
#include "engine/kernels/gemm.h"
#include "engine/tensor/tensor.h"
#include "engine/train/checkpoint.h"
#include "engine/train/corpus.h"
#include "engine/train/evaluate.h"
#include "engine/train/state.h"

#include <stdlib.h>
#include <unistd.h>

struct state_run {
    const struct recipe *r;
    struct rwkv_layout l;
    struct trainer t;
    struct state_tuner tuner;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct sampler sampler;
    uint32_t *tokens;       /* [batch, sequence + 1] */
    struct train_seq *seqs; /* [batch] */
    float *whole;           /* theta as a state */
    uint64_t n_tokens;      /* done */
    struct train_run run;
};

static int load_model(struct state_run *s, struct pool *pool, struct err *e)
{
    struct tensor_file *f = NULL;
    struct nn_f32 op = *nn_f32_for(CPU_AUTO);
    if (s->r->bf16)
        nn_bf16_products(&op);
    int rc = trainer_read_layout(s->r->model, &s->l, &f, e);
    if (rc == 0)
        rc = trainer_init(&s->t, &s->l, pool, &op, s->r->sequence, e);
    if (rc == 0)
        rc = rwkv_params_read(&s->l, s->t.params, f, e);
    if (rc == 0 && s->l.shape.n_vocab < 256)
        rc = err_set(e, ERR_INVALID,
                     "state tuning reads text as bytes: the model's vocabulary has %zu",
                     s->l.shape.n_vocab);
    tensor_file_close(f);
    return rc;
}

static int state_init(struct state_run *s, const struct recipe *r, struct pool *pool, struct err *e)
{
    s->r = r;
    if (!r->model[0])
        return err_set(e, ERR_INVALID, "recipe: state tuning wants model as a path");
    if (r->carry > 0)
        return err_set(e, ERR_INVALID,
                       "recipe: carry means nothing when the initial state is tuned");
    int rc = load_model(s, pool, e);
    if (rc == 0)
        rc = state_tuner_init(&s->tuner, &s->t, r->batch, e);
    if (rc == 0)
        rc = recipe_open_corpora(s->data, r->data, r->n_data, e);
    if (rc == 0)
        rc = recipe_open_corpora(s->eval, r->eval, r->n_eval, e);
    if (rc < 0)
        return rc;
    s->sampler = (struct sampler){.corpora = s->data,
                                  .n = r->n_data,
                                  .seed = r->seed,
                                  .at_start = r->document_start,
                                  .T = r->sequence};
    s->tokens = calloc(r->batch, (r->sequence + 1) * sizeof *s->tokens);
    s->seqs = calloc(r->batch, sizeof *s->seqs);
    s->whole = calloc(s->tuner.S, sizeof *s->whole);
    return s->tokens && s->seqs && s->whole ? 0
                                            : err_set(e, ERR_NOMEM, "state tuning: out of memory");
}

static void state_fini(struct state_run *s)
{
    train_run_close(&s->run);
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&s->data[i]);
        corpus_close(&s->eval[i]);
    }
    state_tuner_fini(&s->tuner);
    trainer_fini(&s->t);
    rwkv_layout_fini(&s->l);
    free(s->tokens);
    free(s->seqs);
    free(s->whole);
}

/* Writes it, or reads it where there is one. */
static int checkpoint(struct state_run *s, bool to, struct err *e)
{
    char path[TRAIN_PATH];
    struct checkpoint_array arrays[] = {
        {"state", DTYPE_F32, s->tuner.n, s->tuner.theta},
        {"adam.m", DTYPE_F32, s->tuner.n, s->tuner.m},
        {"adam.v", DTYPE_F32, s->tuner.n, s->tuner.v},
    };
    struct checkpoint_number numbers[] = {
        {"step", s->run.step, false},
        {"tokens", s->n_tokens, false},
        {"seed", s->r->seed, true},
        {"corpora", s->r->n_data, true},
    };
    struct checkpoint c = {.arrays = arrays, .n_arrays = 3, .numbers = numbers, .n_numbers = 4};
    train_run_path(&s->run, "checkpoint.safetensors", path);
    if (to)
        return checkpoint_write(&c, path, e);
    int rc = access(path, F_OK) == 0 ? checkpoint_read(&c, path, e) : 0;
    s->run.step = numbers[0].value;
    s->n_tokens = numbers[1].value;
    return rc;
}

static int save(void *ctx, struct err *e)
{
    struct state_run *s = ctx;
    char path[TRAIN_PATH];
    int rc = checkpoint(s, true, e);
    train_run_path(&s->run, "state.safetensors", path);
    return rc < 0 ? rc : state_tuner_write(&s->tuner, path, e);
}

static int one_step(void *ctx, struct train_step *report, struct err *e)
{
    struct state_run *s = ctx;
    (void)e;
    const struct recipe *r = s->r;
    for (size_t i = 0; i < r->batch; i++) {
        uint32_t *tokens = s->tokens + i * (r->sequence + 1);
        struct corpus_stream fresh_start = {0};
        bool fresh;
        s->seqs[i] = (struct train_seq){.tokens = tokens};
        s->seqs[i].T = sampler_next(&s->sampler, &fresh_start, s->run.step, i, tokens, &fresh);
        s->n_tokens += s->seqs[i].T;
    }
    report->tokens = s->n_tokens;
    report->loss = state_tuner_step(&s->tuner, s->seqs, r->batch, &r->adamw, report->lr,
                                    s->run.step + 1, &report->norm);
    return 0;
}

static int evaluate(void *ctx, struct err *e)
{
    struct state_run *s = ctx;
    state_tuner_expand(&s->tuner, s->whole);
    return train_run_evaluate(&s->run, &s->t, s->eval, s->r->n_eval, s->r->eval_bytes, s->whole, e);
}

int train_state(const struct recipe *r, const struct train_control *c, struct pool *pool,
                bool *done, struct err *e)
{
    struct state_run *s = calloc(1, sizeof *s);
    *done = false;
    if (!s)
        return err_set(e, ERR_NOMEM, "state tuning: out of memory");
    gemm_setup();
    const struct train_kind kind = {one_step, evaluate, save};
    const struct train_plan plan = {&r->schedule, r->eval_every, r->checkpoint_every};
    int rc = state_init(s, r, pool, e);
    if (rc == 0)
        rc = train_run_open(&s->run, c, r->out, r->max_minutes, e);
    if (rc == 0)
        rc = checkpoint(s, false, e);
    if (rc == 0) {
        train_run_begin(&s->run, s->n_tokens);
        train_run_note(&s->run, "a state of %zu numbers, %d threads, step %llu", s->tuner.n,
                       s->t.threads, (unsigned long long)s->run.step);
        rc = train_run_steps(&s->run, &plan, &kind, s, done, e);
    }
    state_fini(s);
    free(s);
    return rc;
}

int train_state_plan(const struct recipe *r, int threads, double *memory, struct err *e)
{
    struct rwkv_layout l = {0};
    struct tensor_file *f = NULL;
    int rc = trainer_read_layout(r->model, &l, &f, e);
    const double trainer = rc == 0 ? trainer_plan(&l, threads, r->sequence) : 0;
    if (rc == 0 && !(trainer > 0))
        rc = err_set(e, ERR_NOMEM, "state tuning: out of memory");
    if (rc == 0) {
        const double state = (double)rwkv_layout_state(&l); /* with batch: values and gradients */
        *memory = trainer + 4 * state * (5 + 2 * (double)r->batch) +
                  (double)(r->batch * (4 * (r->sequence + 1) + sizeof(struct train_seq)));
    }
    rwkv_layout_fini(&l);
    tensor_file_close(f);
    return rc;
}
