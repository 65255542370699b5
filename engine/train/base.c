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
    float *states;          /* [batch, S]: each stream's recurrent state */
    uint32_t *tokens;       /* [batch, sequence + 1] */
    struct train_seq *seqs; /* [batch] */
    size_t S;
    bool bf16;               /* products in use */
    uint64_t step, n_tokens; /* done */
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

static void out_path(const struct base_run *b, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", b->r->out, name);
}

static int save_or_load(struct base_run *b, bool save, struct err *e)
{
    char path[RECIPE_PATH + 32];
    const struct recipe *r = b->r;
    struct checkpoint_array arrays[] = {
        {"adam.m", DTYPE_F32, b->l.count, b->t.m},
        {"adam.v", DTYPE_F32, b->l.count, b->t.v},
        {"stream.places", DTYPE_I64, 3 * r->batch, b->streams},
        {"stream.states", DTYPE_F32, r->batch * b->S, b->states},
    };
    struct checkpoint_number numbers[] = {
        {"step", b->step, false},
        {"tokens", b->n_tokens, false},
        {"seed", r->seed, true},
        {"corpora", r->n_data, true},
    };
    struct checkpoint c = {&b->l, b->t.params, arrays, 4, numbers, 4};
    out_path(b, "checkpoint.safetensors", path, sizeof path);
    if (save)
        return checkpoint_write(&c, path, e);
    int rc = checkpoint_read(&c, path, e);
    b->step = numbers[0].value;
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

static int save(struct base_run *b, struct err *e)
{
    char path[RECIPE_PATH + 32];
    int rc = save_or_load(b, true, e);
    out_path(b, "model.safetensors", path, sizeof path);
    return rc < 0 ? rc : rwkv_params_write(&b->l, b->t.params, path, 1, e);
}

/* The checkpoint, a given model, or the reference's initial weights. */
static int begin(struct base_run *b, const char **how, struct err *e)
{
    char path[RECIPE_PATH + 32];
    out_path(b, "checkpoint.safetensors", path, sizeof path);
    if (access(path, F_OK) == 0) {
        *how = "from the checkpoint";
        return save_or_load(b, false, e);
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

static int one_step(struct base_run *b, struct err *e)
{
    const struct recipe *r = b->r;
    for (size_t i = 0; i < r->batch; i++) {
        bool fresh;
        struct train_seq *s = &b->seqs[i];
        *s = (struct train_seq){.tokens = b->tokens + i * (r->sequence + 1),
                                .state = b->states + i * b->S};
        s->T = sampler_next(&b->sampler, &b->streams[i], b->step, i,
                            b->tokens + i * (r->sequence + 1), &fresh);
        if (fresh)
            memset(s->state, 0, b->S * sizeof *s->state);
        b->n_tokens += s->T;
    }
    struct train_step report = {.steps = r->schedule.steps, .tokens = b->n_tokens};
    report.lr = train_lr(&r->schedule, b->step);
    report.loss = trainer_gradients(&b->t, b->seqs, r->batch, true);
    report.norm = trainer_norm(&b->t);
    if (!isfinite(report.loss) || !isfinite(report.norm)) {
        const char *name = trainer_find_nonfinite(&b->t);
        return err_set(e, ERR_NUMERIC, "training step %llu: loss %g, gradient norm %g, first in %s",
                       (unsigned long long)b->step, report.loss, report.norm,
                       name ? name : "no tensor");
    }
    trainer_update(&b->t, &r->adamw, report.lr, ++b->step, report.norm);
    report.step = b->step;
    train_run_step(&b->run, &report);
    return 0;
}

static int loop(struct base_run *b, struct err *e)
{
    const struct recipe *r = b->r;
    int rc = 0;
    bool stop = b->step >= r->schedule.steps;
    while (!stop && rc == 0) {
        rc = one_step(b, e);
        stop = b->step >= r->schedule.steps || train_run_must_stop(&b->run, b->step);
        if (rc == 0 && (b->step % r->eval_every == 0 || b->step >= r->schedule.steps))
            rc = train_run_evaluate(&b->run, &b->t, b->eval, r->n_eval, r->eval_bytes, NULL,
                                    b->step, e);
        if (rc == 0 && (stop || b->step % r->checkpoint_every == 0))
            rc = save(b, e);
    }
    return rc;
}

int train_base(const struct recipe *r, const struct train_control *c, struct pool *pool, bool *done,
               struct err *e)
{
    const char *blas = gemm_setup(), *how = "";
    struct base_run *b = calloc(1, sizeof *b);
    *done = false;
    if (!b)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    int rc = base_init(b, r, pool, e);
    if (rc == 0)
        rc = begin(b, &how, e);
    if (rc == 0)
        rc = train_run_open(&b->run, c, r->out, r->max_minutes, b->step, b->n_tokens, e);
    if (rc == 0) {
        train_run_note(&b->run, "%zu parameters, %d threads, SIMD %s, products %s, step %llu, %s",
                       b->l.n_params, b->t.threads, cpu_level_name(cpu_detect(CPU_AUTO)),
                       b->bf16 ? "BF16" : blas, (unsigned long long)b->step, how);
        if (r->bf16 && !b->bf16)
            train_run_note(&b->run, "this CPU has no BF16 products: F32 instead, slower");
        rc = loop(b, e);
        *done = rc == 0 && b->step >= r->schedule.steps;
    }
    base_fini(b);
    free(b);
    return rc;
}
