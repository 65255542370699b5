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
    struct manifold_run prepare; /* how what comes before the steps is run */
    size_t told;                 /* thousands of states */
    struct train_run run;
};

/* ---- what training stands on: the dataset and the codec ---- */

static bool go_on(void *ctx, size_t done, size_t n)
{
    struct dit_run *b = ctx;
    if (done / 1000 > b->told && done < n) {
        b->told = done / 1000;
        train_run_note(&b->run, "baking: %zu of %zu states", done, n);
    }
    return train_run_goes_on(&b->run);
}

static bool go_on_preparing(void *ctx, size_t done, size_t n)
{
    (void)done, (void)n;
    return train_run_goes_on(&((struct dit_run *)ctx)->run);
}

static int open_dataset(struct dit_run *b, struct err *e)
{
    const char *path = b->r->dataset;
    int rc = access(path, F_OK) == 0 ? 0 : dit_data_bake(b->r, b->prepare.pool, go_on, b, e);
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

static struct dit_codec_options codec_options(const struct dit_recipe *r)
{
    return (struct dit_codec_options){r->components, r->basis, r->shifts, FIT_ROWS};
}

/* Fits the codec, or reads what an earlier run fitted. */
static int open_codec(struct dit_run *b, struct err *e)
{
    char path[TRAIN_PATH];
    const struct dit_codec_options o = codec_options(b->r);
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
    int rc = dit_codec_fit(&b->net.codec, &b->d, &o, &b->prepare, e);
    if (rc == 0)
        rc = write_codec(&b->net.codec, path, e);
    if (rc < 0)
        return rc;
    for (int held = 0; held < 2; held++) /* there may be no rows of the kind */
        if (dit_codec_error(&b->net.codec, &b->d, held, &matrices, &shifts, NULL) == 0)
            train_run_note(&b->run,
                           "codec: %zu components of a basis of %zu, %zu bytes; lost of the "
                           "variance of %s rows: matrices %.4f, shift vectors %.4f",
                           b->net.codec.K, b->net.codec.p, dit_codec_bytes(&b->net.codec),
                           held ? "held-out" : "training", matrices, shifts);
    return 0;
}

static struct dit_shape network_shape(const struct dit_recipe *r, const struct dit_codec *c,
                                      size_t cond_dim, size_t n_label)
{
    return (struct dit_shape){.n_token = c->n_token,
                              .token_dim = c->K,
                              .n_embd = r->n_embd,
                              .n_head = r->n_head,
                              .n_block = r->n_block,
                              .n_mlp = r->n_mlp,
                              .cond_dim = cond_dim,
                              .n_label = n_label,
                              .per_token = r->per_token};
}

static int open_network(struct dit_run *b, struct err *e)
{
    const struct dit_recipe *r = b->r;
    struct diffuser *net = &b->net;
    const struct dit_shape s = network_shape(r, &net->codec, b->d.cond_dim, b->d.n_label);
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
    rc = dit_trainer_init(&b->t, r, &b->d, net, &b->prepare, e);
    if (rc < 0)
        return rc;
    dit_params_init(&net->layout, b->t.w.params, r->seed);
    memcpy(net->params, b->t.w.params, net->layout.count * sizeof *net->params);
    return 0;
}

/* ---- checkpoints ---- */

static int checkpoint(struct dit_run *b, bool to, struct err *e)
{
    const struct checkpoint_number same[] = {{"seed", b->r->seed, true}, {"rows", b->d.n, true}};
    return ema_run_checkpoint(&b->t.w, &b->run, same, to, e);
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
    b->prepare = (struct manifold_run){pool, go_on_preparing, b};
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

/* ---- what it takes ---- */

/* Fitting: a token of the rows, and the covariance with its eigenvectors, or the randomised basis. */
static double fit_bytes(const struct dit_codec *c, size_t rows)
{
    const double n = (double)(rows < FIT_ROWS ? rows : FIT_ROWS), K = (double)c->K;
    const double square = (double)(c->shape.head_size * c->shape.head_size);
    const double width = (double)c->shape.n_embd;
    const double W = square > width ? square : width, m = n < W ? n : W;
    return 4 * n * W + 24 * m * m + 16 * (K + 16) * (n + W);
}

int train_dit_plan(const struct dit_recipe *r, const struct dit_rows_info *d, int threads,
                   struct dit_need *out, struct err *e)
{
    struct dit_codec c;
    struct dit_layout l = {0};
    const struct dit_codec_options o = codec_options(r);
    int rc = dit_codec_plan(&c, &d->shape, &o, e);
    if (rc < 0)
        return rc;
    const struct dit_shape s = network_shape(r, &c, d->shape.n_embd, d->n_label);
    rc = dit_layout_init(&l, &s, e);
    const double trainer = rc == 0 ? dit_trainer_plan(&l, d->n, threads) : 0;
    if (rc == 0 && !(trainer > 0))
        rc = err_set(e, ERR_NOMEM, "training: out of memory");
    const double codec = (double)dit_codec_bytes(&c);
    const double state = 4 * (double)state_shape_floats(&d->shape);
    const double block = (double)dit_codec_block(&c) * (state + 4 * (double)(c.n_token * c.K));
    const double row = 4 * (double)s.cond_dim + (double)sizeof(struct dataset_row);
    *out = (struct dit_need){
        .memory = trainer + 3 * codec + fit_bytes(&c, d->n) + block + 2 * state +
                  (double)d->n * row + (double)d->text_bytes,
        .disk = 2 * (5 * 4 * (double)l.n_params + codec) + codec,
        .n_params = l.n_params,
        .n_token = c.n_token,
    };
    dit_layout_fini(&l);
    return rc;
}
