/* The whole model's backward against central differences in double: every tensor and the initial
 * state, each along random directions, with a gradient coming in through the final state; and that
 * frozen matrices change no other gradient, and that sequences cut in two chain. */
#include "tests/lib/check.h"
#include "tests/lib/differences.h"

#include "engine/kernels/gemm.h"
#include "engine/rwkv/grad.h"

#include <math.h>
#include <stdlib.h>

enum { T = 21, V = 13 };

struct model {
    struct rwkv_layout l;
    struct rwkv_work_f64 *w;
    size_t S;
    double *p, *dp, *state, *dstate, *final,
        *dfinal; /* dfinal: weights of the final state in the loss */
    double weight[T];
    uint32_t tok[T], tgt[T];
};

static void model_open(struct model *m, size_t L, size_t N, size_t C, struct rng *rng)
{
    struct err e = {0};
    const struct rwkv_shape s = {.n_layer = L,
                                 .n_embd = C,
                                 .head_size = N,
                                 .n_ffn = 40,
                                 .n_vocab = V,
                                 .rank_w = 5,
                                 .rank_a = 6,
                                 .rank_v = 3,
                                 .rank_g = 7};
    gemm_setup();
    assert_int_equal(rwkv_layout_init(&m->l, &s, &e), 0);
    m->w = rwkv_work_new_f64(&m->l, &nn_f64, T);
    assert_non_null(m->w);
    m->S = rwkv_layout_state(&m->l);
    m->p = normal_numbers(m->l.count, 0.4, rng);
    for (size_t i = 0; i < m->l.n; i++) /* norm weights around 1, mixes around a half */
        for (size_t n = 0; n < m->l.param[i].count; n++)
            if (strstr(m->l.param[i].name, "ln") || strstr(m->l.param[i].name, ".x_"))
                m->p[m->l.param[i].offset + n] += strstr(m->l.param[i].name, ".x_") ? 0.5 : 1;
    m->dp = normal_numbers(m->l.count, 0, rng);
    m->state = normal_numbers(m->S, 0.5, rng);
    m->final = normal_numbers(m->S, 0, rng);
    m->dfinal = normal_numbers(m->S, 0.1, rng);
    m->dstate = normal_numbers(m->S, 0, rng);
    for (size_t t = 0; t < T; t++) {
        m->tok[t] = (uint32_t)rng_below(rng, V);
        m->tgt[t] = (uint32_t)rng_below(rng, V);
        m->weight[t] = rng_uniform(rng);
    }
}

static void model_close(struct model *m)
{
    rwkv_work_free_f64(m->w);
    rwkv_layout_fini(&m->l);
    free(m->p);
    free(m->dp);
    free(m->state);
    free(m->final);
    free(m->dfinal);
    free(m->dstate);
}

static double loss(void *ctx)
{
    struct model *m = ctx;
    memcpy(m->final, m->state, m->S * sizeof *m->final);
    double s = rwkv_forward_f64(m->w, m->p, m->tok, m->tgt, m->weight, T, m->final, NULL, NULL);
    for (size_t i = 0; i < m->S; i++)
        s += m->dfinal[i] * m->final[i];
    return s;
}

static void backward(struct model *m, double *dp, double *dstate, bool matrices)
{
    memset(dp, 0, m->l.count * sizeof *dp);
    memcpy(dstate, m->dfinal, m->S * sizeof *dstate);
    loss(m);
    rwkv_backward_f64(m->w, m->p, dp, matrices, dstate, NULL);
}

static void test_differences(void **state)
{
    (void)state;
    static const size_t size[][3] = {{2, 16, 32}, {3, 32, 32}, {1, 16, 16}};
    struct rng rng;
    rng_init(&rng, 5, 0);
    for (size_t s = 0; s < 3; s++) {
        struct model m;
        const struct differences d = {loss, &m, 5e-4, &rng};
        model_open(&m, size[s][0], size[s][1], size[s][2], &rng);
        backward(&m, m.dp, m.dstate, true);
        for (size_t i = 0; i < m.l.n; i++) {
            const struct rwkv_param *p = &m.l.param[i];
            check_gradient(&d, p->name, m.p + p->offset, m.dp + p->offset, p->count);
        }
        check_gradient(&d, "initial state", m.state, m.dstate, m.S);
        model_close(&m);
    }
}

static void test_frozen_matrices(void **state)
{
    (void)state;
    struct rng rng;
    struct model m;
    rng_init(&rng, 6, 0);
    model_open(&m, 2, 16, 32, &rng);
    backward(&m, m.dp, m.dstate, true);
    double *dp = calloc(m.l.count, sizeof *dp), *dstate = calloc(m.S, sizeof *dstate);
    backward(&m, dp, dstate, false);
    assert_memory_equal(dstate, m.dstate, m.S * sizeof *dstate);
    for (size_t i = 0; i < m.l.n; i++) {
        const struct rwkv_param *p = &m.l.param[i];
        if (p->n_dims == 3) /* the mixes and other vectors go on getting theirs */
            assert_memory_equal(dp + p->offset, m.dp + p->offset, p->count * sizeof *dp);
        if (p->group == RWKV_GROUP_DECAY)
            for (size_t n = 0; n < p->count; n++)
                assert_true(dp[p->offset + n] == 0);
    }
    free(dp);
    free(dstate);
    model_close(&m);
}

/* The final state of the first part, carried into the second, gives the whole's losses and state.
 */
static void test_cut_in_two(void **state)
{
    (void)state;
    struct rng rng;
    struct model m;
    double ce[T], ce2[T];
    rng_init(&rng, 7, 0);
    model_open(&m, 3, 16, 32, &rng);
    for (size_t cut = 1; cut < T; cut += 5) {
        double *s = calloc(m.S, sizeof *s);
        memcpy(s, m.state, m.S * sizeof *s);
        memcpy(m.final, m.state, m.S * sizeof *s);
        rwkv_forward_f64(m.w, m.p, m.tok, m.tgt, m.weight, T, m.final, ce, NULL);
        rwkv_forward_f64(m.w, m.p, m.tok, m.tgt, m.weight, cut, s, ce2, NULL);
        rwkv_forward_f64(m.w, m.p, m.tok + cut, m.tgt + cut, m.weight, T - cut, s, ce2 + cut, NULL);
        for (size_t t = 0; t < T; t++)
            assert_true(fabs(ce[t] - ce2[t]) < 1e-11);
        for (size_t i = 0; i < m.S; i++)
            assert_true(fabs(s[i] - m.final[i]) < 1e-11);
        free(s);
    }
    model_close(&m);
}

/* Vectors given from outside: their gradients, and nothing changed where they are the model's own.
 */
static void test_theta(void **state)
{
    (void)state;
    static const int id[RWKV_THETA] = {RWKV_P_W0,  RWKV_P_A0,  RWKV_P_V0,
                                       RWKV_P_K_K, RWKV_P_K_A, RWKV_P_R_K};
    struct rng rng;
    struct model m;
    const struct differences d = {loss, &m, 5e-4, &rng};
    rng_init(&rng, 8, 0);
    model_open(&m, 3, 16, 32, &rng);
    const size_t n = rwkv_layout_theta(&m.l, 0), C = 32;
    double *theta = normal_numbers(n, 0, &rng), *dtheta = normal_numbers(n, 0, &rng);
    for (size_t i = 0; i < 3; i++)
        for (size_t q = 0; q < RWKV_THETA; q++)
            if (i || q != RWKV_V0)
                memcpy(theta + (i * RWKV_THETA + q) * C, m.p + m.l.layer[i][id[q]],
                       C * sizeof *theta);
    double own = loss(&m);
    backward(&m, m.dp, m.dstate, true);
    rwkv_work_set_theta_f64(m.w, 0, theta, dtheta);
    double *dp = normal_numbers(m.l.count, 0, &rng), *dstate = normal_numbers(m.S, 0, &rng);
    assert_true(loss(&m) == own);
    backward(&m, dp, dstate, true);
    assert_memory_equal(dstate, m.dstate, m.S * sizeof *dstate);
    for (size_t i = 0; i < 3; i++)
        for (size_t q = 0; q < RWKV_THETA; q++) {
            if (!i && q == RWKV_V0)
                continue;
            const size_t at = m.l.layer[i][id[q]];
            assert_memory_equal(dtheta + (i * RWKV_THETA + q) * C, m.dp + at, C * sizeof *dp);
            memcpy(dp + at, m.dp + at, C * sizeof *dp); /* was not touched: compared below */
        }
    assert_memory_equal(dp, m.dp, m.l.count * sizeof *dp);
    for (size_t i = 0; i < n; i++) /* other numbers than the model's */
        theta[i] += 0.1 * rng_normal(&rng);
    memset(dtheta, 0, n * sizeof *dtheta);
    backward(&m, dp, dstate, false);
    for (size_t k = 0; k < n / C; k++)
        if (k != RWKV_V0)
            check_gradient(&d, "theta", theta + k * C, dtheta + k * C, C);
        else
            for (size_t c = 0; c < C; c++)
                assert_true(dtheta[k * C + c] == 0);
    rwkv_work_set_theta_f64(m.w, 0, NULL, NULL);
    assert_true(loss(&m) == own);
    free(theta);
    free(dtheta);
    free(dp);
    free(dstate);
    model_close(&m);
}

/* Low-rank additions: with the model's own, whose B is 0, nothing changes and B alone has a gradient; with
 * others every vector, every parameter of the model and the initial state have theirs. */
static void test_low_rank(void **state)
{
    (void)state;
    static const size_t ranks[] = {1, 3, RWKV_MAX_RANK};
    struct rng rng;
    rng_init(&rng, 9, 0);
    for (size_t k = 0; k < sizeof ranks / sizeof *ranks; k++) {
        struct model m;
        const struct differences d = {loss, &m, 4e-5, &rng}; /* steep in B */
        model_open(&m, 2, 16, 32, &rng);
        const size_t rank = ranks[k], C = 32, G = rwkv_theta_groups(rank);
        const size_t n = rwkv_layout_theta(&m.l, rank);
        double *theta = normal_numbers(n, 0, &rng), *dtheta = normal_numbers(n, 0, &rng);
        float *flat = calloc(m.l.count, sizeof *flat), *own = calloc(n, sizeof *own);
        for (size_t i = 0; i < m.l.count; i++)
            m.p[i] = (double)(flat[i] = (float)m.p[i]);
        rwkv_params_theta(&m.l, flat, rank, own);
        for (size_t i = 0; i < n; i++)
            theta[i] = (double)own[i];
        const double plain = loss(&m);
        rwkv_work_set_theta_f64(m.w, rank, theta, dtheta);
        assert_true(loss(&m) == plain);
        for (int other = 0; other < 2; other++) {
            for (size_t i = 0; i < n; i++)
                theta[i] += other ? 0.2 * rng_normal(&rng) : 0;
            memset(dtheta, 0, n * sizeof *dtheta);
            backward(&m, m.dp, m.dstate, true);
            for (size_t g = 0; g < n / C; g++) {
                const bool a = g % G >= RWKV_THETA && (g % G - RWKV_THETA) / rank % 2 == 0;
                if (g != RWKV_V0 && (other || !a))
                    check_gradient(&d, "theta", theta + g * C, dtheta + g * C, C);
                else
                    for (size_t c = 0; c < C; c++)
                        assert_true(dtheta[g * C + c] == 0);
            }
        }
        for (size_t i = 0; i < m.l.n; i++) {
            const struct rwkv_param *p = &m.l.param[i];
            bool vector = false; /* theta stands for it */
            for (size_t q = 0; q < m.l.shape.n_layer; q++)
                for (int id = 0; id < RWKV_P_COUNT; id++)
                    vector |= m.l.layer[q][id] == p->offset &&
                              (id == RWKV_P_W0 || id == RWKV_P_A0 || id == RWKV_P_V0 ||
                               id == RWKV_P_K_K || id == RWKV_P_K_A || id == RWKV_P_R_K);
            if (!vector)
                check_gradient(&d, p->name, m.p + p->offset, m.dp + p->offset, p->count);
        }
        check_gradient(&d, "initial state", m.state, m.dstate, m.S);
        free(theta), free(dtheta), free(flat), free(own);
        model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences), cmocka_unit_test(test_frozen_matrices),
        cmocka_unit_test(test_cut_in_two),  cmocka_unit_test(test_theta),
        cmocka_unit_test(test_low_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
