/* The step of a diffuser's training: which samples, gradients of a batch, Adam, averaged weights.
 *
 * Every draw (row, timestep, condition, noise) comes from the seed, the step and the sample's place
 * in the batch, so the position of a run is its step alone. Threads: one caller; the pool works
 * inside. */
#ifndef ENGINE_TRAIN_DIT_TRAINER_H
#define ENGINE_TRAIN_DIT_TRAINER_H

#include "engine/dit/denoiser.h"
#include "engine/dit/diffuser.h"
#include "engine/manifold/points.h"
#include "engine/train/dit_recipe.h"
#include "engine/train/ema.h"

#define DIT_MICRO 16 /* samples that go through the network together */

struct dit_trainer {
    const struct dit_recipe *r;
    const struct dataset *d;
    struct diffuser *net; /* layout, schedule and normaliser; its params are the averaged weights */
    struct nn_f32 op;
    const struct manifold_run *run;
    struct pool *pool; /* the run's */
    int threads;
    size_t n;                /* coordinates of a state */
    float *z;                /* [rows, n] coordinates of all rows */
    float *cond;             /* [rows, cond_dim] normalised vectors of all rows */
    size_t *train, n_train;  /* rows to train on, by document */
    size_t *begin, *end;     /* [rows]: the row's document in `train` */
    struct ema_weights w;    /* its average: net->params */
    struct dit_bench *bench; /* [threads] */
};

/* net must have layout, codec, schedule and params (of any values); everything must outlive the
 * trainer. Encodes all rows, asking the run between them, and fits the normaliser into net. ERR_NOMEM,
 * ERR_INVALID, ERR_CANCELLED. */
int dit_trainer_init(struct dit_trainer *t, const struct dit_recipe *r, const struct dataset *d,
                     struct diffuser *net, const struct manifold_run *run, struct err *e)
    __attribute__((warn_unused_result));
/* About how many bytes one takes on so many rows; 0: no memory to tell. */
double dit_trainer_plan(const struct dit_layout *l, size_t rows, int threads);
void dit_trainer_fini(struct dit_trainer *t); /* a zeroed one is fine */

/* Step number `step` from 0: returns the batch's mean squared error before it; *norm: of the
 * gradient before clipping. Not finite: nothing is changed. The run is called, not asked, between
 * micro-batches. */
double dit_trainer_step(struct dit_trainer *t, uint64_t step, double lr, double *norm);

enum dit_eval_by { DIT_EVAL_OWN, DIT_EVAL_TEXT, DIT_EVAL_LABEL, DIT_EVAL_NONE, DIT_EVAL_COUNT };
#define DIT_EVAL_TIMES 5 /* t = 100, 300, 500, 700, 900 */
/* Mean squared error of the predicted coordinates of matrices (their variance is 1; shift vectors,
 * which are easier, are left out) with the averaged weights, over at most `most` held-out rows
 * (training rows where none are held out). */
void dit_trainer_evaluate(struct dit_trainer *t, size_t most,
                          double error[DIT_EVAL_COUNT][DIT_EVAL_TIMES]);

#endif
