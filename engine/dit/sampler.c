#include "engine/dit/sampler.h"

#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const predictions[] = {"eps", "x0", "v"};
static const char *const schedulers[] = {"ddim", "ddpm", "dpmsolver++"};

static bool parse(const char *s, const char *const *names, int *out)
{
    for (int k = 0; k < 3; k++)
        if (!strcmp(s, names[k]))
            return *out = k, true;
    return false;
}

const char *dit_prediction_name(enum dit_prediction p)
{
    return predictions[p];
}

bool dit_prediction_parse(const char *s, enum dit_prediction *out)
{
    int k = 0;
    bool ok = parse(s, predictions, &k);
    *out = (enum dit_prediction)k;
    return ok;
}

const char *dit_scheduler_name(enum dit_scheduler s)
{
    return schedulers[s];
}

bool dit_scheduler_parse(const char *s, enum dit_scheduler *out)
{
    int k = 0;
    bool ok = parse(s, schedulers, &k);
    *out = (enum dit_scheduler)k;
    return ok;
}

int dit_solver_init(struct dit_solver *z, const struct dit_schedule *s,
                    const struct dit_solver_options *o, size_t n, struct err *e)
{
    *z = (struct dit_solver){.s = s, .o = *o, .n = n};
    if (!(o->eta >= 0 && o->eta <= 1))
        return err_set_param(e, ERR_INVALID, "eta", "eta must be from 0 to 1");
    z->x0 = calloc(n, sizeof *z->x0);
    z->x0_prev = calloc(n, sizeof *z->x0_prev);
    if (z->x0 && z->x0_prev)
        return 0;
    dit_solver_fini(z);
    return err_set(e, ERR_NOMEM, "diffusion sampler: out of memory");
}

void dit_solver_fini(struct dit_solver *z)
{
    free(z->x0);
    free(z->x0_prev);
    memset(z, 0, sizeof *z);
}

/* The sample that the output stands for. */
static void predict_x0(struct dit_solver *z, double ab, const double *x, const double *out)
{
    const double a = sqrt(ab), s = sqrt(1 - ab), clip = z->o.clip;
    for (size_t n = 0; n < z->n; n++) {
        double x0 = z->o.prediction == DIT_PREDICT_X0  ? out[n]
                    : z->o.prediction == DIT_PREDICT_V ? a * x[n] - s * out[n]
                                                       : (x[n] - s * out[n]) / a;
        z->x0[n] = clip > 0 ? fmax(-clip, fmin(clip, x0)) : x0;
    }
}

static double ddim_sigma(const struct dit_solver *z, const struct dit_step *p)
{
    double prev = p->alpha_bar_prev;
    return z->o.eta * sqrt((1 - prev) / (1 - p->alpha_bar)) * sqrt(1 - p->alpha_bar / prev);
}

/* x_prev = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - sigma^2) eps + sigma noise, eps from x0. */
static void ddim(const struct dit_solver *z, const struct dit_step *p, double *x,
                 const double *noise)
{
    const double ab = p->alpha_bar, prev = p->alpha_bar_prev, sigma = ddim_sigma(z, p);
    const double a = sqrt(ab), s = sqrt(1 - ab), to = sqrt(prev);
    const double dir = sqrt(fmax(1 - prev - sigma * sigma, 0));
    for (size_t n = 0; n < z->n; n++) {
        double eps = (x[n] - a * z->x0[n]) / s;
        x[n] = to * z->x0[n] + dir * eps + (sigma > 0 ? sigma * noise[n] : 0);
    }
}

static void ddpm(const struct dit_solver *z, size_t i, double *x, const double *noise)
{
    const struct dit_step *p = &z->s->step[i];
    double sigma = !i ? 0 : z->o.large_variance ? sqrt(p->beta) : exp(0.5 * p->log_variance);
    for (size_t n = 0; n < z->n; n++)
        x[n] = p->mean_x0 * z->x0[n] + p->mean_xt * x[n] + (i ? sigma * noise[n] : 0);
}

/* lambda = log(alpha / sigma): half the logarithm of the signal-to-noise ratio. */
static double lambda_of(double ab)
{
    return 0.5 * log(ab / (1 - ab));
}

/* x_prev = sigma_prev / sigma x - alpha_prev (e^-h - 1) D,  h = lambda_prev - lambda,
 * D = x0 + (x0 - x0_before) / (2 r),  r = h_before / h  (2M; D = x0: first order). */
static void dpmsolverpp(const struct dit_solver *z, size_t i, double *x)
{
    const struct dit_step *p = &z->s->step[i];
    if (i == 0) { /* no noise is left: h is infinite */
        memcpy(x, z->x0, z->n * sizeof *x);
        return;
    }
    const double ab = p->alpha_bar, prev = p->alpha_bar_prev;
    const double h = lambda_of(prev) - lambda_of(ab), grow = sqrt(prev) * -expm1(-h);
    const double shrink = sqrt((1 - prev) / (1 - ab));
    double c = 0;
    if (z->has_prev)
        c = h / (2 * (lambda_of(ab) - lambda_of(z->s->step[i + 1].alpha_bar)));
    for (size_t n = 0; n < z->n; n++)
        x[n] = shrink * x[n] + grow * (z->x0[n] + c * (z->x0[n] - z->x0_prev[n]));
}

bool dit_solver_wants_noise(const struct dit_solver *z, size_t i)
{
    return i > 0 && (z->o.scheduler == DIT_DDPM || (z->o.scheduler == DIT_DDIM && z->o.eta > 0));
}

void dit_solver_step(struct dit_solver *z, size_t i, double *x, const double *out,
                     const double *noise)
{
    const struct dit_step *p = &z->s->step[i];
    double *spare = z->x0_prev;
    z->x0_prev = z->x0;
    z->x0 = spare;
    predict_x0(z, p->alpha_bar, x, out);
    if (z->o.scheduler == DIT_DDPM)
        ddpm(z, i, x, noise);
    else if (z->o.scheduler == DIT_DDIM)
        ddim(z, p, x, noise);
    else
        dpmsolverpp(z, i, x);
    z->has_prev = true;
}

void dit_solver_invert(struct dit_solver *z, size_t i, double *x, const double *out)
{
    const double ab = z->s->step[i].alpha_bar, up = z->s->step[i + 1].alpha_bar;
    const double a = sqrt(ab), s = sqrt(1 - ab), a_up = sqrt(up), s_up = sqrt(1 - up);
    predict_x0(z, ab, x, out);
    for (size_t n = 0; n < z->n; n++)
        x[n] = a_up * z->x0[n] + s_up * (x[n] - a * z->x0[n]) / s;
}

void dit_add_noise(double *x, const double *x0, const double *noise, const struct dit_step *p,
                   size_t n)
{
    const double a = sqrt(p->alpha_bar), s = sqrt(1 - p->alpha_bar);
    for (size_t k = 0; k < n; k++)
        x[k] = a * x0[k] + s * noise[k];
}

double dit_target(enum dit_prediction k, const struct dit_step *p, double x0, double noise)
{
    return k == DIT_PREDICT_X0    ? x0
           : k == DIT_PREDICT_EPS ? noise
                                  : sqrt(p->alpha_bar) * noise - sqrt(1 - p->alpha_bar) * x0;
}

void dit_guide(double *out, const double *base, double scale, size_t n)
{
    for (size_t k = 0; k < n; k++)
        out[k] = base[k] + scale * (out[k] - base[k]);
}

void dit_noise(double *out, size_t n, uint64_t seed, uint32_t sample, uint32_t moment)
{
    struct rng r;
    rng_init(&r, seed, (uint64_t)sample << 32 | moment);
    for (size_t k = 0; k < n; k++)
        out[k] = rng_normal(&r);
}
