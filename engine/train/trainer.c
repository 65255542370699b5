#include "engine/train/trainer.h"

#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"

#include <math.h>

int trainer_init(struct trainer *t, const struct rwkv_layout *l, struct pool *pool,
                 const struct nn_f32 *op, size_t max_T, struct err *e)
{
    memset(t, 0, sizeof *t);
    t->l = l;
    t->op = *op;
    t->pool = pool;
    t->threads = pool_threads(pool);
    t->max_T = max_T;
    t->params = mem_calloc_large(l->count, sizeof *t->params);
    t->m = mem_calloc_large(l->count, sizeof *t->m);
    t->v = mem_calloc_large(l->count, sizeof *t->v);
    t->grad = calloc((size_t)t->threads, sizeof *t->grad);
    t->work = calloc((size_t)t->threads, sizeof *t->work);
    t->weight = calloc((size_t)t->threads, sizeof *t->weight);
    bool ok = t->params && t->m && t->v && t->grad && t->work && t->weight;
    for (int k = 0; ok && k < t->threads; k++) {
        t->grad[k] = mem_calloc_large(l->count, sizeof **t->grad);
        t->work[k] = rwkv_work_new_f32(l, &t->op, max_T);
        t->weight[k] = mem_calloc_aligned(2 * max_T, sizeof **t->weight);
        ok = t->grad[k] && t->work[k] && t->weight[k];
    }
    if (!ok) {
        trainer_fini(t);
        return err_set(e, ERR_NOMEM, "training: out of memory");
    }
    return 0;
}

int trainer_read_layout(const char *path, struct rwkv_layout *l, struct tensor_file **f,
                        struct err *e)
{
    struct rwkv_shape shape;
    int rc = tensor_file_open(path, f, e);
    if (rc == 0)
        rc = rwkv_shape_read(&shape, *f, e);
    if (rc == 0)
        rc = rwkv_layout_init(l, &shape, e);
    return rc < 0 ? rc : rwkv_params_check(l, *f, e);
}

double trainer_plan(const struct rwkv_layout *l, int threads, size_t max_T)
{
    const double work = (double)rwkv_work_plan_f32(l, max_T), T = (double)threads;
    const double weights = (double)l->count * (3 + T); /* weights, m, v; gradients */
    return work > 0 ? 4 * (weights + T * 2 * (double)max_T) + T * work : 0;
}

void trainer_fini(struct trainer *t)
{
    for (int k = 0; k < t->threads; k++) {
        if (t->grad)
            free(t->grad[k]);
        if (t->work)
            rwkv_work_free_f32(t->work[k]);
        if (t->weight)
            free(t->weight[k]);
    }
    free(t->grad);
    free(t->work);
    free(t->weight);
    free(t->params);
    free(t->m);
    free(t->v);
    memset(t, 0, sizeof *t);
}

struct batch_job {
    struct trainer *t;
    struct train_seq *seqs;
    size_t n;
    float weight; /* of each token; 0: forward only */
    bool matrices;
};

static void run_part(void *ctx, int part, int parts)
{
    struct batch_job *j = ctx;
    struct trainer *t = j->t;
    struct rwkv_work_f32 *w = t->work[part];
    float *weight = t->weight[part], *ce = weight + t->max_T, *grad = t->grad[part];
    for (size_t i = 0; i < t->max_T; i++)
        weight[i] = j->weight;
    if (j->weight > 0)
        memset(grad, 0, t->l->count * sizeof *grad);
    for (size_t i = (size_t)part; i < j->n; i += (size_t)parts) {
        struct train_seq *s = &j->seqs[i];
        rwkv_forward_f32(w, t->params, s->tokens, s->tokens + 1, weight, s->T, s->state, ce, NULL);
        s->ce = 0;
        for (size_t n = 0; n < s->T; n++)
            s->ce += (double)ce[n];
        if (j->weight > 0)
            rwkv_backward_f32(w, t->params, grad, j->matrices, s->dstate, NULL);
    }
    if (j->weight <= 0)
        return;
    pool_barrier(t->pool);
    size_t lo, hi;
    pool_slice(t->l->count, 16, part, parts, &lo, &hi);
    for (int k = 1; k < parts; k++)
        for (size_t i = lo; i < hi; i++)
            t->grad[0][i] += t->grad[k][i];
}

double trainer_gradients(struct trainer *t, struct train_seq *seqs, size_t n, bool matrices)
{
    size_t tokens = 0;
    double ce = 0;
    for (size_t i = 0; i < n; i++)
        tokens += seqs[i].T;
    struct batch_job j = {t, seqs, n, (float)(1.0 / (double)tokens), matrices};
    pool_run(t->pool, run_part, &j);
    for (size_t i = 0; i < n; i++)
        ce += seqs[i].ce;
    return ce / (double)tokens;
}

void trainer_evaluate(struct trainer *t, struct train_seq *seqs, size_t n)
{
    struct batch_job j = {t, seqs, n, 0, false};
    pool_run(t->pool, run_part, &j);
}

double trainer_norm(const struct trainer *t)
{
    double sum = 0;
    t->op.sumsq_add(&sum, t->grad[0], t->l->count);
    return sqrt(sum);
}

const char *trainer_find_nonfinite(const struct trainer *t)
{
    for (size_t i = 0; i < t->l->n; i++) {
        const struct rwkv_param *p = &t->l->param[i];
        for (size_t n = 0; n < p->count; n++)
            if (!isfinite(t->grad[0][p->offset + n]))
                return p->name;
    }
    return NULL;
}

double train_clip_scale(double clip, double norm)
{
    double scale = clip > 0 ? clip / (norm + 1e-6) : 1;
    return scale < 1 ? scale : 1;
}

struct nn_adamw train_adamw(const struct adamw_options *o, double lr, bool decay, uint64_t step,
                            double norm)
{
    return (struct nn_adamw){
        .scale = train_clip_scale(o->clip, norm),
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .step_size = lr / (1 - pow(o->beta1, (double)step)),
        .v_scale = 1 / sqrt(1 - pow(o->beta2, (double)step)),
        .eps = o->eps,
        .keep = decay ? 1 - lr * o->weight_decay : 1,
    };
}

struct update_job {
    struct trainer *t;
    struct nn_adamw group[3]; /* by enum rwkv_group */
};

static void update_part(void *ctx, int part, int parts)
{
    struct update_job *j = ctx;
    struct trainer *t = j->t;
    size_t lo, hi;
    pool_slice(t->l->count, 16, part, parts, &lo, &hi);
    for (size_t i = 0; i < t->l->n; i++) {
        const struct rwkv_param *p = &t->l->param[i];
        size_t a = p->offset > lo ? p->offset : lo;
        size_t b = p->offset + p->count < hi ? p->offset + p->count : hi;
        if (a < b)
            t->op.adamw_update(t->params + a, t->m + a, t->v + a, t->grad[0] + a, b - a,
                               &j->group[p->group]);
    }
}

void trainer_update(struct trainer *t, const struct adamw_options *o, double lr, uint64_t step,
                    double norm)
{
    struct update_job j = {.t = t};
    j.group[RWKV_GROUP_PLAIN] = train_adamw(o, lr, false, step, norm);
    j.group[RWKV_GROUP_W0] = train_adamw(o, 2 * lr, false, step, norm);
    j.group[RWKV_GROUP_DECAY] = train_adamw(o, lr, true, step, norm);
    pool_run(t->pool, update_part, &j);
}

double train_lr(const struct train_schedule *s, uint64_t step)
{
    double f = s->lr_final / s->lr, warm = 1, progress = 0;
    if (step < s->warmup)
        warm = 0.01 + 0.99 * (double)step / (double)s->warmup;
    else if (s->steps > s->warmup)
        progress = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    progress = progress > 1 ? 1 : progress;
    return s->lr * warm * ((0.5 + f / 2) + (0.5 - f / 2) * cos(3.14159265358979323846 * progress));
}
