/* The vectors that suit a text, by gradient: Adam on theta from given vectors, each group (layer,
 * kind) in units of the root mean square of the model's own numbers; of a low-rank addition's B, which
 * are 0, in units of that of the projection's weights times sqrt(C): as the rows of A have length 1,
 * one such unit in every column changes the projection by about as much as it is.
 *
 *     hybrid_target_begin(&t, theta);
 *     for (...)
 *         hybrid_target_step(&t, windows, n, rate);      t.theta has moved by about rate units
 *
 * A window is read from the zero state behind the separator, as continuations are; a step descends on
 * the mean cross entropy of its windows. A group that is 0 in the model stays.
 *
 * Deterministic. Threads: one descent a thread; layout and weights are shared. */
#ifndef ENGINE_TRAIN_HYBRID_TARGET_H
#define ENGINE_TRAIN_HYBRID_TARGET_H

#include "engine/rwkv/grad.h"

struct hybrid_window {
    const uint8_t *text;
    size_t n; /* at least 1 */
};

struct hybrid_target {
    const struct rwkv_layout *l;
    const float *weights; /* [l->count] */
    struct rwkv_work_f32 *work;
    size_t n_theta, rank;
    float *theta;            /* [n_theta]: where it stands */
    float *unit, *m, *v, *g; /* [n_theta] */
    float *unread;           /* [l->count]: takes the gradients of all else */
    float *weight;           /* [T] */
    uint32_t *tokens;        /* [T + 1] */
    uint64_t steps;          /* since the beginning */
};

/* For theta of a rank and windows of up to T bytes. ERR_NOMEM. */
int hybrid_target_init(struct hybrid_target *t, const struct rwkv_layout *l, const float *weights,
                       size_t rank, size_t T, struct err *e) __attribute__((warn_unused_result));
void hybrid_target_fini(struct hybrid_target *t); /* a zeroed one is fine */

void hybrid_target_begin(struct hybrid_target *t, const float *theta);
void hybrid_target_step(struct hybrid_target *t, const struct hybrid_window *w, size_t n,
                        double rate);
/* Mean nats a byte of a window under theta (not t->theta). */
double hybrid_target_loss(struct hybrid_target *t, const float *theta, struct hybrid_window w);

#endif
