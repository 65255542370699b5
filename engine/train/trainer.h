/* The step of every RWKV training: gradients of a batch of sequences, clipping, AdamW.
 *
 * A batch is cut by sequences: thread k of the pool takes sequences k, k + threads, ... forward and
 * backward with buffers of its own, then the threads' gradients are added in thread order. So the
 * bytes of a result depend on the data, the seed and the number of threads, not on timing.
 *
 * Threads: one caller at a time; the pool works inside the calls. */
#ifndef ENGINE_TRAIN_TRAINER_H
#define ENGINE_TRAIN_TRAINER_H

#include "engine/kernels/cpu.h"
#include "engine/kernels/pool.h"
#include "engine/rwkv/grad.h"

struct adamw_options {
    double beta1, beta2, eps, weight_decay;
    double clip; /* largest global norm of the gradient; 0: no clipping */
};

/* One sequence of a batch: T + 1 tokens, each predicting the next. */
struct train_seq {
    const uint32_t *tokens;
    size_t T;
    float *state;  /* in: initial, out: final (params.h); NULL: zero */
    float *dstate; /* out: gradient with respect to the initial state; NULL: not wanted */
    double ce;     /* out: sum of the cross entropies, nats */
};

struct trainer {
    const struct rwkv_layout *l;
    struct nn_f32 op;
    struct pool *pool;
    int threads;
    size_t max_T;
    float *params, *m, *v; /* [l->count] each, owned; m and v are AdamW's moments */
    float **grad;          /* [threads][l->count]; grad[0] holds the sum after trainer_gradients */
    struct rwkv_work_f32 **work; /* [threads] */
    float **weight; /* [threads][2 max_T]: the weight of each token, then the cross entropies */
};

/* For sequences of up to max_T tokens, with the operations `op`; params start at zero. The layout
 * and the pool must outlive it, and it must stay where it is. ERR_NOMEM. */
int trainer_init(struct trainer *t, const struct rwkv_layout *l, struct pool *pool,
                 const struct nn_f32 *op, size_t max_T, struct err *e)
    __attribute__((warn_unused_result));
/* The layout of the model in a file, which stays open in *f also on an error. ERR_IO, ERR_FORMAT, ERR_NOMEM. */
int trainer_read_layout(const char *path, struct rwkv_layout *l, struct tensor_file **f,
                        struct err *e) __attribute__((warn_unused_result));
/* About how many bytes one takes; 0: no memory to tell. */
double trainer_plan(const struct rwkv_layout *l, int threads, size_t max_T);
void trainer_fini(struct trainer *t); /* a zeroed one is fine */

/* The gradient of the mean cross entropy over all tokens of the batch, left in grad[0]; returns
 * that mean. With matrices false only the states' gradients (and the vectors') are computed. */
double trainer_gradients(struct trainer *t, struct train_seq *seqs, size_t n, bool matrices);
/* Global L2 norm of grad[0]. */
double trainer_norm(const struct trainer *t);
/* The name of the first tensor whose gradient holds a NaN or an infinity, or NULL. */
const char *trainer_find_nonfinite(const struct trainer *t);
/* AdamW step number `step` (from 1) with the reference's groups. */
void trainer_update(struct trainer *t, const struct adamw_options *o, double lr, uint64_t step,
                    double norm);
/* Forward only: fills ce (and the final states). */
void trainer_evaluate(struct trainer *t, struct train_seq *seqs, size_t n);

/* 1, or what a gradient of this norm is multiplied by. */
double train_clip_scale(double clip, double norm);
/* The options as the operation takes them, for one group. */
struct nn_adamw train_adamw(const struct adamw_options *o, double lr, bool decay, uint64_t step,
                            double norm);

struct train_schedule {
    double lr, lr_final;
    uint64_t steps, warmup; /* warm-up is part of steps */
};
/* Cosine from lr to lr_final over the steps after the warm-up, which rises from 1 % (reference).
 * step counts from 0. */
double train_lr(const struct train_schedule *s, uint64_t step);

#endif
