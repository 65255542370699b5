#include "engine/train/state.h"

#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdio.h>

int state_tuner_init(struct state_tuner *s, struct trainer *t, size_t batch, struct err *e)
{
    const struct rwkv_shape *shape = &t->l->shape;
    memset(s, 0, sizeof *s);
    s->t = t;
    s->n = shape->n_layer * shape->n_embd * shape->head_size;
    s->S = rwkv_layout_state(t->l);
    s->batch = batch;
    s->theta = mem_calloc_aligned(s->n, sizeof *s->theta);
    s->m = mem_calloc_aligned(s->n, sizeof *s->m);
    s->v = mem_calloc_aligned(s->n, sizeof *s->v);
    s->grad = mem_calloc_aligned(s->n, sizeof *s->grad);
    size_t n;
    if (mem_mul(batch, s->S, &n)) {
        s->states = mem_calloc_aligned(n, sizeof *s->states);
        s->dstates = mem_calloc_aligned(n, sizeof *s->dstates);
    }
    if (s->theta && s->m && s->v && s->grad && s->states && s->dstates)
        return 0;
    state_tuner_fini(s);
    return err_set(e, ERR_NOMEM, "state tuning: out of memory");
}

void state_tuner_fini(struct state_tuner *s)
{
    free(s->theta);
    free(s->m);
    free(s->v);
    free(s->grad);
    free(s->states);
    free(s->dstates);
    memset(s, 0, sizeof *s);
}

void state_tuner_begin(struct state_tuner *s, const float *state)
{
    size_t C = s->t->l->shape.n_embd, CN = C * s->t->l->shape.head_size;
    for (size_t i = 0; i < s->t->l->shape.n_layer; i++)
        memcpy(s->theta + i * CN, state + i * (2 * C + CN) + C, CN * sizeof *state);
}

void state_tuner_expand(const struct state_tuner *s, float *out)
{
    size_t C = s->t->l->shape.n_embd, CN = C * s->t->l->shape.head_size;
    memset(out, 0, s->S * sizeof *out);
    for (size_t i = 0; i < s->t->l->shape.n_layer; i++)
        memcpy(out + i * (2 * C + CN) + C, s->theta + i * CN, CN * sizeof *out);
}

/* grad += the recurrent part of a state's gradient. */
static void gather(struct state_tuner *s, const float *dstate)
{
    size_t C = s->t->l->shape.n_embd, CN = C * s->t->l->shape.head_size;
    for (size_t i = 0; i < s->t->l->shape.n_layer; i++)
        for (size_t n = 0; n < CN; n++)
            s->grad[i * CN + n] += dstate[i * (2 * C + CN) + C + n];
}

double state_tuner_step(struct state_tuner *s, struct train_seq *seqs, size_t n,
                        const struct adamw_options *o, double lr, uint64_t step, double *norm)
{
    struct trainer *t = s->t;
    memset(s->grad, 0, s->n * sizeof *s->grad);
    for (size_t b = 0; b < n; b++) {
        seqs[b].state = s->states + b * s->S;
        seqs[b].dstate = s->dstates + b * s->S;
        state_tuner_expand(s, seqs[b].state);
        memset(seqs[b].dstate, 0, s->S * sizeof(float));
    }
    double loss = trainer_gradients(t, seqs, n, false), sum = 0;
    for (size_t b = 0; b < n; b++)
        gather(s, seqs[b].dstate);
    t->op.sumsq_add(&sum, s->grad, s->n);
    *norm = sqrt(sum);
    if (!isfinite(loss) || !isfinite(*norm))
        return loss;
    struct nn_adamw a = train_adamw(o, lr, true, step, *norm);
    t->op.adamw_update(s->theta, s->m, s->v, s->grad, s->n, &a);
    return loss;
}

int state_tuner_write(const struct state_tuner *s, const char *path, struct err *e)
{
    const struct rwkv_shape *shape = &s->t->l->shape;
    static const struct tensor_meta orientation = {
        .key = "orientation", .type = TENSOR_META_STR, .str = "value_key"};
    size_t L = shape->n_layer, N = shape->head_size, H = shape->n_embd / N;
    struct tensor *t = calloc(L, sizeof *t);
    char(*name)[48] = calloc(L, sizeof *name);
    int rc = t && name ? 0 : err_set(e, ERR_NOMEM, "state file: out of memory");
    for (size_t i = 0; i < L && rc == 0; i++) {
        snprintf(name[i], sizeof *name, "blocks.%zu.att.time_state", i);
        t[i] = (struct tensor){.name = name[i],
                               .dtype = DTYPE_F32,
                               .n_dims = 3,
                               .shape = {H, N, N},
                               .count = H * N * N,
                               .bytes = H * N * N * 4,
                               .data = s->theta + i * H * N * N};
    }
    if (rc == 0)
        rc = safetensors_write(path, t, L, &orientation, 1, e);
    free(name);
    free(t);
    return rc;
}
