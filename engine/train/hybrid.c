#include "engine/train/hybrid.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/tensor/tensor.h"
#include "engine/train/hybrid_trainer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct hybrid_run {
    const struct hybrid_recipe *r;
    struct pool *pool;
    struct rwkv_layout l;
    float *weights; /* [l.count] */
    struct rwkv_model *model;
    struct hybrid_pairs p;
    struct hybrid net;
    struct hybrid_trainer t;
    size_t told; /* half thousands of pairs */
    struct train_run run;
};

static void between(void *ctx)
{
    train_run_goes_on(&((struct hybrid_run *)ctx)->run);
}

/* The model twice: to read contexts with, and to train through. */
static int open_model(struct hybrid_run *b, struct err *e)
{
    const struct rwkv_options o = {.weights_type = DTYPE_F32};
    struct rwkv_shape s;
    int rc = rwkv_open(b->r->model, &o, b->pool, &b->model, e);
    if (rc < 0)
        return rc;
    const struct tensor_file *f = rwkv_get_file(b->model);
    rc = rwkv_shape_read(&s, f, e);
    if (rc == 0)
        rc = rwkv_layout_init(&b->l, &s, e);
    if (rc == 0)
        rc = rwkv_params_check(&b->l, f, e);
    if (rc < 0)
        return rc;
    b->weights = mem_calloc_aligned(b->l.count, sizeof *b->weights);
    if (!b->weights)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    return rwkv_params_read(&b->l, b->weights, f, e);
}

static bool go_on(void *ctx, size_t done, size_t n)
{
    struct hybrid_run *b = ctx;
    if (done / 500 > b->told && done < n) {
        b->told = done / 500;
        train_run_note(&b->run, "dataset: %zu of %zu pairs", done, n);
    }
    return train_run_prepares(&b->run, done, n);
}

static int open_pairs(struct hybrid_run *b, struct err *e)
{
    const struct hybrid_recipe *r = b->r;
    const struct hybrid_data d = {r, b->model, &b->l, b->weights, b->pool, go_on, b};
    double loss[3];
    int rc = 0;
    if (access(r->dataset, F_OK) != 0) {
        rc = hybrid_data_make(&d, loss, e);
        if (rc == 0)
            train_run_note(
                &b->run,
                "targets: held-out continuations of %.4f bits/byte with the model's own vectors, "
                "%.4f with their corpus', %.4f with the targets",
                loss[0] * 1.4426950408889634, loss[1] * 1.4426950408889634,
                loss[2] * 1.4426950408889634);
    }
    if (rc == 0)
        rc = hybrid_pairs_open(&b->p, r->dataset, e);
    if (rc < 0)
        return rc;
    if (strcmp(b->p.fingerprint, rwkv_get_info(b->model)->fingerprint) ||
        b->p.n_theta != rwkv_layout_theta(&b->l, r->rank) || b->p.X != b->l.shape.n_embd + 2)
        return err_set(e, ERR_INVALID, "dataset %s: made with another model or rank", r->dataset);
    if (r->states > 0 && b->p.S != rwkv_layout_state(&b->l))
        return err_set(e, ERR_INVALID, "dataset %s: made without states", r->dataset);
    for (size_t i = 0; i < b->p.n; i++)
        if (b->p.first[i + 1] - b->p.first[i] > (int64_t)r->max_context)
            return err_set(e, ERR_INVALID, "dataset %s: a context has more than %llu rows",
                           r->dataset, (unsigned long long)r->max_context);
    if (!b->p.n_train || b->p.n_train == b->p.n)
        return err_set(e, ERR_INVALID, "dataset %s: pairs to train on and to hold out are wanted",
                       r->dataset);
    return 0;
}

static int init_network(struct hybrid *net, const struct hybrid_recipe *r,
                        const struct rwkv_layout *l, struct err *e)
{
    const struct dit_shape s = {
        .n_embd = r->n_embd, .n_head = r->n_head, .n_block = r->n_block, .n_mlp = r->n_mlp};
    net->info.shape = (struct state_shape){l->shape.n_layer, l->shape.n_embd, l->shape.head_size};
    net->info.rank = r->rank;
    net->info.max_context = r->max_context;
    net->info.sampling_steps = r->sampling_steps;
    return hybrid_init(net, &s, e);
}

static int open_network(struct hybrid_run *b, struct err *e)
{
    const struct hybrid_recipe *r = b->r;
    const struct hybrid_setup setup = {r, &b->p, &b->net, &b->l, b->weights, b->pool, between, b};
    int rc = init_network(&b->net, r, &b->l, e);
    memcpy(b->net.info.fingerprint, b->p.fingerprint, sizeof b->p.fingerprint);
    return rc < 0 ? rc : hybrid_trainer_init(&b->t, &setup, e);
}

static int checkpoint(struct hybrid_run *b, bool to, struct err *e)
{
    const struct checkpoint_number same[] = {{"seed", b->r->seed, true}, {"pairs", b->p.n, true}};
    return ema_run_checkpoint(&b->t.w, &b->run, same, to, e);
}

static int save(void *ctx, struct err *e)
{
    struct hybrid_run *b = ctx;
    char path[TRAIN_PATH];
    int rc = checkpoint(b, true, e);
    train_run_path(&b->run, "hybrid.safetensors", path);
    b->net.info.steps = b->run.step;
    return rc < 0 ? rc : hybrid_write(&b->net, path, e);
}

static int evaluate(void *ctx, struct err *e)
{
    struct hybrid_run *b = ctx;
    static const char *const of[HYBRID_EVALS] = {"plain", "context", "wrong",
                                                 "none",  "state",   "both"};
    const size_t bits = b->p.S ? HYBRID_EVALS : HYBRID_STATE, first = bits + 1;
    const size_t G = hybrid_get_groups(&b->net), n = first + b->l.shape.n_layer * G;
    double *value = calloc(n + HYBRID_EVALS, sizeof *value);
    const char **names = calloc(n, sizeof *names);
    char(*name)[64] = calloc(n, sizeof *name);
    int rc = value && names && name ? 0 : err_set(e, ERR_NOMEM, "training: out of memory");
    if (rc == 0) {
        double diffusion;
        hybrid_trainer_evaluate(&b->t, value, &diffusion);
        for (size_t i = 0; i < bits; i++)
            names[i] = of[i];
        names[bits] = "diffusion";
        value[bits] = diffusion;
        for (size_t i = first; i < n; i++) {
            const size_t k = i - first;
            char group[24];
            hybrid_group_name(k % G, b->r->rank, group);
            names[i] = name[i];
            snprintf(name[i], sizeof *name, "alpha.%zu.%s", k / G, group);
            value[i] = hybrid_alpha(&b->net, k / G, k % G);
        }
        const struct train_eval v = {
            .step = b->run.step, .n = n, .names = names, .bits = value, .mean = value[HYBRID_OWN]};
        train_run_eval(&b->run, &v);
    }
    free(value);
    free(names);
    free(name);
    return rc;
}

static int one_step(void *ctx, struct train_step *s, struct err *e)
{
    struct hybrid_run *b = ctx;
    double loss[2];
    (void)e;
    hybrid_trainer_step(&b->t, b->run.step, s->lr, loss, &s->norm);
    s->loss = loss[0];
    s->diffusion = loss[1];
    s->tokens = (b->run.step + 1) * b->r->batch * b->p.T;
    return 0;
}

static int begin(struct hybrid_run *b, struct err *e)
{
    int rc = open_model(b, e);
    if (rc == 0)
        rc = open_pairs(b, e);
    if (rc == 0)
        rc = open_network(b, e);
    if (rc == 0)
        rc = checkpoint(b, false, e);
    if (rc < 0)
        return rc;
    train_run_begin(&b->run, b->run.step * b->r->batch * b->p.T);
    train_run_note(&b->run, "%zu parameters, %zu + %zu pairs, %d threads, SIMD %s, step %llu",
                   b->net.info.n_params, b->p.n_train, b->p.n - b->p.n_train, b->t.threads,
                   cpu_level_name(cpu_detect(CPU_AUTO)), (unsigned long long)b->run.step);
    return 0;
}

int train_hybrid(const struct hybrid_recipe *r, const struct train_control *c, struct pool *pool,
                 bool *done, struct err *e)
{
    struct hybrid_run *b = calloc(1, sizeof *b);
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
    if (rc == 0 && !b->run.step)
        rc = evaluate(b, e);
    if (rc == 0)
        rc = train_run_steps(&b->run, &plan, &kind, b, done, e);
    train_run_close(&b->run);
    hybrid_trainer_fini(&b->t);
    hybrid_fini(&b->net);
    hybrid_pairs_close(&b->p);
    rwkv_close(b->model);
    rwkv_layout_fini(&b->l);
    free(b->weights);
    free(b);
    return rc;
}

/* ---- what it takes ---- */

/* A layout in bytes: what every thread works with, first while pairs are made, then at the steps. */
static double work_bytes(const struct hybrid_recipe *r, const struct rwkv_layout *l,
                         const struct hybrid *net, bool steps)
{
    const struct dit_shape *s = &net->layout.shape;
    const double theta = (double)rwkv_layout_theta(l, r->rank), model = (double)l->count;
    const double n = (double)(s->n_token * s->token_dim);
    const double context = (double)(s->max_context * s->context_dim);
    const double rwkv = (double)rwkv_work_plan_f32(l, r->continuation);
    if (!steps)
        return rwkv + 4 * (model + 5 * theta);
    const double own =
        4 * (13 * n + 3 * context + 2 * theta + model + 2 * (double)rwkv_layout_state(l));
    return rwkv + own + 2 * (double)dit_work_plan_f32(&net->layout, 2);
}

static void add_up(const struct hybrid_recipe *r, const struct rwkv_layout *l,
                   const struct hybrid *net, int threads, struct hybrid_need *out)
{
    const double pairs = (double)(r->pairs + r->eval_pairs), T = (double)threads;
    const double rows = 4 * (double)(r->max_context * net->layout.shape.context_dim);
    const double state = r->states > 0 ? 2 * (double)rwkv_layout_state(l) : 0;
    const double rest = 4 * (double)rwkv_layout_theta(l, r->rank) + state +
                        (double)(r->continuations * r->continuation) + 32;
    const double params = (double)hybrid_count(&net->layout, &net->info.shape);
    const double model = 4 * 2 * (double)l->count;
    const double makes = T * work_bytes(r, l, net, false) + pairs * (2 * rows + rest);
    const double steps =
        T * work_bytes(r, l, net, true) + 4 * params * (5 + T) + pairs * (2 * rows + rest);
    *out = (struct hybrid_need){
        .memory = model + (makes > steps ? makes : steps),
        .disk = pairs * (rows + rest) + 2 * (4 + 4 + 4 + 4 + 2) * params,
        .n_params = net->info.n_params,
    };
}

int train_hybrid_plan(const struct hybrid_recipe *r, int threads, struct hybrid_need *out,
                      struct err *e)
{
    struct rwkv_layout l = {0};
    struct tensor_file *f = NULL;
    struct hybrid net = {0};
    int rc = trainer_read_layout(r->model, &l, &f, e);
    if (rc == 0)
        rc = init_network(&net, r, &l, e);
    if (rc == 0)
        add_up(r, &l, &net, threads, out);
    hybrid_fini(&net);
    rwkv_layout_fini(&l);
    tensor_file_close(f);
    return rc;
}
