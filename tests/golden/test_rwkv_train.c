/* 20 AdamW steps against torch in float64 (golden rwkv7-train), and the reference initialisation.
 */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/train/trainer.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 20, B = 2, T = 16 };

static const struct rwkv_shape shape = {.n_layer = 2,
                                        .n_embd = 64,
                                        .head_size = 32,
                                        .n_ffn = 256,
                                        .n_vocab = 64,
                                        .rank_w = 16,
                                        .rank_a = 12,
                                        .rank_v = 8,
                                        .rank_g = 20};

static void load_params(const struct tensor_file *f, const char *prefix,
                        const struct rwkv_layout *l, float *flat)
{
    for (size_t i = 0; i < l->n; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.%s", prefix, l->param[i].name);
        float *x = golden_f32(f, name, l->param[i].count);
        memcpy(flat + l->param[i].offset, x, l->param[i].count * sizeof *x);
        free(x);
    }
}

static double *doubles(const struct tensor_file *f, const char *run, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", run, what);
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != DTYPE_F64 || t->count != STEPS)
        fail_msg("no F64[20] %s", name);
    double *x = malloc(STEPS * sizeof *x);
    memcpy(x, t->data, STEPS * sizeof *x);
    return x;
}

static void load_tokens(const struct tensor_file *f, const char *name, uint32_t *out)
{
    float *x = golden_f32(f, name, STEPS * B * T);
    for (size_t i = 0; i < STEPS * B * T; i++)
        out[i] = (uint32_t)x[i];
    free(x);
}

/* run: its name; start: whose param0 it begins with. */
static void run_20(const struct tensor_file *f, const char *run, const char *start, double eps,
                   int threads)
{
    struct err e = {0};
    struct rwkv_layout l;
    struct trainer t;
    uint32_t tok[STEPS * B * T], tgt[STEPS * B * T];
    const struct adamw_options o = {
        .beta1 = 0.9, .beta2 = 0.99, .eps = eps, .weight_decay = 0.1, .clip = 1};
    char prefix[32];
    struct pool *pool = pool_new(threads, "test", 0, &e);
    assert_non_null(pool);
    assert_int_equal(rwkv_layout_init(&l, &shape, &e), 0);
    assert_int_equal(trainer_init(&t, &l, pool, nn_f32_for(CPU_AUTO), T, &e), 0);
    snprintf(prefix, sizeof prefix, "%s.param0", start);
    load_params(f, prefix, &l, t.params);
    load_tokens(f, "tokens", tok);
    load_tokens(f, "targets", tgt);
    double *loss = doubles(f, run, "loss"), *norm = doubles(f, run, "grad_norm");
    for (size_t s = 0; s < STEPS; s++) {
        uint32_t seq[B][T + 1];
        struct train_seq seqs[B];
        for (size_t b = 0; b < B; b++) {
            const uint32_t *x = tok + (s * B + b) * T, *y = tgt + (s * B + b) * T;
            memcpy(seq[b], x, T * sizeof *x);
            seq[b][T] = y[T - 1];
            for (size_t i = 0; i + 1 < T; i++)
                assert_int_equal(x[i + 1], y[i]);
            seqs[b] = (struct train_seq){.tokens = seq[b], .T = T};
        }
        double got = trainer_gradients(&t, seqs, B, true), got_norm = trainer_norm(&t);
        if (!(fabs(got - loss[s]) <= 1e-4))
            fail_msg("%s step %zu: loss %.9g, want %.9g", run, s, got, loss[s]);
        if (!(fabs(got_norm - norm[s]) <= 1e-4 * norm[s]))
            fail_msg("%s step %zu: norm %.9g, want %.9g", run, s, got_norm, norm[s]);
        trainer_update(&t, &o, 1e-3, s + 1, got_norm);
    }
    float *want = calloc(l.count, sizeof *want);
    snprintf(prefix, sizeof prefix, "%s.param", run);
    load_params(f, prefix, &l, want);
    for (size_t i = 0; i < l.n; i++)
        check_close(l.param[i].name, t.params + l.param[i].offset, want + l.param[i].offset,
                    l.param[i].count, 1e-4);
    free(want);
    free(loss);
    free(norm);
    trainer_fini(&t);
    rwkv_layout_fini(&l);
    pool_free(pool);
}

static void test_twenty_steps(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open("rwkv7-train/train.safetensors");
    gemm_setup();
    for (int threads = 1; threads <= 2; threads++) {
        run_20(f, "refinit", "refinit", 1e-18, threads);
        run_20(f, "refinit_eps8", "refinit", 1e-8, threads);
        run_20(f, "rand", "rand", 1e-18, threads);
    }
    tensor_file_close(f);
}

/* Rows (or columns, if fewer) are orthogonal with the norm of the golden matrix's. */
static void check_orthogonal(const char *name, const float *w, size_t rows, size_t cols,
                             double norm)
{
    bool by_row = rows <= cols;
    size_t n = by_row ? rows : cols, d = by_row ? cols : rows;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double dot = 0;
            for (size_t k = 0; k < d; k++)
                dot += (double)(by_row ? w[i * cols + k] : w[k * cols + i]) *
                       (double)(by_row ? w[j * cols + k] : w[k * cols + j]);
            double want = i == j ? norm * norm : 0;
            if (fabs(dot - want) > 1e-5 * fmax(1, norm * norm))
                fail_msg("%s: <%zu, %zu> = %g, want %g", name, i, j, dot, want);
        }
}

static double norm_of(const float *w, size_t rows, size_t cols)
{
    double s = 0;
    for (size_t i = 0; i < rows * cols; i++)
        s += (double)w[i] * (double)w[i];
    return sqrt(s / (double)(rows < cols ? rows : cols));
}

static bool is_random(const char *name)
{
    static const char *const parts[] = {"w2",      "a2",        "v2",      "g2",  "receptance",
                                        "att.key", "att.value", "ffn.key", "head"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i]))
            return true;
    return false;
}

/* Deterministic tensors equal the reference's; random ones have its orthogonality, scale and range.
 */
static void test_initial_weights(void **state)
{
    (void)state;
    struct err e = {0};
    struct rwkv_layout l;
    struct tensor_file *f = golden_open("rwkv7-train/train.safetensors");
    assert_int_equal(rwkv_layout_init(&l, &shape, &e), 0);
    float *want = calloc(l.count, sizeof *want), *got = calloc(l.count, sizeof *got);
    float *other = calloc(l.count, sizeof *other);
    load_params(f, "refinit.param0", &l, want);
    assert_int_equal(rwkv_params_init(&l, got, 1, &e), 0);
    assert_int_equal(rwkv_params_init(&l, other, 2, &e), 0);
    for (size_t i = 0; i < l.n; i++) {
        const struct rwkv_param *p = &l.param[i];
        const float *g = got + p->offset, *w = want + p->offset;
        if (!strcmp(p->name, "emb.weight")) {
            double top = 0;
            for (size_t n = 0; n < p->count; n++)
                top = fmax(top, fabs((double)g[n]));
            assert_true(top > 0.99e-4 && top <= 1e-4);
        } else if (is_random(p->name)) {
            check_orthogonal(p->name, g, p->shape[0], p->shape[1],
                             norm_of(w, p->shape[0], p->shape[1]));
            assert_true(max_abs_diff(g, other + p->offset, p->count) > 1e-3);
        } else {
            check_close(p->name, g, w, p->count, 1e-6);
        }
    }
    free(want);
    free(got);
    free(other);
    rwkv_layout_fini(&l);
    tensor_file_close(f);
}

/* progress of the reference: lr * (1/2 + f/2 + (1/2 - f/2) cos(pi progress)), warm-up 0.01 + 0.99
 * s/w. */
static void test_schedule(void **state)
{
    (void)state;
    const struct train_schedule s = {.lr = 1e-3, .lr_final = 1e-4, .steps = 110, .warmup = 10};
    assert_true(fabs(train_lr(&s, 0) - 1e-5) < 1e-12);
    assert_true(fabs(train_lr(&s, 5) - 1e-3 * (0.01 + 0.99 * 0.5)) < 1e-12);
    assert_true(fabs(train_lr(&s, 10) - 1e-3) < 1e-12);
    assert_true(fabs(train_lr(&s, 60) - 0.55e-3) < 1e-12);
    assert_true(fabs(train_lr(&s, 110) - 1e-4) < 1e-12);
    assert_true(fabs(train_lr(&s, 1000) - 1e-4) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twenty_steps),
        cmocka_unit_test(test_initial_weights),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
