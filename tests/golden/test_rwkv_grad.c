/* RWKV-7 loss and gradients against torch autograd in float64 (golden rwkv7-grad): zero initial
 * state, a given one, and a masked loss; every parameter, the initial state per sample, the logits.
 * Both the double form and the float form of each instruction set. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/rwkv/grad.h"

#include <math.h>
#include <stdlib.h>

enum { B = 2, T = 24, V = 64 };

struct fixture {
    struct tensor_file *f;
    struct rwkv_layout l;
    float *params;
    double *params64;
};

static float *load(const struct tensor_file *f, size_t count, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static float *load(const struct tensor_file *f, size_t count, const char *fmt, ...)
{
    char name[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return golden_f32(f, name, count);
}

static void fixture_open(struct fixture *x)
{
    struct err e = {0};
    x->f = golden_open("rwkv7-grad/grad-n64.safetensors");
    struct rwkv_shape s = {.n_layer = 2,
                           .n_embd = 64,
                           .head_size = 64,
                           .n_ffn = 256,
                           .n_vocab = V,
                           .rank_w = 16,
                           .rank_a = 12,
                           .rank_v = 8,
                           .rank_g = 20};
    assert_int_equal(rwkv_layout_init(&x->l, &s, &e), 0);
    x->params = calloc(x->l.count, sizeof *x->params);
    x->params64 = calloc(x->l.count, sizeof *x->params64);
    for (size_t i = 0; i < x->l.n; i++) {
        const struct rwkv_param *p = &x->l.param[i];
        float *t = load(x->f, p->count, "param.%s", p->name);
        for (size_t n = 0; n < p->count; n++)
            x->params64[p->offset + n] = x->params[p->offset + n] = t[n];
        free(t);
    }
}

static void fixture_close(struct fixture *x)
{
    tensor_file_close(x->f);
    rwkv_layout_fini(&x->l);
    free(x->params);
    free(x->params64);
}

/* |got - want| <= 1e-4 * max|want|, as the golden data's README asks. */
static void check_grad(const char *what, const double *got, const float *want, size_t n)
{
    double top = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - (double)want[i]);
        top = fmax(top, fabs((double)want[i]));
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
    }
    if (worst > 1e-4 * top)
        fail_msg("%s: off by %.3g, largest element %.3g", what, worst, top);
}

/* The state of a sample in our layout, from the golden tensors of this prefix. */
static void state_load(const struct fixture *x, const char *prefix, size_t b, double *state)
{
    static const char *const part[] = {"att_x_prev", "wkv", "ffn_x_prev"};
    size_t at = 0, size[] = {64, 64 * 64, 64};
    for (size_t i = 0; i < 2; i++)
        for (int p = 0; p < 3; p++) {
            float *t = load(x->f, B * 2 * size[p], "%s.%s", prefix, part[p]);
            for (size_t n = 0; n < size[p]; n++)
                state[at + n] = t[(b * 2 + i) * size[p] + n];
            at += size[p];
            free(t);
        }
}

struct result {
    double loss, *dparams, *dstate[B], *state[B], *ce, *dlogits, *logits;
};

/* The form under test: double, or float of an instruction set, results widened. */
static void run_f64(const struct fixture *x, const uint32_t *tok, const uint32_t *tgt,
                    const double *weight, struct result *r)
{
    struct rwkv_work_f64 *w = rwkv_work_new_f64(&x->l, &nn_f64, T);
    assert_non_null(w);
    r->loss = 0;
    for (size_t b = 0; b < B; b++) {
        r->loss += rwkv_forward_f64(w, x->params64, tok + b * T, tgt + b * T, weight + b * T, T,
                                    r->state[b], r->ce + b * T, r->logits + b * T * V);
        rwkv_backward_f64(w, x->params64, r->dparams, true, r->dstate[b], r->dlogits + b * T * V);
    }
    rwkv_work_free_f64(w);
}

static float *narrow(const double *x, size_t n)
{
    float *y = calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

static void widen(double *y, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    free(x);
}

static void run_f32(const struct fixture *x, enum cpu_level isa, const uint32_t *tok,
                    const uint32_t *tgt, const double *weight, struct result *r)
{
    size_t S = rwkv_layout_state(&x->l);
    struct rwkv_work_f32 *w = rwkv_work_new_f32(&x->l, nn_f32_for(isa), T);
    float *wt = narrow(weight, B * T), *dp = narrow(r->dparams, x->l.count);
    assert_non_null(w);
    r->loss = 0;
    for (size_t b = 0; b < B; b++) {
        float *st = narrow(r->state[b], S), *ds = narrow(r->dstate[b], S);
        float *ce = calloc(T, sizeof *ce), *lg = calloc(T * V, sizeof *lg),
              *dl = calloc(T * V, sizeof *dl);
        r->loss +=
            rwkv_forward_f32(w, x->params, tok + b * T, tgt + b * T, wt + b * T, T, st, ce, lg);
        rwkv_backward_f32(w, x->params, dp, true, ds, dl);
        widen(r->state[b], st, S);
        widen(r->dstate[b], ds, S);
        widen(r->ce + b * T, ce, T);
        widen(r->logits + b * T * V, lg, T * V);
        widen(r->dlogits + b * T * V, dl, T * V);
    }
    widen(r->dparams, dp, x->l.count);
    free(wt);
    rwkv_work_free_f32(w);
}

static void check_case(const struct fixture *x, const char *name, const struct result *r)
{
    char what[96];
    double want_loss;
    snprintf(what, sizeof what, "%s.loss", name);
    const struct tensor *t = tensor_file_find(x->f, what);
    assert_non_null(t);
    assert_int_equal(t->dtype, DTYPE_F64);
    memcpy(&want_loss, t->data, sizeof want_loss);
    if (!(fabs(r->loss - want_loss) <= 1e-5))
        fail_msg("%s: %.9g, want %.9g", what, r->loss, want_loss);
    for (size_t i = 0; i < x->l.n; i++) {
        const struct rwkv_param *p = &x->l.param[i];
        snprintf(what, sizeof what, "%s.grad.%s", name, p->name);
        float *want = load(x->f, p->count, "%s", what);
        check_grad(what, r->dparams + p->offset, want, p->count);
        free(want);
    }
    snprintf(what, sizeof what, "%s.grad_logits", name);
    float *want = load(x->f, B * T * V, "%s", what);
    check_grad(what, r->dlogits, want, B * T * V);
    free(want);
    size_t S = rwkv_layout_state(&x->l);
    double *state = calloc(S, sizeof *state);
    for (size_t b = 0; b < B; b++) {
        snprintf(what, sizeof what, "%s.grad_init_state", name);
        state_load(x, what, b, state);
        float *w = narrow(state, S);
        check_grad(what, r->dstate[b], w, S);
        free(w);
        if (!strcmp(name, "masked"))
            continue;
        snprintf(what, sizeof what, "%s.final_state", name);
        state_load(x, what, b, state);
        w = narrow(state, S);
        check_grad(what, r->state[b], w, S);
        free(w);
    }
    free(state);
    if (!strcmp(name, "masked"))
        return;
    want = load(x->f, B * T * V, "%s.logits", name);
    check_grad("logits", r->logits, want, B * T * V);
    free(want);
    want = load(x->f, B * T, "%s.ce", name);
    check_grad("ce", r->ce, want, B * T);
    free(want);
}

static void ids(const struct fixture *x, const char *name, uint32_t *out)
{
    float *t = golden_f32(x->f, name, B * T);
    for (size_t i = 0; i < B * T; i++)
        out[i] = (uint32_t)t[i];
    free(t);
}

/* isa < 0: double. */
static void run_case(const struct fixture *x, const char *name, int isa)
{
    uint32_t tok[B * T], tgt[B * T];
    double weight[B * T], ones = 0;
    size_t S = rwkv_layout_state(&x->l);
    ids(x, "tokens", tok);
    ids(x, "targets", tgt);
    float *mask = golden_f32(x->f, "mask", B * T);
    for (size_t i = 0; i < B * T; i++)
        ones += weight[i] = strcmp(name, "masked") ? 1 : (double)mask[i];
    for (size_t i = 0; i < B * T; i++)
        weight[i] /= ones;
    free(mask);
    struct result r = {.dparams = calloc(x->l.count, sizeof(double)),
                       .ce = calloc(B * T, sizeof(double)),
                       .logits = calloc(B * T * V, sizeof(double)),
                       .dlogits = calloc(B * T * V, sizeof(double))};
    for (size_t b = 0; b < B; b++) {
        r.state[b] = calloc(S, sizeof(double));
        r.dstate[b] = calloc(S, sizeof(double));
        if (strcmp(name, "zero"))
            state_load(x, "init_state", b, r.state[b]);
    }
    if (isa < 0)
        run_f64(x, tok, tgt, weight, &r);
    else
        run_f32(x, (enum cpu_level)isa, tok, tgt, weight, &r);
    check_case(x, name, &r);
    for (size_t b = 0; b < B; b++) {
        free(r.state[b]);
        free(r.dstate[b]);
    }
    free(r.dparams);
    free(r.ce);
    free(r.logits);
    free(r.dlogits);
}

static void all_cases(int isa)
{
    struct fixture x;
    gemm_setup();
    fixture_open(&x);
    run_case(&x, "zero", isa);
    run_case(&x, "given", isa);
    run_case(&x, "masked", isa);
    fixture_close(&x);
}

static void test_double(void **state)
{
    (void)state;
    all_cases(-1);
}

static void test_float(void **state)
{
    (void)state;
    for (enum cpu_level l = CPU_C; l; l = cpu_level_next(l))
        if (cpu_detect(l) == l)
            all_cases((int)l);
        else
            printf("skip: this CPU has no %s\n", cpu_level_name(l));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_double),
        cmocka_unit_test(test_float),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
