/* The sampler as a whole: frequencies against softmax (fixed draws, so the outcome never varies),
 * and the selections against a plain sort. */
#include "engine/kernels/rng.h"
#include "engine/sampling/sampling.h"
#include "engine/sampling/select.h"
#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>

#define N_DRAWS 100000

/* exp(logits / temperature) normalised over `keep` (all if NULL), in double. */
static void softmax(const float *logits, const bool *keep, size_t n, double temperature,
                    double *prob)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += prob[i] = !keep || keep[i] ? exp((double)logits[i] / temperature) : 0;
    for (size_t i = 0; i < n; i++)
        prob[i] /= sum;
}

/* Chi-square of N_DRAWS draws against prob [n]; *freedom counts the cells. */
static double chi_square(const struct sampling_params *p, const float *logits, const double *prob,
                         size_t n, double *freedom)
{
    struct err e;
    struct sampler *s = sampler_new(p, n, test_kern(), &e);
    size_t *count = calloc(n, sizeof *count);
    double chi = 0;
    assert_non_null(s);
    for (int i = 0; i < N_DRAWS; i++) {
        uint32_t id = sampler_pick(s, logits);
        count[id]++;
        sampler_accept(s, id);
    }
    *freedom = -1;
    for (size_t i = 0; i < n; i++) {
        double want = N_DRAWS * prob[i], d = (double)count[i] - want;
        if (prob[i] == 0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        chi += d * d / want;
        *freedom += 1;
    }
    free(count);
    sampler_free(s);
    return chi;
}

/* The largest value that chi-square takes with probability .999 (Wilson and Hilferty's cube root of
 * a normal; 3.09 is the normal's quantile). */
static double chi_square_limit(double freedom)
{
    double h = 2 / (9 * freedom), c = 1 - h + 3.09 * sqrt(h);
    return freedom * c * c * c;
}

static void test_frequencies(void **state)
{
    (void)state;
    enum { N = 40 };
    float logits[N];
    double prob[N], freedom;
    struct rng r;
    rng_init(&r, 5, 0);
    for (int i = 0; i < N; i++)
        logits[i] = (float)rng_normal(&r);
    const float temperature[] = {1, 0.6f, 1.7f};
    for (uint64_t k = 0; k < 3; k++) {
        struct sampling_params p = SAMPLING_DEFAULT;
        p.temperature = temperature[k];
        p.seed = 1000 + k;
        softmax(logits, NULL, N, (double)temperature[k], prob);
        double chi = chi_square(&p, logits, prob, N, &freedom);
        assert_true(freedom == N - 1);
        if (chi > chi_square_limit(freedom))
            fail_msg("temperature %g: chi-square %.1f", (double)temperature[k], chi);
    }
    /* The same draws are seen to be wrong for another distribution, so the limit can fail. */
    struct sampling_params p = SAMPLING_DEFAULT;
    softmax(logits, NULL, N, 1.06, prob);
    assert_true(chi_square(&p, logits, prob, N, &freedom) > chi_square_limit(freedom));
}

struct ranked {
    float x;
    size_t at;
};

/* Largest first, then lowest place. */
static int rank_order(const void *pa, const void *pb)
{
    const struct ranked *a = pa, *b = pb;
    if (a->x != b->x)
        return a->x > b->x ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static void sort_ranked(const float *x, size_t n, struct ranked *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (struct ranked){x[i], i};
    qsort(out, n, sizeof *out, rank_order);
}

/* The selection holds exactly the first `want` of the ranking. */
static void check_selection(struct selection sel, const struct ranked *ranked, size_t n,
                            size_t want)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t key = select_key(ranked[i].x);
        bool in = key > sel.key;
        if (key == sel.key) {
            in = sel.ties > 0;
            sel.ties -= in;
        }
        if (in != (i < want))
            fail_msg("rank %zu of %zu is %s, want the first %zu", i, n, in ? "in" : "out", want);
    }
}

/* Weights of several kinds: smooth, many ties (multiples of 1/8: their sums are exact), tiny and
 * huge. */
static void random_weights(struct rng *r, float *x, size_t n)
{
    uint64_t kind = rng_below(r, 3);
    for (size_t i = 0; i < n; i++)
        x[i] = kind == 0   ? expf(3 * (float)rng_normal(r))
               : kind == 1 ? (float)(1 + rng_below(r, 8)) / 8
                           : ldexpf(1, (int)rng_below(r, 60) - 40);
}

static void test_selection(void **state)
{
    (void)state;
    enum { MAX = 400 };
    static float x[MAX];
    static struct ranked ranked[MAX];
    struct select_bins *bins = malloc(sizeof *bins);
    struct rng r;
    rng_init(&r, 6, 0);
    for (int round = 0; round < 3000; round++) {
        size_t n = 1 + rng_below(&r, MAX), k = 1 + rng_below(&r, n), want = 0;
        random_weights(&r, x, n);
        sort_ranked(x, n, ranked);
        double total = 0, sum = 0, p = rng_uniform(&r);
        for (size_t i = 0; i < n; i++)
            total += (double)x[i];
        while (want < n && (want == 0 || sum < p * total))
            sum += (double)ranked[want++].x;
        check_selection(select_weight(x, n, p * total, bins), ranked, n, want);
        check_selection(select_weight(x, n, 0, bins), ranked, n, 1);
        check_selection(select_by(x, x, n, p * total, bins), ranked, n, want);
        for (size_t i = 0; i < n; i++) /* counts: any sign */
            x[i] = logf(x[i]);
        sort_ranked(x, n, ranked);
        check_selection(select_count(x, n, k, bins), ranked, n, k);
    }
    free(bins);
}

/* Locally typical sampling by its definition: of the ids in keep, those whose surprisal is nearest to
 * the entropy, until they hold typical_p. */
static void naive_typical(const struct sampling_params *p, const float *logits, size_t n, bool *keep)
{
    struct ranked *ranked = malloc(n * sizeof *ranked);
    double *prob = malloc(n * sizeof *prob), entropy = 0, sum = 0;
    softmax(logits, keep, n, (double)p->temperature, prob);
    for (size_t i = 0; i < n; i++)
        entropy -= prob[i] > 0 ? prob[i] * log(prob[i]) : 0;
    for (size_t i = 0; i < n; i++)
        ranked[i] = (struct ranked){-(float)fabs(-log(prob[i]) - entropy), i};
    qsort(ranked, n, sizeof *ranked, rank_order);
    for (size_t i = 0; i < n; i++) {
        keep[ranked[i].at] = keep[ranked[i].at] && (i == 0 || sum < (double)p->typical_p);
        sum += prob[ranked[i].at];
    }
    free(prob);
    free(ranked);
}

/* top-k, then typical-p, top-p and min-p, each on what the one before left, by sorting. */
static void naive_filter(const struct sampling_params *p, const float *logits, size_t n, bool *keep)
{
    struct ranked *ranked = malloc(n * sizeof *ranked);
    double *prob = malloc(n * sizeof *prob), sum = 0, best = 0;
    size_t k = p->top_k ? p->top_k : n;
    sort_ranked(logits, n, ranked);
    for (size_t i = 0; i < n; i++)
        keep[ranked[i].at] = i < k;
    if (p->typical_p < 1)
        naive_typical(p, logits, n, keep);
    softmax(logits, keep, n, (double)p->temperature, prob);
    for (size_t i = 0; i < n; i++) {
        size_t at = ranked[i].at;
        best = best > prob[at] ? best : prob[at];
        keep[at] = keep[at] && sum < (double)p->top_p && prob[at] >= (double)p->min_p * best;
        sum += prob[at];
    }
    free(prob);
    free(ranked);
}

static void test_filters(void **state)
{
    (void)state;
    enum { N = 30 };
    float logits[N];
    double prob[N], freedom;
    bool keep[N];
    struct rng r;
    rng_init(&r, 7, 0);
    for (uint64_t round = 0; round < 24; round++) {
        struct sampling_params p = SAMPLING_DEFAULT;
        p.seed = 77 + round;
        p.temperature = 0.5f + (float)rng_uniform(&r);
        p.top_k = round % 2 ? 5 + (uint32_t)rng_below(&r, 20) : 0;
        p.top_p = round % 3 ? 0.5f + 0.5f * (float)rng_uniform(&r) : 1;
        p.min_p = round % 4 ? 0.1f * (float)rng_uniform(&r) : 0;
        p.typical_p = round % 5 < 3 ? 0.3f + 0.7f * (float)rng_uniform(&r) : 1;
        for (int i = 0; i < N; i++)
            logits[i] = 2 * (float)rng_normal(&r);
        naive_filter(&p, logits, N, keep);
        softmax(logits, keep, N, (double)p.temperature, prob);
        double chi = chi_square(&p, logits, prob, N, &freedom);
        if (freedom > 0 && chi > chi_square_limit(freedom))
            fail_msg("round %d: chi-square %.1f with %g degrees", (int)round, chi, freedom);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_selection),
        cmocka_unit_test(test_filters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
