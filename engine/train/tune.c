#include "engine/train/tune.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 16
#define BYTES 128 /* of a text, behind the separator */
#define LR    0.01

int tuning_open(struct tuning *t, const char *model, struct pool *pool, struct err *e)
{
    struct rwkv_shape shape;
    struct tensor_file *f = NULL;
    *t = (struct tuning){0};
    int rc = tensor_file_open(model, &f, e);
    rc = rc < 0 ? rc : rwkv_shape_read(&shape, f, e);
    if (rc == 0 && shape.n_vocab != 256)
        rc = err_set(e, ERR_INVALID, "%s: states are tuned on texts for byte models only", model);
    rc = rc < 0 ? rc : rwkv_layout_init(&t->layout, &shape, e);
    rc = rc < 0 ? rc : rwkv_params_check(&t->layout, f, e);
    rc = rc < 0 ? rc : trainer_init(&t->trainer, &t->layout, pool, nn_f32_for(CPU_AUTO), BYTES, e);
    rc = rc < 0 ? rc : rwkv_params_read(&t->layout, t->trainer.params, f, e);
    rc = rc < 0 ? rc : state_tuner_init(&t->tuner, &t->trainer, BATCH, e);
    t->S = rc < 0 ? 0 : rwkv_layout_state(&t->layout);
    tensor_file_close(f);
    return rc;
}

void tuning_close(struct tuning *t)
{
    state_tuner_fini(&t->tuner);
    trainer_fini(&t->trainer);
    rwkv_layout_fini(&t->layout);
}

static void draw_batch(const struct tuning_job *j, struct rng *rng, uint32_t *tokens,
                       struct train_seq *seqs)
{
    for (size_t b = 0; b < BATCH; b++) {
        const struct dataset_row *r = &j->rows[j->of[rng_below(rng, j->n)]];
        uint32_t *to = tokens + b * (BYTES + 1);
        size_t T = r->n_text < BYTES ? r->n_text : BYTES;
        to[0] = CORPUS_SEPARATOR;
        for (size_t i = 0; i < T; i++)
            to[i + 1] = (unsigned char)r->text[i];
        seqs[b] = (struct train_seq){.tokens = to, .T = T};
    }
}

int tuning_run(struct tuning *t, const struct tuning_job *j, float *state, double *bits,
               struct err *e)
{
    const struct adamw_options o = {.beta1 = .9, .beta2 = .99, .eps = 1e-18, .clip = 1};
    const struct train_schedule schedule = {LR, LR / 25, j->steps, j->steps < 10 ? j->steps : 10};
    struct state_tuner *s = &t->tuner;
    uint32_t *tokens = calloc(BATCH, (BYTES + 1) * sizeof *tokens);
    struct train_seq seqs[BATCH];
    struct rng rng;
    int rc = !tokens ? err_set(e, ERR_NOMEM, "tuning a state: out of memory")
             : !j->n ? err_set(e, ERR_INVALID, "tuning a state: no text")
                     : 0;
    rng_init(&rng, 1, j->seed);
    state_tuner_begin(s, state);
    memset(s->m, 0, s->n * sizeof *s->m);
    memset(s->v, 0, s->n * sizeof *s->v);
    for (size_t step = 0; rc == 0 && step < j->steps; step++) {
        double norm;
        draw_batch(j, &rng, tokens, seqs);
        double loss =
            state_tuner_step(s, seqs, BATCH, &o, train_lr(&schedule, step), step + 1, &norm);
        if (!isfinite(loss) || !isfinite(norm))
            rc = err_set(e, ERR_NUMERIC, "tuning a state: loss %g at step %zu", loss, step);
        *bits = loss * M_LOG2E;
    }
    state_tuner_expand(s, state);
    free(tokens);
    return rc;
}
