#include "engine/train/dit.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/manifold/points.h"
#include "engine/tensor/write.h"
#include "engine/train/dit_data.h"
#include "engine/train/dit_trainer.h"

#include <stdlib.h>
#include <unistd.h>

#define FIT_ROWS  4096 /* that the codec is fitted on */
#define EVAL_ROWS 128

struct dit_run {
    const struct dit_recipe *r;
    struct dataset d;
    struct diffuser net;
    struct dit_trainer t;
    struct pool *pool;
    size_t told; /* thousands of states */
    struct train_run run;
};

/* ---- what training stands on: the dataset and the codec ---- */

static bool go_on(void *ctx, size_t done, size_t n)
{
    struct dit_run *b = ctx;
    const struct train_control *c = b->run.control;
    if (done / 1000 > b->told && done < n) {
        b->told = done / 1000;
        train_run_note(&b->run, "baking: %zu of %zu states", done, n);
    }
    return !(c->stop && atomic_load(c->stop));
}

static bool go_on_fitting(void *ctx, size_t done, size_t n)
{
    const struct train_control *c = ((struct dit_run *)ctx)->run.control;
    (void)done, (void)n;
    return !(c->stop && atomic_load(c->stop));
}

static int open_dataset(struct dit_run *b, struct err *e)
{
    const char *path = b->r->dataset;
    int rc = access(path, F_OK) == 0 ? 0 : dit_data_bake(b->r, b->pool, go_on, b, e);
    if (rc == 0)
        rc = dataset_open(&b->d, path, e);
    if (rc == 0)
        train_run_note(&b->run, "dataset: %zu states of %zu x %zu, head %zu; %zu labels", b->d.n,
                       b->d.shape.n_layer, b->d.shape.n_embd, b->d.shape.head_size, b->d.n_label);
    return rc;
}

static int write_codec(const struct dit_codec *c, const char *path, struct err *e)
{
    struct tensor t[DIT_CODEC_TENSORS];
    void *half = NULL;
    int n = dit_codec_tensors(c, t, &half, e);
    int rc = n < 0 ? n : safetensors_write(path, t, (size_t)n, NULL, 0, e);
    free(half);
    return rc;
}

/* Fits the codec, or reads what an earlier run fitted. */
static int open_codec(struct dit_run *b, struct err *e)
{
    char path[TRAIN_PATH];
    const struct manifold_run run = {b->pool, go_on_fitting, b};
    const struct dit_codec_options o = {b->r->components, b->r->basis, b->r->shifts, FIT_ROWS};
    struct tensor_file *f = NULL;
    double matrices, shifts;
    train_run_path(&b->run, "codec.safetensors", path);
    if (access(path, F_OK) == 0) {
        int rc = tensor_file_open(path, &f, e);
        if (rc == 0)
            rc = dit_codec_read(&b->net.codec, &b->d.shape, f, e);
        tensor_file_close(f);
        return rc;
    }
    int rc = dit_codec_fit(&b->net.codec, &b->d, &o, &run, e);
    if (rc == 0)
        rc = write_codec(&b->net.codec, path, e);
    if (rc < 0)
        return rc;
    for (int held = 0; held < 2; held++)
        if (dit_codec_error(&b->net.codec, &b->d, held, &matrices, &shifts, e) == 0)
            train_run_note(&b->run,
                           "codec: %zu components of a basis of %zu, %zu bytes; lost of the "
                           "variance of %s rows: matrices %.4f, shift vectors %.4f",
                           b->net.codec.K, b->net.codec.p, dit_codec_bytes(&b->net.codec),
                           held ? "held-out" : "training", matrices, shifts);
    return 0;
}

static int open_network(struct dit_run *b, struct err *e)
{
    const struct dit_recipe *r = b->r;
    struct diffuser *net = &b->net;
    const struct dit_shape s = {.n_token = net->codec.n_token,
                                .token_dim = net->codec.K,
                                .n_embd = r->n_embd,
                                .n_head = r->n_head,
                                .n_block = r->n_block,
                                .n_mlp = r->n_mlp,
                                .cond_dim = b->d.cond_dim,
                                .n_label = b->d.n_label,
                                .per_token = r->per_token};
    int rc = dit_layout_init(&net->layout, &s, e);
    if (rc == 0)
        rc = dit_schedule_init(&net->schedule, r->noise, DIT_TIMESTEPS, e);
    if (rc == 0)
        rc = diffuser_set_labels(net, (const char *const *)b->d.label, b->d.n_label, e);
    if (rc < 0)
        return rc;
    net->info.shape = b->d.shape;
    net->info.schedule = r->noise;
    net->info.prediction = r->prediction;
    memcpy(net->info.fingerprint, b->d.fingerprint, sizeof net->info.fingerprint);
    net->params = mem_calloc_aligned(net->layout.count, sizeof *net->params);
    if (!net->params)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    rc = dit_trainer_init(&b->t, r, &b->d, net, b->pool, e);
    if (rc < 0)
        return rc;
    dit_params_init(&net->layout, b->t.w.params, r->seed);
    memcpy(net->params, b->t.w.params, net->layout.count * sizeof *net->params);
    return 0;
}

/* ---- checkpoints ---- */

/* Writes it, or reads it where there is one. */
static int checkpoint(struct dit_run *b, bool to, struct err *e)
{
    char path[TRAIN_PATH];
    struct checkpoint_number numbers[] = {
        {"step", b->run.step, false},
        {"seed", b->r->seed, true},
        {"rows", b->d.n, true},
    };
    train_run_path(&b->run, "checkpoint.safetensors", path);
    if (to)
        return ema_checkpoint_write(&b->t.w, numbers, 3, path, e);
    int rc = access(path, F_OK) == 0 ? ema_checkpoint_read(&b->t.w, numbers, 3, path, e) : 0;
    b->run.step = numbers[0].value;
    return rc;
}

static int save(void *ctx, struct err *e)
{
    struct dit_run *b = ctx;
    char path[TRAIN_PATH];
    int rc = checkpoint(b, true, e);
    train_run_path(&b->run, "diffuser.safetensors", path);
    b->net.info.steps = b->run.step;
    return rc < 0 ? rc : diffuser_write(&b->net, path, e);
}

/* ---- the run ---- */

static int evaluate(void *ctx, struct err *e)
{
    struct dit_run *b = ctx;
    (void)e;
    static const char *const by[DIT_EVAL_COUNT] = {"own text", "text", "label", "none"};
    double error[DIT_EVAL_COUNT][DIT_EVAL_TIMES], value[DIT_EVAL_COUNT * DIT_EVAL_TIMES];
    char name[DIT_EVAL_COUNT * DIT_EVAL_TIMES][24];
    const char *names[DIT_EVAL_COUNT * DIT_EVAL_TIMES];
    struct train_eval v = {.step = b->run.step, .names = names, .bits = value, .what = "x0_error"};
    dit_trainer_evaluate(&b->t, EVAL_ROWS, error);
    for (size_t k = 0; k < DIT_EVAL_COUNT; k++)
        for (size_t t = 0; t < DIT_EVAL_TIMES; t++, v.n++) {
            snprintf(name[v.n], sizeof *name, "%s .%zu", by[k], 2 * t + 1);
            names[v.n] = name[v.n];
            value[v.n] = error[k][t];
            v.mean += error[k][t] / (DIT_EVAL_COUNT * DIT_EVAL_TIMES);
        }
    train_run_eval(&b->run, &v);
    return 0;
}

static int one_step(void *ctx, struct train_step *s, struct err *e)
{
    struct dit_run *b = ctx;
    (void)e;
    s->loss = dit_trainer_step(&b->t, b->run.step, s->lr, &s->norm);
    s->tokens = (b->run.step + 1) * b->r->batch;
    return 0;
}

static int begin(struct dit_run *b, struct err *e)
{
    int rc = open_dataset(b, e);
    if (rc == 0)
        rc = open_codec(b, e);
    if (rc == 0)
        rc = open_network(b, e);
    if (rc == 0)
        rc = checkpoint(b, false, e);
    if (rc < 0)
        return rc;
    train_run_begin(&b->run, b->run.step * b->r->batch);
    train_run_note(&b->run, "%zu parameters, %zu tokens of %zu, %d threads, SIMD %s, step %llu",
                   b->net.layout.n_params, b->net.codec.n_token, b->net.codec.K, b->t.threads,
                   cpu_level_name(cpu_detect(CPU_AUTO)), (unsigned long long)b->run.step);
    return 0;
}

int train_dit(const struct dit_recipe *r, const struct train_control *c, struct pool *pool,
              bool *done, struct err *e)
{
    struct dit_run *b = calloc(1, sizeof *b);
    *done = false;
    if (!b)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    gemm_setup();
    b->r = r;
    b->pool = pool;
    const struct train_kind kind = {one_step, evaluate, save};
    const struct train_plan plan = {&r->schedule, r->eval_every, r->checkpoint_every};
    int rc = train_run_open(&b->run, c, r->out, r->max_minutes, e);
    if (rc == 0)
        rc = begin(b, e);
    if (rc == 0)
        rc = train_run_steps(&b->run, &plan, &kind, b, done, e);
    train_run_close(&b->run);
    dit_trainer_fini(&b->t);
    diffuser_fini(&b->net);
    dataset_close(&b->d);
    free(b);
    return rc;
}
