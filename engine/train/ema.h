/* The weights of a network that is trained with Adam and kept as an average (EMA): what a step does
 * behind the gradients of a batch, for every such network.
 *
 * Threads of a pool add to gradients of their own; the parts are then summed in thread order, so the
 * bytes of a result depend on the number of threads, not on timing. One caller at a time. */
#ifndef ENGINE_TRAIN_EMA_H
#define ENGINE_TRAIN_EMA_H

#include "engine/train/checkpoint.h"
#include "engine/train/run.h"
#include "engine/train/trainer.h"

struct ema_weights {
    size_t count;
    float *params, *m, *v; /* [count]: weights, Adam's moments; zero at first */
    float *average;        /* [count], the network's; borrowed */
    int threads;
    float **grad; /* [threads][count]; grad[0] holds the sum after ema_sum_part */
};

/* ERR_NOMEM. */
int ema_init(struct ema_weights *w, size_t count, float *average, int threads, struct err *e)
    __attribute__((warn_unused_result));
void ema_fini(struct ema_weights *w); /* a zeroed one is fine */

/* The last thing in a job of the pool that fills the gradients: waits for all parts, sums. */
void ema_sum_part(struct ema_weights *w, struct pool *pool, int part, int parts);

struct ema_options {
    const struct nn_f32 *op;
    const struct adamw_options *adamw;
    double keep; /* of the average at each step; less at first, (1 + step) / (10 + step) */
};
/* Global L2 norm of the gradient. */
double ema_norm(const struct ema_weights *w, const struct nn_f32 *op);
/* Step number `step` from 0 on a gradient of this norm: clipped, Adam, then the average. */
void ema_step(struct ema_weights *w, const struct ema_options *o, struct pool *pool, double lr,
              uint64_t step, double norm);

/* The checkpoint (checkpoint.h) of a run whose weights these are, with its step and two numbers that must be
 * the same when it goes on: `write`s it, or reads it where there is one. */
int ema_run_checkpoint(struct ema_weights *w, struct train_run *r,
                       const struct checkpoint_number same[2], bool write, struct err *e)
    __attribute__((warn_unused_result));

#endif
