#include "engine/train/base.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/tensor/tensor.h"
#include "engine/train/checkpoint.h"
#include "engine/train/evaluate.h"

#include <math.h>
#include <unistd.h>

struct base_run {
    const struct recipe *r;
    struct rwkv_layout l;
    struct trainer t;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct sampler sampler;
    struct corpus_stream *streams; /* [batch] */
    float *states;                 /* [batch, S]: each stream's recurrent state */
    uint32_t *tokens;              /* [batch, sequence + 1] */
    struct train_seq *seqs;        /* [batch] */
    size_t S;
    bool bf16;         /* products in use */
    uint64_t n_tokens; /* done */
    struct train_run run;
};

/* Corpora, memory; the weights are still zero. */
static int base_init(struct base_run *b, const struct recipe *r, struct pool *pool, struct err *e)
{
    b->r = r;
    if (!r->shape.n_layer)
        return err_set(e, ERR_INVALID,
                       "recipe: base training wants model as an object with a shape");
    if (r->shape.n_vocab < 256)
        return err_set(e, ERR_INVALID, "recipe: a byte model has n_vocab 256");
    struct nn_f32 op = *nn_f32_for(CPU_AUTO);
    b->bf16 = r->bf16 && nn_bf16_products(&op);
    int rc = rwkv_layout_init(&b->l, &r->shape, e);
    if (rc == 0)
        rc = trainer_init(&b->t, &b->l, pool, &op, r->sequence, e);
    if (rc == 0)
        rc = recipe_open_corpora(b->data, r->data, r->n_data, e);
    if (rc == 0)
        rc = recipe_open_corpora(b->eval, r->eval, r->n_eval, e);
    if (rc < 0)
        return rc;
    b->sampler = (struct sampler){.corpora = b->data,
                                  .n = r->n_data,
                                  .seed = r->seed,
                                  .carry = r->carry,
                                  .at_start = r->document_start,
                                  .jump = r->jump,
                                  .T = r->sequence};
    b->S = rwkv_layout_state(&b->l);
    size_t n_states, n_tokens;
    if (mem_mul(r->batch, b->S, &n_states) && mem_mul(r->batch, r->sequence + 1, &n_tokens)) {
        b->states = mem_calloc_aligned(n_states, sizeof *b->states);
        b->tokens = calloc(n_tokens, sizeof *b->tokens);
    }
    b->streams = calloc(r->batch, sizeof *b->streams);
    b->seqs = calloc(r->batch, sizeof *b->seqs);
    return b->states && b->tokens && b->streams && b->seqs
               ? 0
               : err_set(e, ERR_NOMEM, "training: out of memory");
}

static void base_fini(struct base_run *b)
{
    train_run_close(&b->run);
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&b->data[i]);
        corpus_close(&b->eval[i]);
    }
    trainer_fini(&b->t);
    rwkv_layout_fini(&b->l);
    free(b->streams);
    free(b->states);
    free(b->tokens);
    free(b->seqs);
}

/* Writes it, or reads it. */
static int checkpoint(struct base_run *b, bool to, struct err *e)
{
    char path[TRAIN_PATH];
    const struct recipe *r = b->r;
    struct checkpoint_array arrays[] = {
        {"adam.m", DTYPE_F32, b->l.count, b->t.m},
        {"adam.v", DTYPE_F32, b->l.count, b->t.v},
        {"stream.places", DTYPE_I64, 3 * r->batch, b->streams},
        {"stream.states", DTYPE_F32, r->batch * b->S, b->states},
    };
    struct checkpoint_number numbers[] = {
        {"step", b->run.step, false},
        {"tokens", b->n_tokens, false},
        {"seed", r->seed, true},
        {"corpora", r->n_data, true},
    };
    struct checkpoint c = {&b->l, b->t.params, arrays, 4, numbers, 4};
    train_run_path(&b->run, "checkpoint.safetensors", path);
    if (to)
        return checkpoint_write(&c, path, e);
    int rc = checkpoint_read(&c, path, e);
    b->run.step = numbers[0].value;
    b->n_tokens = numbers[1].value;
    for (size_t i = 0; i < r->batch && rc == 0; i++) {
        const struct corpus_stream *s = &b->streams[i];
        if (s->corpus < 0 || s->corpus >= (int64_t)r->n_data || s->end < s->at ||
            s->at < (s->end ? 1 : 0) || s->end > (int64_t)b->data[s->corpus].n)
            rc = err_set(e, ERR_FORMAT, "checkpoint %s: a stream's place is outside its corpus",
                         path);
    }
    return rc;
}

static int save(void *ctx, struct err *e)
{
    struct base_run *b = ctx;
    char path[TRAIN_PATH];
    int rc = checkpoint(b, true, e);
    train_run_path(&b->run, "model.safetensors", path);
    return rc < 0 ? rc : rwkv_params_write(&b->l, b->t.params, path, 1, e);
}

/* The checkpoint, a given model, or the reference's initial weights. */
static int begin(struct base_run *b, const char **how, struct err *e)
{
    char path[TRAIN_PATH];
    train_run_path(&b->run, "checkpoint.safetensors", path);
    if (access(path, F_OK) == 0) {
        *how = "from the checkpoint";
        return checkpoint(b, false, e);
    }
    if (!b->r->init_from[0]) {
        *how = "at the reference's initial weights";
        return rwkv_params_init(&b->l, b->t.params, b->r->seed, e);
    }
    *how = "from the given model";
    struct tensor_file *f = NULL;
    int rc = tensor_file_open(b->r->init_from, &f, e);
    if (rc == 0)
        rc = rwkv_params_read(&b->l, b->t.params, f, e);
    tensor_file_close(f);
    return rc;
}

static int one_step(void *ctx, struct train_step *report, struct err *e)
{
    struct base_run *b = ctx;
    const struct recipe *r = b->r;
    (void)e;
    for (size_t i = 0; i < r->batch; i++) {
        bool fresh;
        struct train_seq *s = &b->seqs[i];
        *s = (struct train_seq){.tokens = b->tokens + i * (r->sequence + 1),
                                .state = b->states + i * b->S};
        s->T = sampler_next(&b->sampler, &b->streams[i], b->run.step, i,
                            b->tokens + i * (r->sequence + 1), &fresh);
        if (fresh)
            memset(s->state, 0, b->S * sizeof *s->state);
        b->n_tokens += s->T;
    }
    report->tokens = b->n_tokens;
    report->loss = trainer_gradients(&b->t, b->seqs, r->batch, true);
    report->norm = trainer_norm(&b->t);
    if (isfinite(report->loss) && isfinite(report->norm))
        trainer_update(&b->t, &r->adamw, report->lr, b->run.step + 1, report->norm);
    else
        report->culprit = trainer_find_nonfinite(&b->t);
    return 0;
}

static int evaluate(void *ctx, struct err *e)
{
    struct base_run *b = ctx;
    return train_run_evaluate(&b->run, &b->t, b->eval, b->r->n_eval, b->r->eval_bytes, NULL, e);
}

int train_base(const struct recipe *r, const struct train_control *c, struct pool *pool, bool *done,
               struct err *e)
{
    const char *blas = gemm_setup(), *how = "";
    struct base_run *b = calloc(1, sizeof *b);
    *done = false;
    if (!b)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    const struct train_kind kind = {one_step, evaluate, save};
    const struct train_plan plan = {&r->schedule, r->eval_every, r->checkpoint_every};
    int rc = base_init(b, r, pool, e);
    if (rc == 0)
        rc = train_run_open(&b->run, c, r->out, r->max_minutes, e);
    if (rc == 0)
        rc = begin(b, &how, e);
    if (rc == 0) {
        train_run_begin(&b->run, b->n_tokens);
        train_run_note(&b->run, "%zu parameters, %d threads, SIMD %s, products %s, step %llu, %s",
                       b->l.n_params, b->t.threads, cpu_level_name(cpu_detect(CPU_AUTO)),
                       b->bf16 ? "BF16" : blas, (unsigned long long)b->run.step, how);
        if (r->bf16 && !b->bf16)
            train_run_note(&b->run, "this CPU has no BF16 products: F32 instead, slower");
        rc = train_run_steps(&b->run, &plan, &kind, b, done, e);
    }
    base_fini(b);
    free(b);
    return rc;
}
