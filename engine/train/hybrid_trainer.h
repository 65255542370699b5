/* The steps of a hybrid's training: samples drawn from the pairs, gradients, the update, and the
 * held-out evaluation. A batch is cut by samples, gradients are added in thread order: the bytes
 * depend on the pairs, the recipe and the number of threads. */
#ifndef ENGINE_TRAIN_HYBRID_TRAINER_H
#define ENGINE_TRAIN_HYBRID_TRAINER_H

#include "engine/hybrid/net.h"
#include "engine/train/ema.h"
#include "engine/train/hybrid_data.h"

/* Losses of held-out continuations: with the model's own vectors, under the pair's context, under
 * one of another corpus, under an empty one; where pairs have states, from the pair's with the model's
 * own vectors and under the context (else 0). */
enum {
    HYBRID_PLAIN,
    HYBRID_OWN,
    HYBRID_WRONG,
    HYBRID_NONE,
    HYBRID_STATE,
    HYBRID_BOTH,
    HYBRID_EVALS
};

struct hybrid_bench; /* what a thread works with */

struct hybrid_trainer {
    const struct hybrid_recipe *r;
    const struct hybrid_pairs *p;
    struct hybrid *net; /* its params are the average */
    const struct rwkv_layout *l;
    const float *weights; /* [l->count], frozen */
    struct nn_f32 op;
    struct pool *pool;
    int threads;
    size_t n;                   /* coordinates of a sample */
    float *theta, *no_scale;    /* the model's own vectors; [L, G] zeros */
    float *rows;                /* the pairs' rows, normalised */
    struct ema_weights w;       /* its average: net->params */
    struct hybrid_bench *bench; /* [threads] */
    size_t eval_at;             /* the pair that the first thread looks at */
    void (*between)(void *ctx);
    void *ctx;
};

struct hybrid_setup {
    const struct hybrid_recipe *r;
    const struct hybrid_pairs *p;
    struct hybrid *net; /* after hybrid_init */
    const struct rwkv_layout *l;
    const float *weights;
    struct pool *pool;
    void (*between)(void *ctx); /* called between two rounds of an evaluation: the pool rests */
    void *ctx;
};
/* Also makes net's arrays: scale and normaliser from the training pairs, the first weights. All of s
 * must outlive it. ERR_NOMEM. */
int hybrid_trainer_init(struct hybrid_trainer *t, const struct hybrid_setup *s, struct err *e)
    __attribute__((warn_unused_result));
void hybrid_trainer_fini(struct hybrid_trainer *t); /* a zeroed one is fine */

/* One step at `step` (from 0). loss: nats a byte, mean squared error of v; not finite: nothing was
 * updated. norm: of the gradient, before clipping. */
void hybrid_trainer_step(struct hybrid_trainer *t, uint64_t step, double lr, double loss[2],
                         double *norm);
/* Over the held-out pairs, with the averaged weights: bits a byte, and the diffusion's error. */
void hybrid_trainer_evaluate(struct hybrid_trainer *t, double bits[HYBRID_EVALS],
                             double *diffusion);

#endif
