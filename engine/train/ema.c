#include "engine/train/ema.h"

#include "daemon/base/mem.h"

#include <math.h>
#include <unistd.h>

int ema_init(struct ema_weights *w, size_t count, float *average, int threads, struct err *e)
{
    *w = (struct ema_weights){.count = count, .average = average, .threads = threads};
    w->params = mem_calloc_large(count, sizeof *w->params);
    w->m = mem_calloc_large(count, sizeof *w->m);
    w->v = mem_calloc_large(count, sizeof *w->v);
    w->grad = calloc((size_t)threads, sizeof *w->grad);
    bool ok = w->params && w->m && w->v && w->grad;
    for (int k = 0; ok && k < threads; k++) {
        w->grad[k] = mem_calloc_large(count, sizeof **w->grad);
        ok = w->grad[k];
    }
    if (ok)
        return 0;
    ema_fini(w);
    return err_set(e, ERR_NOMEM, "training: out of memory");
}

void ema_fini(struct ema_weights *w)
{
    for (int k = 0; k < w->threads && w->grad; k++)
        free(w->grad[k]);
    free(w->grad);
    free(w->params);
    free(w->m);
    free(w->v);
    memset(w, 0, sizeof *w);
}

void ema_sum_part(struct ema_weights *w, struct pool *pool, int part, int parts)
{
    size_t lo, hi;
    pool_barrier(pool);
    pool_slice(w->count, 16, part, parts, &lo, &hi);
    for (int k = 1; k < parts; k++)
        for (size_t i = lo; i < hi; i++)
            w->grad[0][i] += w->grad[k][i];
}

double ema_norm(const struct ema_weights *w, const struct nn_f32 *op)
{
    double squares = 0;
    op->sumsq_add(&squares, w->grad[0], w->count);
    return sqrt(squares);
}

struct update_job {
    struct ema_weights *w;
    const struct nn_f32 *op;
    struct nn_adamw adam;
    float keep;
};

/* In pieces, so that the average finds the weights in the first cache. */
#define PIECE 2048

static void update_part(void *ctx, int part, int parts)
{
    struct update_job *j = ctx;
    struct ema_weights *w = j->w;
    size_t lo, hi;
    pool_slice(w->count, 16, part, parts, &lo, &hi);
    for (size_t at = lo; at < hi; at += PIECE) {
        const size_t end = hi - at < PIECE ? hi : at + PIECE;
        j->op->adamw_update(w->params + at, w->m + at, w->v + at, w->grad[0] + at, end - at,
                            &j->adam);
        for (size_t i = at; i < end; i++)
            w->average[i] = j->keep * w->average[i] + (1 - j->keep) * w->params[i];
    }
}

void ema_step(struct ema_weights *w, const struct ema_options *o, struct pool *pool, double lr,
              uint64_t step, double norm)
{
    const double early = (1 + (double)step) / (10 + (double)step);
    struct update_job j = {w, o->op, train_adamw(o->adamw, lr, true, step + 1, norm),
                           (float)(o->keep < early ? o->keep : early)};
    pool_run(pool, update_part, &j);
}

int ema_run_checkpoint(struct ema_weights *w, struct train_run *r,
                       const struct checkpoint_number same[2], bool write, struct err *e)
{
    char path[TRAIN_PATH];
    struct checkpoint_array arrays[] = {
        {"params", DTYPE_F32, w->count, w->params},
        {"adam.m", DTYPE_F32, w->count, w->m},
        {"adam.v", DTYPE_F32, w->count, w->v},
        {"average", DTYPE_F32, w->count, w->average},
    };
    struct checkpoint_number numbers[] = {{"step", r->step, false}, same[0], same[1]};
    struct checkpoint c = {.arrays = arrays, .n_arrays = 4, .numbers = numbers, .n_numbers = 3};
    train_run_path(r, "checkpoint.safetensors", path);
    if (write)
        return checkpoint_write(&c, path, e);
    int rc = access(path, F_OK) == 0 ? checkpoint_read(&c, path, e) : 0;
    r->step = numbers[0].value;
    return rc;
}
