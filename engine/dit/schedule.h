/* Noise schedules of discrete diffusion: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise.
 *
 *     struct dit_schedule all, ten;
 *     dit_schedule_init(&all, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e);
 *     dit_schedule_respace(&ten, &all, 10, &e);        10 of its steps: t = 0, 111, ..., 999
 *
 * Definitions and names are those of Ho et al. 2020 and Nichol and Dhariwal 2021 (linear: betas
 * from 1e-4 to 0.02 at 1000 steps, scaled for others; cosine: squared cosine, betas at most 0.999).
 * A respaced schedule has betas of its own, 1 - alpha_bar_i / alpha_bar_(i-1) over the steps kept;
 * the network goes on seeing the original timestep.
 *
 * Threads: read-only once made. */
#ifndef ENGINE_DIT_SCHEDULE_H
#define ENGINE_DIT_SCHEDULE_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define DIT_TIMESTEPS 1000 /* of training */

enum dit_schedule_kind { DIT_SCHEDULE_LINEAR, DIT_SCHEDULE_COSINE };

struct dit_step {
    double t;                               /* timestep of the schedule this was taken from */
    double beta, alpha_bar, alpha_bar_prev; /* prev of the first step: 1 */
    /* q(x_prev | x_t, x_0) = N(mean_x0 x_0 + mean_xt x_t, variance); the logarithm's first entry
     * repeats the second, since the first variance is 0. */
    double variance, log_variance, mean_x0, mean_xt;
};

struct dit_schedule {
    enum dit_schedule_kind kind;
    size_t n;
    struct dit_step *step; /* [n], owned, least noise first */
};

const char *dit_schedule_name(enum dit_schedule_kind k); /* "linear", "cosine" */
bool dit_schedule_parse(const char *s, enum dit_schedule_kind *out);

/* n from 2 to DIT_TIMESTEPS. ERR_INVALID, ERR_NOMEM. */
int dit_schedule_init(struct dit_schedule *s, enum dit_schedule_kind kind, size_t n, struct err *e)
    __attribute__((warn_unused_result));
/* The same noise at given timesteps only: t [n], ascending, each below from->n; n may be 1. */
int dit_schedule_pick(struct dit_schedule *s, const struct dit_schedule *from, const size_t *t,
                      size_t n, struct err *e) __attribute__((warn_unused_result));
/* At n timesteps spread evenly from the first to the last, rounded (n from 2 to from->n). */
int dit_schedule_respace(struct dit_schedule *s, const struct dit_schedule *from, size_t n,
                         struct err *e) __attribute__((warn_unused_result));
void dit_schedule_fini(struct dit_schedule *s); /* a zeroed one is fine */

#endif
