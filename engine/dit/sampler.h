/* Samplers of discrete diffusion, one step at a time over arrays of doubles.
 *
 *     struct dit_solver z;
 *     dit_solver_init(&z, &schedule, &options, n, &e);
 *     for (size_t i = schedule.n; i-- > 0;) {
 *         predict(x, schedule.step[i].t, out);             the network, guided
 *         dit_solver_step(&z, i, x, out, noise);
 *     }                                                    x is the sample
 *
 *     ddim          Song et al. 2021; eta 0 deterministic, 1 as noisy as ddpm
 *     ddpm          Ho et al. 2020, the ancestral step with the posterior's variance (or beta's)
 *     dpmsolver++   Lu et al. 2022, second-order multistep (2M) in data prediction; the first and
 *     the
 *                   last step are first-order
 *
 * Doubles, since at the noisy end an error of the prediction of eps is multiplied by
 * 1 / sqrt(alpha_bar), 2e4 for the cosine schedule. An element's bytes depend on its own inputs
 * alone. Threads: one at a time for a solver. */
#ifndef ENGINE_DIT_SAMPLER_H
#define ENGINE_DIT_SAMPLER_H

#include "engine/dit/schedule.h"

#include <stdint.h>

/* What the network's output stands for: the noise, the sample, or v = sqrt(ab) eps - sqrt(1 - ab)
 * x0 (Salimans and Ho 2022). */
enum dit_prediction { DIT_PREDICT_EPS, DIT_PREDICT_X0, DIT_PREDICT_V };
enum dit_scheduler { DIT_DDIM, DIT_DDPM, DIT_DPMSOLVERPP };

const char *dit_prediction_name(enum dit_prediction p); /* "eps", "x0", "v" */
bool dit_prediction_parse(const char *s, enum dit_prediction *out);
const char *dit_scheduler_name(enum dit_scheduler s); /* "ddim", "ddpm", "dpmsolver++" */
bool dit_scheduler_parse(const char *s, enum dit_scheduler *out);

struct dit_solver_options {
    enum dit_prediction prediction;
    enum dit_scheduler scheduler;
    double eta;          /* ddim only, 0 to 1 */
    bool large_variance; /* ddpm only: beta instead of the posterior's variance */
    double clip;         /* predicted samples are cut to [-clip, clip]; 0: not */
};

struct dit_solver {
    const struct dit_schedule *s;
    struct dit_solver_options o;
    size_t n;
    double *x0;      /* [n]: the sample predicted by the last step */
    double *x0_prev; /* [n]: by the step before */
    bool has_prev;
};

/* For arrays of n numbers; the schedule must outlive it. ERR_INVALID, ERR_NOMEM. */
int dit_solver_init(struct dit_solver *z, const struct dit_schedule *s,
                    const struct dit_solver_options *o, size_t n, struct err *e)
    __attribute__((warn_unused_result));
void dit_solver_fini(struct dit_solver *z); /* a zeroed one is fine */
/* Whether step i multiplies its noise by anything: then noise must be given. */
bool dit_solver_wants_noise(const struct dit_solver *z, size_t i);
/* From x at step i of the schedule, where the network said `out`, to the next lower noise level
 * (step i - 1; after step 0: the sample). Steps are taken downwards without gaps; z->x0 is then the
 * sample predicted on the way. noise [n]: standard normal, or NULL where not wanted. */
void dit_solver_step(struct dit_solver *z, size_t i, double *x, const double *out,
                     const double *noise);
/* DDIM backwards: from x at step i, where the network said `out`, to step i + 1. A sample itself
 * stands for x at step 0. */
void dit_solver_invert(struct dit_solver *z, size_t i, double *x, const double *out);

/* x [n]: x0 with as much noise as step p has. */
void dit_add_noise(double *x, const double *x0, const double *noise, const struct dit_step *p,
                   size_t n);
/* What the network should say at step p. */
double dit_target(enum dit_prediction k, const struct dit_step *p, double x0, double noise);
/* Classifier-free guidance (Ho and Salimans 2022): out = base + scale (out - base), base being the
 * output without a condition, or with the negative one. */
void dit_guide(double *out, const double *base, double scale, size_t n);
/* Standard normal numbers [n] of one sample at one moment: the same for the same seed, sample and
 * moment, whatever is drawn beside them. */
void dit_noise(double *out, size_t n, uint64_t seed, uint32_t sample, uint32_t moment);

#endif
