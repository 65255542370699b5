/* The Diffusion Transformer against DiT's own blocks under torch autograd in float64 (golden dit):
 * every stage forward, every gradient; the double form and the float form of each instruction
 * set. */
#include "tests/lib/check.h"

#include "engine/dit/denoiser.h"
#include "engine/kernels/gemm.h"

#include <math.h>
#include <stdlib.h>

enum { S = 3, N_TOKEN = 16, DIM = 32, C = 64, ROWS = S * N_TOKEN };

struct fixture {
    struct tensor_file *f;
    struct dit_layout l;
    double *params, *dparams, *out, *dx, *dy;
};

/* Our parameter's name in the golden data. */
static void golden_name(char *to, size_t size, const char *prefix, const char *name)
{
    static const char *const map[][2] = {
        {"x_proj", "x_embedder"},
        {"t_embed", "t_embedder.mlp"},
        {"final.adaln", "final_layer.adaLN_modulation.1"},
        {"final.out", "final_layer.linear"},
        {".adaln", ".adaLN_modulation.1"},
        {".qkv", ".attn.qkv"},
        {".proj", ".attn.proj"},
        {".fc1", ".mlp.fc1"},
        {".fc2", ".mlp.fc2"},
    };
    for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
        const char *at = strstr(name, map[i][0]);
        if (!at)
            continue;
        snprintf(to, size, "%s.%.*s%s%s", prefix, (int)(at - name), name, map[i][1],
                 at + strlen(map[i][0]));
        return;
    }
    fail_msg("no golden name for %s", name);
}

/* Element k of our parameter p in the golden tensor: theirs are [out, in], these two ours [in,
 * out]. */
static size_t golden_index(const struct dit_param *p, size_t k)
{
    if (strcmp(p->name, "x_proj.weight") && strcmp(p->name, "final.out.weight"))
        return k;
    size_t in = p->shape[1], out = p->shape[2];
    return k % out * in + k / out;
}

/* The biases of input and output are a token's own here: all start alike, the position embedding
 * being part of the first. */
static void fixture_open(struct fixture *x)
{
    struct err e = {0};
    const struct dit_shape shape = {
        .n_token = N_TOKEN, .token_dim = DIM, .n_embd = C, .n_head = 4, .n_block = 2, .n_mlp = 256};
    x->f = golden_open("dit/dit.safetensors");
    assert_int_equal(dit_layout_init(&x->l, &shape, &e), 0);
    x->params = calloc(x->l.count, sizeof(double));
    x->dparams = calloc(x->l.count, sizeof(double));
    x->out = calloc(ROWS * DIM, sizeof(double));
    x->dx = calloc(ROWS * DIM, sizeof(double));
    x->dy = calloc(S * C, sizeof(double));
    float *pos = golden_f32(x->f, "pos", N_TOKEN * C);
    for (size_t i = 0; i < x->l.n; i++) {
        const struct dit_param *p = &x->l.param[i];
        char name[96];
        if (!strcmp(p->name, "label_embed.weight"))
            continue;
        golden_name(name, sizeof name, "param", p->name);
        const struct tensor *t = tensor_file_find(x->f, name);
        assert_non_null(t);
        float *v = golden_f32(x->f, name, t->count);
        for (size_t k = 0; k < p->count; k++)
            x->params[p->offset + k] = (double)v[golden_index(p, k) % t->count] +
                                       (strcmp(p->name, "x_proj.bias") ? 0 : (double)pos[k]);
        free(v);
    }
    free(pos);
}

static void fixture_close(struct fixture *x)
{
    tensor_file_close(x->f);
    dit_layout_fini(&x->l);
    free(x->params);
    free(x->dparams);
    free(x->out);
    free(x->dx);
    free(x->dy);
}

static double *widen(const float *x, size_t n)
{
    double *y = calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

static float *narrow(const double *x, size_t n)
{
    float *y = calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

static void back(double *to, float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (double)from[i];
    free(from);
}

/* d(mean squared error) / d(out). */
static void loss_gradient(struct fixture *x, double *dout)
{
    float *target = golden_f32(x->f, "target", ROWS * DIM);
    double loss = 0, want;
    for (size_t i = 0; i < ROWS * DIM; i++) {
        double d = x->out[i] - (double)target[i];
        loss += d * d / (ROWS * DIM);
        dout[i] = 2 * d / (ROWS * DIM);
    }
    memcpy(&want, tensor_file_find(x->f, "loss")->data, sizeof want);
    if (!(fabs(loss - want) <= 1e-5 * want))
        fail_msg("loss %.12g, want %.12g", loss, want);
    free(target);
}

static void run_f64(struct fixture *x)
{
    static const double t[S] = {0, 17, 999};
    float *gx = golden_f32(x->f, "x", ROWS * DIM), *gy = golden_f32(x->f, "y", S * C);
    double *in = widen(gx, ROWS * DIM), *y = widen(gy, S * C), dout[ROWS * DIM];
    struct dit_work_f64 *w = dit_work_new_f64(&x->l, &nn_f64, S);
    assert_non_null(w);
    dit_forward_f64(w, x->params, &(struct dit_input_f64){.S = S, .x = in, .t = t, .y = y}, x->out);
    loss_gradient(x, dout);
    dit_backward_f64(w, x->params, x->dparams, dout, x->dx, x->dy);
    dit_work_free_f64(w);
    free(gx);
    free(gy);
    free(in);
    free(y);
}

static void run_f32(struct fixture *x, enum cpu_level isa)
{
    static const double t[S] = {0, 17, 999};
    float *in = golden_f32(x->f, "x", ROWS * DIM), *y = golden_f32(x->f, "y", S * C);
    float *p = narrow(x->params, x->l.count), *dp = narrow(x->dparams, x->l.count);
    float *out = calloc(ROWS * DIM, sizeof *out), *dx = calloc(ROWS * DIM, sizeof *dx),
          *dy = calloc(S * C, sizeof *dy);
    double dout[ROWS * DIM];
    struct dit_work_f32 *w = dit_work_new_f32(&x->l, nn_f32_for(isa), S);
    assert_non_null(w);
    dit_forward_f32(w, p, &(struct dit_input_f32){.S = S, .x = in, .t = t, .y = y}, out);
    back(x->out, out, ROWS * DIM);
    loss_gradient(x, dout);
    float *d = narrow(dout, ROWS * DIM);
    dit_backward_f32(w, p, dp, d, dx, dy);
    back(x->dparams, dp, x->l.count);
    back(x->dx, dx, ROWS * DIM);
    back(x->dy, dy, S * C);
    dit_work_free_f32(w);
    free(d);
    free(p);
    free(in);
    free(y);
}

/* |got - want| <= tol * max|want|. */
static void check(struct fixture *x, const char *name, const double *got, size_t n, double tol)
{
    float *want = golden_f32(x->f, name, n);
    double top = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - (double)want[i]);
        top = fmax(top, fabs((double)want[i]));
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
    }
    if (!(worst <= tol * top))
        fail_msg("%s: off by %.3g, largest element %.3g", name, worst, top);
    free(want);
}

static void check_gradients(struct fixture *x)
{
    for (size_t i = 0; i < x->l.n; i++) {
        const struct dit_param *p = &x->l.param[i];
        char name[96];
        if (!strcmp(p->name, "label_embed.weight"))
            continue;
        golden_name(name, sizeof name, "grad", p->name);
        size_t n = tensor_file_find(x->f, name)->count;
        double *sum = calloc(n, sizeof *sum); /* a shared bias gathers what each token's gets */
        for (size_t k = 0; k < p->count; k++)
            sum[golden_index(p, k) % n] += x->dparams[p->offset + k];
        /* what reads the sinusoid has the reference's float32 rounding of it */
        check(x, name, sum, n, strcmp(p->name, "t_embed.0.weight") ? 1e-5 : 1e-4);
        free(sum);
    }
    check(x, "grad_x", x->dx, ROWS * DIM, 1e-5);
    check(x, "grad_y", x->dy, S * C, 1e-5);
}

static void run(int isa)
{
    struct fixture x;
    if (isa >= 0 && cpu_detect((enum cpu_level)isa) != (enum cpu_level)isa)
        skip();
    gemm_setup();
    fixture_open(&x);
    if (isa < 0)
        run_f64(&x);
    else
        run_f32(&x, (enum cpu_level)isa);
    check(&x, "out", x.out, ROWS * DIM, 1e-5);
    check_gradients(&x);
    fixture_close(&x);
}

static void test_double(void **state)
{
    (void)state;
    run(-1);
}

static void test_float_c(void **state)
{
    (void)state;
    run(CPU_C);
}

static void test_float_avx2(void **state)
{
    (void)state;
    run(CPU_AVX2);
}

static void test_float_avx512(void **state)
{
    (void)state;
    run(CPU_AVX512);
}

/* The reference computes its sinusoid in float32. */
static void test_timestep(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open("dit/dit.safetensors");
    float *t = golden_f32(f, "t_list", 5);
    static const size_t dims[] = {256, 7};
    for (size_t d = 0; d < 2; d++) {
        char name[32];
        snprintf(name, sizeof name, "t_freq_%zu", dims[d]);
        float *want = golden_f32(f, name, 5 * dims[d]);
        for (size_t i = 0; i < 5; i++) {
            double got[256];
            dit_timestep(got, (double)t[i], dims[d]);
            for (size_t k = 0; k < dims[d]; k++)
                if (!(fabs(got[k] - (double)want[i * dims[d] + k]) <= 1e-4))
                    fail_msg("%s, t = %g, [%zu]: %g", name, (double)t[i], k, got[k]);
        }
        free(want);
    }
    free(t);
    tensor_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timestep),     cmocka_unit_test(test_double),
        cmocka_unit_test(test_float_c),      cmocka_unit_test(test_float_avx2),
        cmocka_unit_test(test_float_avx512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
