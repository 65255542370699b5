/* Every operation's backward against central differences in double (4-point stencil), and every
 * float variant against double. An operation without a case here fails the test. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/nn/nn.h"

#include <math.h>
#include <stdlib.h>

struct dims {
    size_t T, H, N, C, O;
    size_t S; /* samples that the T rows belong to, where an operation knows of them */
};
#define MAX_T   40
#define CROSS_M 7
/* places that samples attend to */
static const size_t cross_m[] = {5, 0, CROSS_M, 1};
static uint32_t test_tokens[MAX_T]; /* ids below C, some twice */

#define CASES(XX)                                                                                  \
    XX(embed)                                                                                      \
    XX(norm)                                                                                       \
    XX(shift)                                                                                      \
    XX(linear)                                                                                     \
    XX(project)                                                                                    \
    XX(tanh)                                                                                       \
    XX(sigmoid)                                                                                    \
    XX(decay) XX(vres) XX(kk) XX(kmod) XX(wkv7) XX(bonus) XX(mul) XX(relu2) XX(xent) XX(silu)      \
        XX(gelu) XX(bias) XX(token_project) XX(adaln) XX(gate) XX(attention) XX(cross)

#define REAL    double
#define OPS     struct nn_f64
#define F(name) name##_f64
#include "tests/property/grad_cases.h"
#undef REAL
#undef OPS
#undef F
#define REAL    float
#define OPS     struct nn_f32
#define F(name) name##_f32
#include "tests/property/grad_cases.h"

enum { MAX_IN = 7, MAX_OUT = 2, N_AUX = 4, AUX = 300000 };

/* Sizes of inputs and outputs by letter, how inputs are drawn, and what backward does to each one's
 * gradient: + adds to it, = sets it. */
static const struct shapes {
    const char *name, *in, *out, *draw, *grad;
} shapes[] = {
    /* T: [T, C]   C: [C]   W: [C, O]   O: [T, O]   E: [C, C]   S: [H, N, N]   t: [T]
     * M: [S, 3 C]   G: [T / S, C, O]   Q: [T, 3 C]   K: [S, CROSS_M, 2 C]
     * n: normal   u: (0.05, 0.95)   d: a decay   k: unit per head   r: normal, away from 0 */
    {"embed", "E", "T", "n", "+"},
    {"norm", "TCC", "T", "nnn", "+++"},
    {"shift", "TCC", "T", "nnu", "+++"},
    {"linear", "TW", "O", "nn", "++"},
    {"project", "TW", "O", "nn", "=+"},
    {"tanh", "T", "T", "n", "="},
    {"sigmoid", "TC", "TT", "nn", "=+"},
    {"decay", "T", "T", "u", "="},
    {"vres", "TTT", "T", "nnu", "=+="},
    {"kk", "TC", "T", "nn", "++"},
    {"kmod", "TTC", "T", "nun", "=++"},
    {"wkv7", "TTTTTTS", "TS", "ndnnkun", "======="},
    {"bonus", "TTTTC", "T", "nnnnn", "+++++"},
    {"mul", "TT", "T", "nn", "=="},
    {"relu2", "T", "T", "r", "="},
    {"xent", "T", "t", "n", "="},
    {"silu", "T", "T", "n", "+"},
    {"gelu", "T", "T", "n", "="},
    {"bias", "TC", "T", "nn", "++"},
    {"token_project", "TG", "O", "nn", "++"},
    {"adaln", "TM", "T", "nn", "++"},
    {"gate", "TTM", "T", "nnn", "+++"},
    {"attention", "Q", "T", "n", "+"},
    {"cross", "TK", "T", "nn", "++"},
};
enum { N_CASES = sizeof shapes / sizeof *shapes };

static size_t size_of(const struct dims *d, char c)
{
    return c == 'T'   ? d->T * d->C
           : c == 'C' ? d->C
           : c == 'W' ? d->C * d->O
           : c == 'O' ? d->T * d->O
           : c == 'E' ? d->C * d->C
           : c == 'S' ? d->H * d->N * d->N
           : c == 'M' ? d->S * 3 * d->C
           : c == 'G' ? d->T / d->S * d->O * d->C
           : c == 'Q' ? d->T * 3 * d->C
           : c == 'K' ? d->S * CROSS_M * 2 * d->C
                      : d->T;
}

static void draw(double *x, size_t n, char how, const struct dims *d, struct rng *rng)
{
    for (size_t i = 0; i < n; i++) {
        double z = rng_normal(rng), u = rng_uniform(rng);
        x[i] = how == 'u'   ? 0.05 + 0.9 * u
               : how == 'd' ? 0.55 + 0.44 * u
               : how == 'r' ? z + copysign(0.05, z)
                            : z;
    }
    for (size_t g = 0; how == 'k' && g < n; g += d->N) {
        double s = 0;
        for (size_t i = 0; i < d->N; i++)
            s += x[g + i] * x[g + i];
        for (size_t i = 0; i < d->N; i++)
            x[g + i] /= sqrt(s);
    }
}

/* One operation at one size: inputs, weights of the outputs in the scalar that is differentiated.
 */
struct problem {
    struct dims d;
    size_t which, n_in, n_out, in_n[MAX_IN], out_n[MAX_OUT];
    double *in[MAX_IN], *out[MAX_OUT], *dout[MAX_OUT], *din[MAX_IN], *aux[N_AUX];
};

static double *room(size_t n)
{
    double *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

static struct problem problem_new(size_t which, struct dims d, struct rng *rng)
{
    struct problem p = {.d = d, .which = which};
    const struct shapes *s = &shapes[which];
    for (; s->in[p.n_in]; p.n_in++) {
        size_t n = p.in_n[p.n_in] = size_of(&d, s->in[p.n_in]);
        p.in[p.n_in] = room(n);
        p.din[p.n_in] = room(n);
        draw(p.in[p.n_in], n, s->draw[p.n_in], &d, rng);
    }
    for (; s->out[p.n_out]; p.n_out++) {
        size_t n = p.out_n[p.n_out] = size_of(&d, s->out[p.n_out]);
        p.out[p.n_out] = room(n);
        p.dout[p.n_out] = room(n);
        draw(p.dout[p.n_out], n, 'n', &d, rng);
    }
    for (int i = 0; i < N_AUX; i++)
        p.aux[i] = room(AUX);
    return p;
}

static void problem_free(struct problem *p)
{
    for (size_t i = 0; i < MAX_IN; i++)
        free(p->in[i]), free(p->din[i]);
    for (size_t i = 0; i < MAX_OUT; i++)
        free(p->out[i]), free(p->dout[i]);
    for (int i = 0; i < N_AUX; i++)
        free(p->aux[i]);
}

/* The scalar: sum over outputs of dout . out. */
static double scalar(struct problem *p)
{
    double s = 0;
    fns_f64[p->which].forward(&nn_f64, &p->d, p->in, p->out, p->aux);
    for (size_t o = 0; o < p->n_out; o++)
        for (size_t i = 0; i < p->out_n[o]; i++)
            s += p->dout[o][i] * p->out[o][i];
    return s;
}

static double at_step(struct problem *p, size_t k, const double *base, const double *dir, double h)
{
    for (size_t i = 0; i < p->in_n[k]; i++)
        p->in[k][i] = base[i] + h * dir[i];
    return scalar(p);
}

/* Derivative of the scalar along dir in input k: 4-point stencil, error of order h^4. */
static double derivative(struct problem *p, size_t k, const double *base, const double *dir)
{
    const double h = 1e-3;
    double d = 8 * (at_step(p, k, base, dir, h) - at_step(p, k, base, dir, -h)) -
               (at_step(p, k, base, dir, 2 * h) - at_step(p, k, base, dir, -2 * h));
    memcpy(p->in[k], base, p->in_n[k] * sizeof *base);
    return d / (12 * h);
}

static void analytic(struct problem *p, const double *start)
{
    for (size_t k = 0; k < p->n_in; k++)
        for (size_t i = 0; i < p->in_n[k]; i++)
            p->din[k][i] = start[(i + k) % 7];
    scalar(p);
    fns_f64[p->which].backward(&nn_f64, &p->d, p->in, p->out, p->dout, p->din, p->aux);
    for (size_t k = 0; k < p->n_in; k++)
        for (size_t i = 0; shapes[p->which].grad[k] == '+' && i < p->in_n[k]; i++)
            p->din[k][i] -= start[(i + k) % 7];
}

static double largest(const double *x, size_t n)
{
    double m = 0;
    for (size_t i = 0; i < n; i++)
        m = fmax(m, fabs(x[i]));
    return m;
}

static void expect(const struct problem *p, size_t k, double got, double want, double scale)
{
    if (!(fabs(got - want) <= 1e-8 * scale))
        fail_msg("%s: input %zu: backward says %.12g, differences %.12g (scale %g)",
                 shapes[p->which].name, k, got, want, scale);
}

/* Each element of each input (every: true) or a few random directions. Gradients are begun at a
 * nonzero value, which must be added to or overwritten. */
static void check_problem(size_t which, struct dims d, bool every, struct rng *rng)
{
    static const double start[7] = {0.5, -1, 2, 0.25, -3, 1, 4};
    struct problem p = problem_new(which, d, rng);
    analytic(&p, start);
    for (size_t k = 0; k < p.n_in; k++) {
        size_t n = p.in_n[k], tries = every ? n : 3;
        double *base = room(n), *dir = room(n), scale = largest(p.din[k], n);
        memcpy(base, p.in[k], n * sizeof *base);
        assert_true(scale > 0);
        for (size_t t = 0; t < tries; t++) {
            double dot = 0;
            for (size_t i = 0; i < n; i++)
                dir[i] = every ? i == t : rng_normal(rng) / sqrt((double)n);
            for (size_t i = 0; i < n; i++)
                dot += dir[i] * p.din[k][i];
            expect(&p, k, dot, derivative(&p, k, base, dir), fmax(scale, 1));
        }
        free(base);
        free(dir);
    }
    problem_free(&p);
}

static void set_up(struct rng *rng, uint64_t seed)
{
    gemm_setup();
    rng_init(rng, seed, 0);
    for (size_t t = 0; t < MAX_T; t++)
        test_tokens[t] = (uint32_t)(t * t % 7);
}

static struct dims dims_of(size_t T, size_t H, size_t N, size_t O)
{
    size_t S = T % 2 == 0 ? 2 : T % 3 == 0 ? 3 : 1;
    return (struct dims){T, H, N, H * N, O, S};
}

static void test_every_element(void **state)
{
    (void)state;
    struct rng rng;
    set_up(&rng, 1);
    for (size_t c = 0; c < N_CASES; c++) /* 19 steps: a whole wkv7 chunk and a part of one */
        check_problem(
            c, !strcmp(shapes[c].name, "wkv7") ? dims_of(19, 2, 16, 0) : dims_of(6, 2, 16, 9), true,
            &rng);
}

static void test_directions(void **state)
{
    (void)state;
    struct rng rng;
    set_up(&rng, 2);
    const struct dims sizes[] = {dims_of(1, 1, 32, 7),   dims_of(2, 2, 32, 5),
                                 dims_of(16, 3, 32, 32), dims_of(33, 2, 64, 17),
                                 dims_of(40, 1, 128, 3), dims_of(17, 2, 48, 5)};
    for (size_t c = 0; c < N_CASES; c++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            check_problem(c, sizes[s], false, &rng);
}

static float *narrow(const double *x, size_t n)
{
    float *y = aligned_alloc(64, (n * sizeof *y + 63) / 64 * 64);
    assert_non_null(y);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

/* Differences are measured against the largest element, or 0.1: inputs are of order 1. */
static void compare(const char *op, const char *level, const char *what, const float *got,
                    const double *want, size_t n, double tol)
{
    double scale = largest(want, n), worst = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        worst = e <= worst ? worst : isnan(e) ? INFINITY : e;
    }
    if (!(worst <= tol * fmax(scale, 0.1)))
        fail_msg("%s, %s: %s differs from double by %.3g (largest %.3g)", op, level, what, worst,
                 scale);
}

/* The same inputs, rounded to float for both, through a float variant and through double. */
static void check_float(size_t which, struct dims d, const struct nn_f32 *op, const char *level,
                        double tol, struct rng *rng)
{
    struct problem p = problem_new(which, d, rng);
    float *in[MAX_IN] = {0}, *out[MAX_OUT] = {0}, *dout[MAX_OUT] = {0}, *din[MAX_IN] = {0},
          *aux[N_AUX];
    static const double zeros[7];
    for (size_t k = 0; k < p.n_in; k++) {
        in[k] = narrow(p.in[k], p.in_n[k]);
        din[k] = narrow(p.din[k], p.in_n[k]);
        for (size_t i = 0; i < p.in_n[k]; i++)
            p.in[k][i] = (double)in[k][i];
    }
    for (size_t o = 0; o < p.n_out; o++) {
        out[o] = narrow(p.out[o], p.out_n[o]);
        dout[o] = narrow(p.dout[o], p.out_n[o]);
        for (size_t i = 0; i < p.out_n[o]; i++)
            p.dout[o][i] = (double)dout[o][i];
    }
    for (int i = 0; i < N_AUX; i++)
        aux[i] = narrow(p.aux[i], AUX);
    analytic(&p, zeros);
    fns_f32[which].forward(op, &d, in, out, aux);
    fns_f32[which].backward(op, &d, in, out, dout, din, aux);
    for (size_t o = 0; o < p.n_out; o++)
        compare(shapes[which].name, level, "output", out[o], p.out[o], p.out_n[o], tol);
    for (size_t k = 0; k < p.n_in; k++)
        compare(shapes[which].name, level, "gradient", din[k], p.din[k], p.in_n[k], tol);
    for (size_t k = 0; k < p.n_in; k++)
        free(in[k]), free(din[k]);
    for (size_t o = 0; o < p.n_out; o++)
        free(out[o]), free(dout[o]);
    for (int i = 0; i < N_AUX; i++)
        free(aux[i]);
    problem_free(&p);
}

static void test_float_variants(void **state)
{
    (void)state;
    struct rng rng;
    set_up(&rng, 3);
    const struct dims sizes[] = {dims_of(1, 1, 16, 1), dims_of(7, 3, 16, 5), dims_of(21, 2, 32, 33),
                                 dims_of(33, 2, 64, 17), dims_of(18, 1, 128, 3)};
    for (enum cpu_level level = CPU_C; level && cpu_detect(level) == level;
         level = cpu_level_next(level))
        for (size_t c = 0; c < N_CASES; c++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
                check_float(c, sizes[s], nn_f32_for(level), cpu_level_name(level), 1e-5, &rng);
}

/* BF16 products: 8 bits of mantissa in, so a looser bound, against double on the unrounded inputs.
 */
static void test_bf16_products(void **state)
{
    (void)state;
    struct rng rng;
    struct nn_f32 op = *nn_f32_for(CPU_AUTO);
    set_up(&rng, 4);
    if (!nn_bf16_products(&op))
        skip();
    for (size_t c = 0; c < N_CASES; c++)
        if (!strcmp(shapes[c].name, "linear") || !strcmp(shapes[c].name, "project") ||
            !strcmp(shapes[c].name, "token_project"))
            for (size_t T = 1; T <= 40; T += 13)
                check_float(c, dims_of(T, 3, 16, 37), &op, "bf16", 2e-2, &rng);
}

/* Every pair in the list of operations has its case. */
static void test_all_covered(void **state)
{
    (void)state;
    static const char *const names[] = {
#define NN_REAL        float
#define XX(name, args) #name,
        NN_OPS(XX)
#undef XX
    };
    size_t pairs = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *end = strstr(names[i], "_backward");
        if (!end)
            continue;
        size_t c = 0, n = (size_t)(end - names[i]);
        while (c < N_CASES && (strncmp(shapes[c].name, names[i], n) || shapes[c].name[n]))
            c++;
        if (c == N_CASES)
            fail_msg("%s has no gradient test", names[i]);
        pairs++;
    }
    assert_int_equal(pairs, N_CASES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_element),  cmocka_unit_test(test_directions),
        cmocka_unit_test(test_float_variants), cmocka_unit_test(test_bf16_products),
        cmocka_unit_test(test_all_covered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
