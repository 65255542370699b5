/* Schedules and samplers against OpenAI's gaussian_diffusion as DiT carries it (golden dit), and
 * what has a closed form against that: for a Gaussian the probability-flow ODE is solved
 * exactly. */
#include "tests/lib/check.h"

#include "engine/dit/sampler.h"

#include <math.h>
#include <stdlib.h>

static const double *f64(const struct tensor_file *f, size_t count, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static const double *f64(const struct tensor_file *f, size_t count, const char *fmt, ...)
{
    char name[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != DTYPE_F64 || t->count != count)
        fail_msg("golden: no F64 tensor %s of %zu", name, count);
    double *copy = malloc(t->bytes); /* the file's data may stand anywhere */
    memcpy(copy, t->data, t->bytes);
    return copy;
}

static void near(const char *what, size_t i, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol))
        fail_msg("%s[%zu]: %.17g, want %.17g", what, i, got, want);
}

static void test_schedules(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open("dit/diffusion_schedules.safetensors");
    for (int k = 0; k < 2; k++) {
        const char *kind = dit_schedule_name((enum dit_schedule_kind)k);
        struct dit_schedule s;
        struct err e = {0};
        assert_int_equal(dit_schedule_init(&s, (enum dit_schedule_kind)k, DIT_TIMESTEPS, &e), 0);
#define CHECK(name, value)                                                                         \
    do {                                                                                           \
        const double *want = f64(f, DIT_TIMESTEPS, "%s.%s", kind, name);                           \
        for (size_t i = 0; i < DIT_TIMESTEPS; i++) {                                               \
            const struct dit_step *p = &s.step[i];                                                 \
            near(name, i, value, want[i], 1e-12 * fabs(want[i]));                                  \
        }                                                                                          \
        free((void *)want);                                                                        \
    } while (0)
        CHECK("betas", p->beta);
        CHECK("alphas_cumprod", p->alpha_bar);
        CHECK("alphas_cumprod_prev", p->alpha_bar_prev);
        CHECK("posterior_variance", p->variance);
        CHECK("posterior_log_variance_clipped", p->log_variance);
        CHECK("posterior_mean_coef1", p->mean_x0);
        CHECK("posterior_mean_coef2", p->mean_xt);
#undef CHECK
        dit_schedule_fini(&s);
    }
    tensor_file_close(f);
}

static void test_respacing(void **state)
{
    (void)state;
    static const size_t fifty[] = {0, 20, 41, 61, 82}, many[] = {0, 4, 8, 12, 16};
    struct dit_schedule all, s;
    struct err e = {0};
    assert_int_equal(dit_schedule_init(&all, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    assert_int_equal(dit_schedule_respace(&s, &all, 10, &e), 0);
    for (size_t i = 0; i < 10; i++) {
        assert_true(s.step[i].t == 111.0 * (double)i);
        near("alpha_bar", i, s.step[i].alpha_bar, all.step[111 * i].alpha_bar, 1e-15);
    }
    dit_schedule_fini(&s);
    assert_int_equal(dit_schedule_respace(&s, &all, 50, &e), 0);
    for (size_t i = 0; i < 5; i++)
        assert_true(s.step[i].t == (double)fifty[i]);
    assert_true(s.step[47].t == 958 && s.step[49].t == 999);
    dit_schedule_fini(&s);
    assert_int_equal(dit_schedule_respace(&s, &all, 250, &e), 0);
    for (size_t i = 0; i < 5; i++)
        assert_true(s.step[i].t == (double)many[i]);
    assert_true(s.step[247].t == 991 && s.step[248].t == 995);
    dit_schedule_fini(&s);
    assert_int_equal(dit_schedule_respace(&s, &all, 1, &e), ERR_INVALID);
    assert_int_equal(dit_schedule_respace(&s, &all, 1001, &e), ERR_INVALID);
    assert_int_equal(dit_schedule_pick(&s, &all, (const size_t[]){3, 3}, 2, &e), ERR_INVALID);
    assert_int_equal(dit_schedule_pick(&s, &all, (const size_t[]){3, 1000}, 2, &e), ERR_INVALID);
    dit_schedule_fini(&all);
}

enum { B = 2, D = 32, STEPS = 10 };

/* The golden data's denoiser: the exact noise of a mixture of two Gaussians of variance 0.09. */
static void predict(double *out, const double *x, double ab, const double *mu1, const double *mu2,
                    enum dit_prediction kind)
{
    double v = ab * 0.09 + 1 - ab, a = sqrt(ab), d1 = 0, d2 = 0;
    for (size_t i = 0; i < D; i++) {
        d1 += (x[i] - a * mu1[i]) * (x[i] - a * mu1[i]) / (2 * v);
        d2 += (x[i] - a * mu2[i]) * (x[i] - a * mu2[i]) / (2 * v);
    }
    double w = 1 / (1 + exp(d1 - d2));
    for (size_t i = 0; i < D; i++) {
        double eps = sqrt(1 - ab) * (x[i] - a * (w * mu1[i] + (1 - w) * mu2[i])) / v;
        double x0 = (x[i] - sqrt(1 - ab) * eps) / a;
        struct dit_step p = {.alpha_bar = ab};
        out[i] = dit_target(kind, &p, x0, eps);
    }
}

struct golden_case {
    const char *name;
    bool strided; /* t = 0, 100, ..., 900 instead of 0, 111, ..., 999 */
    struct dit_solver_options o;
};

/* How far the reference's float32 coefficients carry its predicted sample from the exact one. */
static double rounding(const struct golden_case *c, double ab, double x, double eps)
{
    double a = sqrt(1 / ab), s = sqrt(1 / ab - 1);
    double d = ((double)(float)a - a) * x - ((double)(float)s - s) * eps;
    return c->o.clip > 0 ? 0 : fabs(d);
}

static void run_case(const struct tensor_file *f, const struct dit_schedule *all,
                     const struct golden_case *c, enum dit_prediction kind)
{
    static const size_t strided[] = {0, 100, 200, 300, 400, 500, 600, 700, 800, 900};
    const char *sched = dit_schedule_name(all->kind);
    const double *xT = f64(f, B * D, "xT"), *noise = f64(f, STEPS * B * D, "noise");
    const double *mu1 = f64(f, D, "mu1"), *mu2 = f64(f, D, "mu2");
    const double *want = f64(f, STEPS * B * D, "%s.%s.x", sched, c->name);
    const double *want_x0 = f64(f, STEPS * B * D, "%s.%s.pred_x0", sched, c->name);
    struct dit_schedule s;
    struct dit_solver_options o = c->o;
    struct err e = {0};
    o.prediction = kind;
    assert_int_equal(c->strided ? dit_schedule_pick(&s, all, strided, STEPS, &e)
                                : dit_schedule_respace(&s, all, STEPS, &e),
                     0);
    for (size_t b = 0; b < B; b++) {
        struct dit_solver z;
        double x[D], out[D], eps[D], off[D];
        memcpy(x, xT + b * D, sizeof x);
        assert_int_equal(dit_solver_init(&z, &s, &o, D, &e), 0);
        for (size_t k = 0, i = STEPS; i-- > 0; k++) {
            predict(out, x, s.step[i].alpha_bar, mu1, mu2, kind);
            predict(eps, x, s.step[i].alpha_bar, mu1, mu2, DIT_PREDICT_EPS);
            for (size_t n = 0; n < D; n++)
                off[n] = rounding(c, s.step[i].alpha_bar, x[n], eps[n]);
            dit_solver_step(&z, i, x, out,
                            dit_solver_wants_noise(&z, i) ? noise + (k * B + b) * D : NULL);
            for (size_t n = 0; n < D; n++) {
                near(c->name, n, x[n], want[(k * B + b) * D + n], 5e-5);
                near("pred_x0", n, z.x0[n], want_x0[(k * B + b) * D + n], 5e-5 + off[n]);
            }
        }
        dit_solver_fini(&z);
    }
    dit_schedule_fini(&s);
    free((void *)xT);
    free((void *)noise);
    free((void *)mu1);
    free((void *)mu2);
    free((void *)want);
    free((void *)want_x0);
}

static void test_samplers(void **state)
{
    (void)state;
    static const struct golden_case cases[] = {
        {"ddim_eta0", true, {.scheduler = DIT_DDIM}},
        {"ddim_eta0_r10", false, {.scheduler = DIT_DDIM}},
        {"ddim_eta0_clip", true, {.scheduler = DIT_DDIM, .clip = 1}},
        {"ddim_eta1", true, {.scheduler = DIT_DDIM, .eta = 1}},
        {"ddpm_large", false, {.scheduler = DIT_DDPM, .large_variance = true}},
        {"ddpm_small", false, {.scheduler = DIT_DDPM}},
    };
    struct tensor_file *f = golden_open("dit/diffusion_sampling.safetensors");
    for (int k = 0; k < 2; k++) {
        struct dit_schedule all;
        struct err e = {0};
        assert_int_equal(dit_schedule_init(&all, (enum dit_schedule_kind)k, DIT_TIMESTEPS, &e), 0);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            for (int p = 0; p < 3; p++)
                run_case(f, &all, &cases[c], (enum dit_prediction)p);
        dit_schedule_fini(&all);
    }
    tensor_file_close(f);
}

static void test_noising(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open("dit/diffusion_sampling.safetensors");
    const double *x0 = f64(f, 5 * D, "q.x0"), *noise = f64(f, 5 * D, "q.noise");
    static const size_t t[] = {0, 1, 250, 500, 999};
    for (int k = 0; k < 2; k++) {
        const char *kind = dit_schedule_name((enum dit_schedule_kind)k);
        const double *want = f64(f, 5 * D, "%s.q.x_t", kind);
        const double *mean = f64(f, 5 * D, "%s.q.post_mean", kind);
        struct dit_schedule s;
        struct err e = {0};
        assert_int_equal(dit_schedule_init(&s, (enum dit_schedule_kind)k, DIT_TIMESTEPS, &e), 0);
        for (size_t i = 0; i < 5; i++) {
            const struct dit_step *p = &s.step[t[i]];
            double x[D];
            dit_add_noise(x, x0 + i * D, noise + i * D, p, D);
            for (size_t n = 0; n < D; n++) {
                near("x_t", n, x[n], want[i * D + n], 5e-5);
                near("posterior mean", n, p->mean_x0 * x0[i * D + n] + p->mean_xt * x[n],
                     mean[i * D + n], 5e-5);
            }
        }
        dit_schedule_fini(&s);
        free((void *)want);
        free((void *)mean);
    }
    free((void *)x0);
    free((void *)noise);
    tensor_file_close(f);
}

/* x0 ~ N(m, v): E[x0 | x] = m + a v (x - a m) / (a^2 v + s^2), and the ODE carries
 * (x - a m) / sqrt(a^2 v + s^2) unchanged. Distance from the exact solution at the lowest step. */
static double ode_error(enum dit_scheduler which, size_t steps)
{
    static const double m[] = {0.7, -1.2, 0.1}, v[] = {0.04, 1.5, 0.6}, start[] = {0.4, -1.1, 1.9};
    struct dit_schedule all, s;
    struct dit_solver z;
    struct err e = {0};
    double x[3], out[3], worst = 0;
    /* From t = 900 to 100 in log-SNR-like even steps of t: away from the schedule's singular
     * ends. */
    size_t t[DIT_TIMESTEPS];
    for (size_t i = 0; i <= steps; i++)
        t[i] = 100 + 800 * i / steps;
    assert_int_equal(dit_schedule_init(&all, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    assert_int_equal(dit_schedule_pick(&s, &all, t, steps + 1, &e), 0);
    const struct dit_solver_options o = {.prediction = DIT_PREDICT_X0, .scheduler = which};
    assert_int_equal(dit_solver_init(&z, &s, &o, 3, &e), 0);
    memcpy(x, start, sizeof x);
    for (size_t i = steps; i > 0; i--) {
        double ab = s.step[i].alpha_bar, a = sqrt(ab);
        for (size_t n = 0; n < 3; n++)
            out[n] = m[n] + a * v[n] * (x[n] - a * m[n]) / (ab * v[n] + 1 - ab);
        dit_solver_step(&z, i, x, out, NULL);
    }
    double from = s.step[steps].alpha_bar, to = s.step[0].alpha_bar;
    for (size_t n = 0; n < 3; n++) {
        double u = (start[n] - sqrt(from) * m[n]) / sqrt(from * v[n] + 1 - from);
        double want = sqrt(to) * m[n] + u * sqrt(to * v[n] + 1 - to);
        worst = fmax(worst, fabs(x[n] - want));
    }
    dit_solver_fini(&z);
    dit_schedule_fini(&s);
    dit_schedule_fini(&all);
    return worst;
}

static void test_order_of_convergence(void **state)
{
    (void)state;
    for (size_t n = 20; n <= 80; n *= 2) {
        double slow = ode_error(DIT_DDIM, n) / ode_error(DIT_DDIM, 2 * n);
        double fast = ode_error(DIT_DPMSOLVERPP, n) / ode_error(DIT_DPMSOLVERPP, 2 * n);
        if (!(slow > 1.8 && slow < 2.3) || !(fast > 3.4 && fast < 4.8))
            fail_msg("%zu steps: halving the step divides DDIM's error by %.3g (order 1 is 2), "
                     "2M's by %.3g (order 2 is 4)",
                     n, slow, fast);
    }
    assert_true(ode_error(DIT_DPMSOLVERPP, 20) < ode_error(DIT_DDIM, 160));
}

/* Inversion and back: close to the identity, closer with more steps. */
static double round_trip(size_t steps)
{
    static const double m = 0.3, v = 0.5, start = 1.4;
    struct dit_schedule all, s;
    struct dit_solver z;
    struct err e = {0};
    double x = start, out;
    assert_int_equal(dit_schedule_init(&all, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    assert_int_equal(dit_schedule_respace(&s, &all, steps, &e), 0);
    const struct dit_solver_options o = {.prediction = DIT_PREDICT_X0, .scheduler = DIT_DDIM};
    assert_int_equal(dit_solver_init(&z, &s, &o, 1, &e), 0);
    for (size_t i = 0; i + 1 < steps; i++) {
        double ab = s.step[i].alpha_bar, a = sqrt(ab);
        out = m + a * v * (x - a * m) / (ab * v + 1 - ab);
        dit_solver_invert(&z, i, &x, &out);
    }
    for (size_t i = steps; i-- > 0;) {
        double ab = s.step[i].alpha_bar, a = sqrt(ab);
        out = m + a * v * (x - a * m) / (ab * v + 1 - ab);
        dit_solver_step(&z, i, &x, &out, NULL);
    }
    dit_solver_fini(&z);
    dit_schedule_fini(&s);
    dit_schedule_fini(&all);
    return fabs(x - start);
}

static void test_inversion(void **state)
{
    (void)state;
    double few = round_trip(20), many = round_trip(200);
    if (!(few < 0.2 && many < few / 5))
        fail_msg("there and back: off by %.3g with 20 steps, %.3g with 200", few, many);
}

static void test_guidance_and_noise(void **state)
{
    (void)state;
    double out[] = {1, 2}, base[] = {0.5, 4}, a[100], b[100], sum = 0;
    dit_guide(out, base, 3, 2);
    assert_true(out[0] == 2 && out[1] == -2);
    dit_noise(a, 100, 7, 3, 9);
    dit_noise(b, 100, 7, 3, 9);
    assert_memory_equal(a, b, sizeof a);
    dit_noise(b, 100, 7, 3, 10);
    for (size_t i = 0; i < 100; i++)
        sum += a[i] * b[i];
    assert_true(fabs(sum) < 40); /* four standard deviations of unrelated numbers */
    dit_noise(b, 100, 7, 4, 9);
    assert_memory_not_equal(a, b, sizeof a);
}

static void test_names(void **state)
{
    (void)state;
    enum dit_scheduler s;
    enum dit_prediction p;
    enum dit_schedule_kind k;
    struct dit_solver z;
    struct err e = {0};
    assert_true(dit_scheduler_parse("dpmsolver++", &s) && s == DIT_DPMSOLVERPP);
    assert_false(dit_scheduler_parse("euler", &s));
    assert_true(dit_prediction_parse("v", &p) && p == DIT_PREDICT_V);
    assert_true(dit_schedule_parse("cosine", &k) && k == DIT_SCHEDULE_COSINE);
    assert_false(dit_schedule_parse("", &k));
    assert_int_equal(dit_solver_init(&z, NULL, &(struct dit_solver_options){.eta = 1.5}, 1, &e),
                     ERR_INVALID);
    assert_string_equal(e.param, "eta");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_respacing),
        cmocka_unit_test(test_samplers),
        cmocka_unit_test(test_noising),
        cmocka_unit_test(test_order_of_convergence),
        cmocka_unit_test(test_inversion),
        cmocka_unit_test(test_guidance_and_noise),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
