/* The whole chain of a hybrid in double against central differences: from its two losses through the
 * model's recurrence, the mixing of vectors and the transformer to every parameter; that mixing at
 * strength 0 is the model itself and stays within its bounds; and that contexts of any length are
 * pooled to the same rows however they come. */
#include "tests/lib/check.h"
#include "tests/lib/differences.h"

#include "engine/hybrid/chain.h"
#include "engine/hybrid/pooling.h"
#include "engine/kernels/gemm.h"

#include <math.h>
#include <stdlib.h>

enum { L = 2, C = 32, N = 16, H = C / N, T = 11, V = 13, X = 5, M = 4 };

struct model {
    struct rwkv_layout l;
    struct dit_layout d;
    struct dit_schedule schedule;
    struct hybrid_chain_f64 *c;
    struct hybrid_net_f64 net;
    struct hybrid_sample_f64 s;
    size_t n, groups, D; /* parameters, a layer's vectors, a token's numbers */
    double *weights, *p, *dp, *theta, *scale, *x, *target, *noise, *context, *state;
    uint32_t tokens[T + 1];
};

static void model_open(struct model *m, size_t rank, struct rng *rng)
{
    const size_t groups = rwkv_theta_groups(rank), D = groups * N;
    const struct rwkv_shape r = {.n_layer = L,
                                 .n_embd = C,
                                 .head_size = N,
                                 .n_ffn = 40,
                                 .n_vocab = V,
                                 .rank_w = 5,
                                 .rank_a = 6,
                                 .rank_v = 3,
                                 .rank_g = 7};
    const struct dit_shape d = {.n_token = L * H,
                                .token_dim = D,
                                .n_embd = 12,
                                .n_head = 3,
                                .n_block = 2,
                                .n_mlp = 10,
                                .context_dim = X,
                                .max_context = M,
                                .per_token = true};
    struct err e = {0};
    gemm_setup();
    *m = (struct model){.net = {.shape = {L, C, N}, .dit = &m->d}, .groups = groups, .D = D};
    assert_int_equal(rwkv_layout_init(&m->l, &r, &e), 0);
    assert_int_equal(dit_layout_init(&m->d, &d, &e), 0);
    assert_int_equal(dit_schedule_init(&m->schedule, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    m->c = hybrid_chain_new_f64(&m->l, &m->d, &nn_f64, T);
    assert_non_null(m->c);
    m->n = hybrid_count(&m->d, &m->net.shape);
    m->weights = normal_numbers(m->l.count, 0.4, rng);
    for (size_t i = 0; i < m->l.n; i++) /* norm weights around 1, mixes around a half */
        for (size_t k = 0; k < m->l.param[i].count; k++)
            if (strstr(m->l.param[i].name, "ln") || strstr(m->l.param[i].name, ".x_"))
                m->weights[m->l.param[i].offset + k] += strstr(m->l.param[i].name, ".x_") ? 0.5 : 1;
    m->net.params = m->p = normal_numbers(m->n, 0.25, rng);
    m->dp = normal_numbers(m->n, 0, rng);
    m->net.theta = m->theta = normal_numbers(rwkv_layout_theta(&m->l, rank), 0.4, rng);
    m->net.scale = m->scale = normal_numbers(L * groups, 0, rng);
    for (size_t i = 0; i < L * groups; i++)
        m->scale[i] = 0.02 + 0.1 * rng_uniform(rng);
    m->s.x = m->x = normal_numbers(L * H * D, 1, rng);
    m->s.target = m->target = normal_numbers(L * H * D, 1, rng);
    m->s.noise = m->noise = normal_numbers(L * H * D, 1, rng);
    m->s.context = m->context = normal_numbers(M * X, 1, rng);
    m->s.n_context = M - 1;
    m->state = normal_numbers(rwkv_layout_state(&m->l), 0.5, rng);
    m->s.last = &m->schedule.step[999];
    m->s.at = &m->schedule.step[400];
    m->s.tokens = m->tokens;
    m->s.T = T;
    m->s.weight[0] = 1.0 / T;
    m->s.weight[1] = 0.7 / (double)(L * H * D);
    for (size_t t = 0; t <= T; t++)
        m->tokens[t] = (uint32_t)rng_below(rng, V);
}

static void model_close(struct model *m)
{
    double *all[] = {m->weights, m->p,      m->dp,    m->theta,   m->scale,
                     m->x,       m->target, m->noise, m->context, m->state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    hybrid_chain_free_f64(m->c);
    dit_schedule_fini(&m->schedule);
    dit_layout_fini(&m->d);
    rwkv_layout_fini(&m->l);
}

static double total(struct model *m, double *dparams)
{
    double loss[2];
    hybrid_chain_run_f64(m->c, &m->net, m->weights, &m->s, dparams, loss);
    return m->s.weight[0] * loss[0] + m->s.weight[1] * loss[1];
}

static double value(void *ctx)
{
    return total(ctx, NULL);
}

/* Both terms, each alone, the language model's behind a step in the middle of sampling, and from a state;
 * with low-rank additions. */
static void test_differences(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 41, 0);
    for (int k = 0; k < 7; k++) {
        struct model m;
        const struct differences d = {value, &m, 3e-4, &rng};
        model_open(&m, k < 5 ? 0 : 2, &rng);
        if (k == 1)
            m.s.target = NULL;
        if (k == 2)
            m.s.T = 0;
        if (k == 3 || k == 6)
            m.s.last = &m.schedule.step[499];
        if (k == 4 || k == 6)
            m.s.state = m.state;
        total(&m, m.dp);
        for (size_t i = 0; i < m.d.n; i++) {
            const struct dit_param *p = &m.d.param[i];
            check_gradient(&d, p->name, m.p + p->offset, m.dp + p->offset, p->count);
        }
        if (k != 2)
            check_gradient(&d, "alpha", m.p + m.d.count, m.dp + m.d.count, L * m.groups);
        model_close(&m);
    }
}

static void check_mixing(size_t rank, struct rng *rng)
{
    struct model m;
    model_open(&m, rank, rng);
    const size_t n = rwkv_layout_theta(&m.l, rank), D = m.D;
    assert_int_equal(hybrid_rank(&m.d, &m.net.shape), rank);
    double *z = normal_numbers(L * H * D, 1e6, rng), *theta = normal_numbers(n, 0, rng),
           *half = normal_numbers(n, 0, rng);
    hybrid_mix_forward_f64(theta, z, &m.net, 0);
    assert_memory_equal(theta, m.theta, n * sizeof *theta);
    hybrid_mix_forward_f64(theta, z, &m.net, 1);
    hybrid_mix_forward_f64(half, z, &m.net, 0.5);
    for (size_t i = 0; i < n; i++) { /* at the bound, coordinates being huge */
        const double alpha = 1 / (1 + exp(-m.p[m.d.count + i / C]));
        const double most = (1 - alpha) * HYBRID_BOUND * m.scale[i / C];
        assert_true(fabs(fabs(theta[i] - m.theta[i]) - most) <= 1e-4 * most);
        assert_true(fabs(2 * (half[i] - m.theta[i]) - (theta[i] - m.theta[i])) <= 1e-12);
    }
    /* with any such vectors the model's losses stay numbers */
    m.s.target = NULL;
    for (size_t i = 0; i < L * m.groups; i++)
        m.scale[i] = 1e3;
    for (size_t i = 0; i < L * H * D; i++)
        m.x[i] *= 1e6;
    assert_true(isfinite(total(&m, m.dp)));
    for (size_t i = 0; i < m.n; i++)
        assert_true(isfinite(m.dp[i]));
    free(z), free(theta), free(half);
    model_close(&m);
}

static void test_mixing(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 42, 0);
    check_mixing(0, &rng);
    check_mixing(2, &rng);
}

static void test_pooling(void **state)
{
    (void)state;
    enum { MAX = 6, CH = 3 };
    struct hybrid_pool p;
    struct err e = {0};
    float out[MAX * (CH + HYBRID_FEATURES)], row[CH];
    assert_int_equal(hybrid_pool_init(&p, CH, 5, &e), ERR_INVALID);
    hybrid_pool_fini(&p);
    assert_int_equal(hybrid_pool_init(&p, CH, MAX, &e), 0);
    assert_int_equal(hybrid_pool_rows(&p, out), 0);
    for (size_t t = 0; t < 100000; t++) {
        for (size_t c = 0; c < CH; c++)
            row[c] = (float)(t % 1000 + c);
        hybrid_pool_add(&p, row);
        if (t > 300 && t % 997)
            continue;
        size_t n = hybrid_pool_rows(&p, out), at = 0;
        assert_true(n >= 1 && n <= MAX && (t + 1 <= 16 || n > MAX / 2 - 2));
        for (size_t i = 0; i < n; i++) { /* each row is the mean of its stretch */
            const float *r = out + i * (CH + HYBRID_FEATURES);
            size_t len = i + 1 < n ? p.segment : t + 1 - at;
            double sum = 0;
            for (size_t k = at; k < at + len; k++)
                sum += (double)(k % 1000);
            assert_true(fabs((double)r[0] - sum / (double)len) < 1e-3);
            assert_true(fabs((double)r[1] - (double)r[0] - 1) < 1e-3);
            assert_true(fabs(exp2(8 * (double)r[CH]) * 16 - (double)len) < 1e-2 * (double)len);
            assert_true(r[CH + 1] > 0 && r[CH + 1] < 1);
            at += len;
        }
        assert_int_equal(at, t + 1);
    }
    hybrid_pool_clear(&p);
    assert_int_equal(hybrid_pool_rows(&p, out), 0);
    hybrid_pool_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_mixing),
        cmocka_unit_test(test_pooling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
