/* The whole Diffusion Transformer's backward against central differences in double: shared and
 * per-token projections, conditions by vector, by label and none in one batch, contexts of different
 * lengths. */
#include "tests/lib/check.h"
#include "tests/lib/differences.h"

#include "engine/dit/denoiser.h"
#include "engine/kernels/gemm.h"

#include <math.h>
#include <stdlib.h>

enum { S = 4, Y = 6, LABELS = 3, X = 5, M = 6 };
static const size_t n_context[S] = {M, 1, 0, 4};
static const double timesteps[S] = {3, 250, 611, 999};
static const uint32_t labels[S] = {DIT_LABEL_TEXT, 1, LABELS, DIT_LABEL_TEXT};

struct model {
    struct dit_layout l;
    struct dit_work_f64 *w;
    double *p, *dp, *x, *dx, *y, *dy, *cond, *out, *dout, *context;
    size_t n_x, n_y;
    bool given; /* y is given, not labels and cond */
};

static void model_open(struct model *m, bool per_token, bool given, bool context, struct rng *rng)
{
    const struct dit_shape s = {.n_token = 5,
                                .token_dim = 7,
                                .n_embd = 12,
                                .n_head = 3,
                                .n_block = 2,
                                .n_mlp = 10,
                                .cond_dim = given ? 0 : Y,
                                .n_label = LABELS,
                                .context_dim = context ? X : 0,
                                .max_context = context ? M : 0,
                                .per_token = per_token};
    struct err e = {0};
    *m = (struct model){.given = given};
    assert_int_equal(dit_layout_init(&m->l, &s, &e), 0);
    m->w = dit_work_new_f64(&m->l, &nn_f64, S);
    assert_non_null(m->w);
    m->n_x = S * s.n_token * s.token_dim;
    m->n_y = S * s.n_embd;
    m->p = normal_numbers(m->l.count, 0.25, rng);
    m->dp = normal_numbers(m->l.count, 0, rng);
    m->x = normal_numbers(m->n_x, 1, rng);
    m->dx = normal_numbers(m->n_x, 0, rng);
    m->y = normal_numbers(m->n_y, 1, rng);
    m->dy = normal_numbers(m->n_y, 0, rng);
    m->cond = normal_numbers(S * Y, 1, rng);
    m->out = normal_numbers(m->n_x, 0, rng);
    m->dout = normal_numbers(m->n_x, 1, rng);
    m->context = normal_numbers(S * M * X, 1, rng);
}

static void model_close(struct model *m)
{
    double *all[] = {m->p, m->dp, m->x, m->dx, m->y, m->dy, m->cond, m->out, m->dout, m->context};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    dit_work_free_f64(m->w);
    dit_layout_fini(&m->l);
}

static double loss(void *ctx)
{
    struct model *m = ctx;
    const struct dit_input_f64 in = {.S = S,
                                     .x = m->x,
                                     .t = timesteps,
                                     .y = m->given ? m->y : NULL,
                                     .label = labels,
                                     .cond = m->cond,
                                     .context = m->context,
                                     .n_context = n_context};
    double sum = 0;
    dit_forward_f64(m->w, m->p, &in, m->out);
    for (size_t i = 0; i < m->n_x; i++)
        sum += m->dout[i] * m->out[i];
    return sum;
}

static void test_differences(void **state)
{
    (void)state;
    struct rng rng;
    gemm_setup();
    rng_init(&rng, 21, 0);
    for (int k = 0; k < 8; k++) {
        struct model m;
        const struct differences d = {loss, &m, 1e-4, &rng};
        model_open(&m, k & 1, k & 2, k & 4, &rng);
        loss(&m);
        dit_backward_f64(m.w, m.p, m.dp, m.dout, m.dx, m.dy);
        for (size_t i = 0; i < m.l.n; i++) {
            const struct dit_param *p = &m.l.param[i];
            if (!m.given || strcmp(p->name, "label_embed.weight"))
                check_gradient(&d, p->name, m.p + p->offset, m.dp + p->offset, p->count);
        }
        check_gradient(&d, "x", m.x, m.dx, m.n_x);
        if (m.given)
            check_gradient(&d, "y", m.y, m.dy, m.n_y);
        model_close(&m);
    }
}

/* Gradients are added to, and the input's may be left out. */
static void test_adds(void **state)
{
    (void)state;
    struct rng rng;
    struct model m;
    rng_init(&rng, 22, 0);
    model_open(&m, true, false, true, &rng);
    loss(&m);
    dit_backward_f64(m.w, m.p, m.dp, m.dout, m.dx, m.dy);
    double *twice = normal_numbers(m.l.count, 0, &rng);
    memcpy(twice, m.dp, m.l.count * sizeof *twice);
    loss(&m);
    dit_backward_f64(m.w, m.p, twice, m.dout, NULL, NULL);
    for (size_t i = 0; i < m.l.count; i++)
        assert_true(fabs(twice[i] - 2 * m.dp[i]) <= 1e-9 * (1 + fabs(m.dp[i])));
    free(twice);
    model_close(&m);
}

/* With one matrix for each place and all alike, the network is the plain one. */
static void test_contains_shared(void **state)
{
    (void)state;
    struct rng rng;
    struct model a, b;
    rng_init(&rng, 23, 0);
    model_open(&a, false, false, true, &rng);
    model_open(&b, true, false, true, &rng);
    for (size_t i = 0; i < a.l.n; i++) {
        const struct dit_param *p = &a.l.param[i], *q = &b.l.param[i];
        assert_string_equal(p->name, q->name);
        for (size_t k = 0; k < q->count; k++)
            b.p[q->offset + k] = a.p[p->offset + k % p->count];
    }
    memcpy(b.x, a.x, a.n_x * sizeof *a.x);
    memcpy(b.context, a.context, S * M * X * sizeof *a.context);
    memcpy(b.cond, a.cond, S * Y * sizeof *a.cond);
    loss(&a);
    loss(&b);
    for (size_t i = 0; i < a.n_x; i++)
        assert_true(fabs(a.out[i] - b.out[i]) <= 1e-12 * (1 + fabs(a.out[i])));
    model_close(&a);
    model_close(&b);
}

/* Rows behind a sample's own change nothing, those before do. */
static void test_context_lengths(void **state)
{
    (void)state;
    struct rng rng;
    struct model m;
    rng_init(&rng, 25, 0);
    model_open(&m, true, false, true, &rng);
    double *before = normal_numbers(m.n_x, 0, &rng);
    loss(&m);
    memcpy(before, m.out, m.n_x * sizeof *before);
    for (size_t s = 0; s < S; s++)
        for (size_t i = n_context[s] * X; i < M * X; i++)
            m.context[s * M * X + i] = rng_normal(&rng);
    loss(&m);
    assert_memory_equal(before, m.out, m.n_x * sizeof *before);
    for (size_t s = 0; s < S; s++) {
        const size_t n = m.n_x / S, at = s * n;
        if (n_context[s])
            m.context[(s * M + n_context[s] - 1) * X] += 1;
        loss(&m);
        assert_int_equal(memcmp(before + at, m.out + at, n * sizeof *before) != 0,
                         n_context[s] > 0);
    }
    free(before);
    model_close(&m);
}

/* Newly begun, it answers 0 to everything (adaLN-Zero), and every matrix but those is not 0. */
static void test_start(void **state)
{
    (void)state;
    struct rng rng;
    struct model m;
    rng_init(&rng, 24, 0);
    model_open(&m, true, false, true, &rng);
    float *p = calloc(m.l.count, sizeof *p);
    dit_params_init(&m.l, p, 5);
    for (size_t i = 0; i < m.l.count; i++)
        m.p[i] = (double)p[i];
    loss(&m);
    for (size_t i = 0; i < m.n_x; i++)
        assert_true(m.out[i] == 0);
    for (size_t i = 0; i < m.l.n; i++) {
        const struct dit_param *q = &m.l.param[i];
        double sum = 0;
        for (size_t k = 0; k < q->count; k++)
            sum += fabs((double)p[q->offset + k]);
        bool zero = strstr(q->name, "adaln") || strstr(q->name, "final") ||
                    strstr(q->name, "cross.proj") ||
                    (strstr(q->name, "bias") && strcmp(q->name, "x_proj.bias"));
        assert_int_equal(sum == 0, zero);
    }
    free(p);
    model_close(&m);
}

static void test_shapes_refused(void **state)
{
    (void)state;
    const struct dit_shape good = {
        .n_token = 2, .token_dim = 2, .n_embd = 4, .n_head = 2, .n_block = 1, .n_mlp = 4};
    struct dit_shape bad[6] = {good, good, good, good, good, good};
    bad[0].n_token = 0;
    bad[1].n_head = 3;
    bad[2].n_block = 100000;
    bad[3].n_label = (size_t)1 << 40;
    bad[4].n_mlp = SIZE_MAX;
    bad[5].context_dim = 4;
    for (size_t i = 0; i < 6; i++) {
        struct dit_layout l;
        struct err e = {0};
        assert_int_equal(dit_layout_init(&l, &bad[i], &e), ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences),     cmocka_unit_test(test_adds),
        cmocka_unit_test(test_contains_shared), cmocka_unit_test(test_start),
        cmocka_unit_test(test_context_lengths), cmocka_unit_test(test_shapes_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
