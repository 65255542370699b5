/* `train hybrid` from texts to a hybrid on a small model with random weights: a stopped or killed run
 * ends with the bytes of a whole one, both losses fall, and the result reads contexts, of any length
 * and however they come, to vectors that the model runs with. */
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "engine/hybrid/net.h"
#include "engine/kernels/rng.h"
#include "engine/tensor/tensor.h"
#include "engine/train/hybrid.h"
#include "engine/train/hybrid_data.h"
#include "engine/train/hybrid_target.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEPS = 60, TEXT = 24000, L = TRAINING_L, C = TRAINING_C, LOW = 2 };

static size_t rank; /* of the recipes that are written: 0, or LOW with pairs of its own */

static void write_recipe(const char *name, const char *more)
{
    char text[2048], file[64];
    int n = snprintf(
        text, sizeof text,
        "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"seed\": 3, \"threads\": 2, "
        "\"steps\": %d, \"batch\": 6, \"pairs\": 60, \"eval_pairs\": 8, \"context_min\": 20, "
        "\"context_max\": 600, \"continuation\": 40, \"continuations\": 3, \"max_context\": 8, "
        "\"corpus_steps\": 4, \"target_steps\": 2, \"target_lr\": 0.2, \"n_embd\": 24, \"n_head\": "
        "2, \"n_block\": 2, "
        "\"n_mlp\": 32, "
        "\"rank\": %zu, \"sampling_steps\": 2, \"lr\": 0.01, \"warmup\": 5, \"checkpoint_every\": "
        "7, "
        "\"eval_every\": 20, \"data\": [{\"name\": \"low\", \"path\": \"%s\"}, "
        "{\"name\": \"high\", \"path\": \"%s\"}], "
        "\"eval\": [{\"name\": \"low\", \"path\": \"%s\"}, "
        "{\"name\": \"high\", \"path\": \"%s\"}]%s}",
        in_folder("model.safetensors"), in_folder(rank ? "pairs-low" : "pairs"),
        in_folder("%s", name), STEPS, rank, in_folder("low"), in_folder("high"), in_folder("low"),
        in_folder("high"), more);
    assert_true(n > 0 && (size_t)n < sizeof text);
    snprintf(file, sizeof file, "%s.json", name);
    write_file(file, text, (size_t)n);
}

static int train(const char *recipe, uint64_t steps, const struct train_control *c,
                 struct pool *pool, bool *done, struct err *e)
{
    static struct hybrid_recipe r;
    int rc = hybrid_recipe_read(&r, recipe, e);
    r.schedule.steps = steps ? steps : r.schedule.steps;
    return rc < 0 ? rc : train_hybrid(&r, c, pool, done, e);
}

static const struct training training = {
    "hybrid", STEPS, write_recipe, train, {"checkpoint.safetensors", "hybrid.safetensors"}};

static char corpora[2][TEXT]; /* low, high */

static int set_up(void **state)
{
    (void)state;
    folder_open();
    training_model("model.safetensors", true);
    training_text(corpora[0], TEXT, 3000, 'a', 0);
    training_text(corpora[1], TEXT, 3000, 'n', 0);
    write_file("low", corpora[0], TEXT);
    write_file("high", corpora[1], TEXT);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    folder_close("average average.json bad.json high killed killed.json low model.safetensors need "
                 "need.json pairs pairs-low parts parts.json rank rank-parts rank-parts.json "
                 "rank-wrong rank.json states states.json threads1 threads1.json threads2 "
                 "threads2.json whole whole.json");
    return 0;
}

struct seen {
    double first, last;       /* of the diffusion's losses */
    double plain, context[2]; /* held out: first and last */
    size_t evals;
};

static void on_step(void *ctx, const struct train_step *s)
{
    struct seen *seen = ctx;
    if (s->step == 1)
        seen->first = s->diffusion;
    seen->last = s->diffusion;
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    struct seen *seen = ctx;
    assert_int_equal(v->n, 5 + L * rwkv_theta_groups(rank));
    assert_string_equal(v->names[5], "alpha.0.w0");
    assert_string_equal(v->names[v->n - 1], rank ? "alpha.1.value.b.1" : "alpha.1.r_k");
    assert_string_equal(v->names[0], "plain");
    assert_string_equal(v->names[1], "context");
    assert_true(seen->evals == 0 || v->bits[0] == seen->plain); /* nothing moves the model */
    seen->plain = v->bits[0];
    seen->context[seen->evals++ > 0] = v->bits[1];
    for (size_t i = 5; i < v->n; i++)
        assert_true(v->bits[i] > 0 && v->bits[i] < 1);
}

static void check_whole(const char *name)
{
    struct seen seen = {0};
    struct hybrid *h = NULL;
    struct err e = {0};
    const struct train_control c = {.on_step = on_step, .on_eval = on_eval, .ctx = &seen};
    write_recipe(name, "");
    assert_true(training_run(&training, name, &c));
    assert_int_equal(seen.evals, 4);
    if (!(seen.last < 0.9 * seen.first) || !(seen.context[1] < seen.plain - 0.002))
        fail_msg("diffusion from %g to %g; held out %g, with the context %g", seen.first, seen.last,
                 seen.plain, seen.context[1]);
    if (hybrid_open(in_folder("%s/hybrid.safetensors", name), &h, &e) < 0)
        fail_msg("%s", e.msg);
    const struct hybrid_info *i = hybrid_get_info(h);
    assert_int_equal(i->rank, rank);
    assert_int_equal(hybrid_get_groups(h), rwkv_theta_groups(rank));
    assert_int_equal(i->steps, STEPS);
    assert_int_equal(i->max_context, 8);
    assert_int_equal(i->sampling_steps, 2);
    assert_int_equal(i->shape.n_embd, C);
    hybrid_close(h);
}

static void test_whole(void **state)
{
    (void)state;
    check_whole("whole");
}

/* The pairs are what they are said to be: text of their corpora, rows bounded, targets that move. */
static void test_pairs(void **state)
{
    (void)state;
    struct hybrid_pairs p;
    struct err e = {0};
    if (hybrid_pairs_open(&p, in_folder("pairs"), &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(p.n, 68);
    assert_int_equal(p.n_train, 60);
    assert_int_equal(p.M, 3);
    assert_int_equal(p.T, 40);
    assert_int_equal(p.X, C + 2);
    assert_int_equal(p.n_theta, L * 6 * C);
    for (size_t i = 0; i < p.n; i++) {
        const int64_t rows = p.first[i + 1] - p.first[i];
        double moved = 0;
        assert_true(p.bytes[i] >= 20 && p.bytes[i] <= 600 && rows >= 1 && rows <= 8);
        for (size_t w = i * p.M; w < (i + 1) * p.M; w++)
            if (!memmem(corpora[p.corpus[i]], TEXT, p.text + w * p.T, p.T))
                fail_msg("pair %zu of %s: '%.40s'", i, p.corpus[i] ? "high" : "low",
                         p.text + w * p.T);
        for (size_t k = 0; k < p.n_theta; k++)
            moved += fabs((double)p.delta[i * p.n_theta + k]);
        assert_true(moved > 0 && isfinite(moved));
    }
    hybrid_pairs_close(&p);
}

/* The first step of low-rank additions moves B by the rate in units of the projection, and not A, whose
 * gradient is 0 while B is; going on lowers the loss further than without them. */
static void check_low_descent(const struct rwkv_layout *l, const float *weights,
                              const struct hybrid_window w[2], double rate)
{
    static const int of[] = {RWKV_P_REC, RWKV_P_KEY, RWKV_P_VAL};
    const size_t G = rwkv_theta_groups(LOW), n = L * G * C;
    struct hybrid_target t, plain;
    struct err e = {0};
    float *own = calloc(n, sizeof *own), *six = calloc(L * 6 * C, sizeof *six);
    rwkv_params_theta(l, weights, LOW, own);
    rwkv_params_theta(l, weights, 0, six);
    assert_int_equal(hybrid_target_init(&t, l, weights, LOW, 50, &e), 0);
    assert_int_equal(hybrid_target_init(&plain, l, weights, 0, 50, &e), 0);
    assert_int_equal(t.n_theta, n);
    hybrid_target_begin(&t, own);
    hybrid_target_begin(&plain, six);
    assert_true(hybrid_target_loss(&t, own, w[0]) == hybrid_target_loss(&plain, six, w[0]));
    hybrid_target_step(&t, w, 2, rate);
    hybrid_target_step(&plain, w, 2, rate);
    for (size_t i = 0; i < L; i++) {
        for (size_t k = 0; k < 6 * C; k++) /* the six: as without */
            assert_true(t.theta[i * G * C + k] == plain.theta[i * 6 * C + k]);
        for (size_t q = 0; q < 3; q++) {
            const size_t a = (i * G + 6 + 2 * LOW * q) * C, b = a + LOW * C;
            const float *p = weights + l->layer[i][of[q]];
            double unit = 0;
            for (size_t k = 0; k < C * C; k++)
                unit += (double)p[k] * (double)p[k] / C;
            for (size_t k = 0; k < LOW * C; k++) {
                assert_true(t.theta[a + k] == own[a + k]);
                assert_true(own[b + k] == 0);
                assert_true(fabs(fabs((double)t.theta[b + k]) / (rate * sqrt(unit)) - 1) < 0.02);
            }
        }
    }
    for (int i = 0; i < 20; i++) {
        hybrid_target_step(&t, w, 2, rate);
        hybrid_target_step(&plain, w, 2, rate);
    }
    assert_true(hybrid_target_loss(&t, t.theta, w[0]) + 0.01 <
                hybrid_target_loss(&plain, plain.theta, w[0]));
    hybrid_target_fini(&t);
    hybrid_target_fini(&plain);
    free(own), free(six);
}

/* A descent's first step moves every number by the rate in units of its group, against the gradient, as
 * Adam's does; going on lowers the loss; a group that is 0 in the model stays; the same twice. */
static void test_descent(void **state)
{
    (void)state;
    const double rate = 0.05;
    struct rwkv_shape s;
    struct rwkv_layout l;
    struct hybrid_target t;
    struct tensor_file *f = NULL;
    struct err e = {0};
    assert_int_equal(tensor_file_open(in_folder("model.safetensors"), &f, &e), 0);
    assert_int_equal(rwkv_shape_read(&s, f, &e), 0);
    assert_int_equal(rwkv_layout_init(&l, &s, &e), 0);
    float *weights = calloc(l.count, sizeof *weights), *own = calloc(L * 6 * C, sizeof *own),
          *kept = calloc(L * 6 * C, sizeof *kept);
    assert_int_equal(rwkv_params_read(&l, weights, f, &e), 0);
    tensor_file_close(f);
    rwkv_params_theta(&l, weights, 0, own);
    assert_int_equal(hybrid_target_init(&t, &l, weights, 0, 50, &e), 0);
    const struct hybrid_window w[2] = {{(const uint8_t *)corpora[0] + 100, 50},
                                       {(const uint8_t *)corpora[0] + 700, 31}};
    for (int round = 0; round < 2; round++) {
        hybrid_target_begin(&t, own);
        hybrid_target_step(&t, w, 2, rate);
        for (size_t g = 0; g < L * 6; g++) {
            double unit = 0, most = 0;
            for (size_t c = 0; c < C; c++) {
                unit += (double)own[g * C + c] * (double)own[g * C + c] / C;
                most = fmax(most, fabs((double)(t.theta[g * C + c] - own[g * C + c])));
            }
            assert_true(fabs(most - rate * sqrt(unit)) <= 1e-3 * rate * sqrt(unit));
        }
        const double first = hybrid_target_loss(&t, own, w[0]) + hybrid_target_loss(&t, own, w[1]);
        for (int i = 0; i < 20; i++)
            hybrid_target_step(&t, w, 2, rate);
        const double last =
            hybrid_target_loss(&t, t.theta, w[0]) + hybrid_target_loss(&t, t.theta, w[1]);
        assert_true(last < first - 0.01);
        if (round)
            assert_memory_equal(t.theta, kept, L * 6 * C * sizeof *kept);
        memcpy(kept, t.theta, L * 6 * C * sizeof *kept);
    }
    hybrid_target_fini(&t);
    check_low_descent(&l, weights, w, rate);
    rwkv_layout_fini(&l);
    free(weights), free(own), free(kept);
}

struct reading {
    struct rwkv_model *m;
    struct rwkv_session *s;
    struct hybrid *h;
    size_t n_theta;
};

/* theta after a context of n tokens fed in parts of `chunk`. */
static float *read_to_theta(struct reading *r, size_t n, size_t chunk, double strength,
                            struct hybrid_norms *norms)
{
    struct err e = {0};
    struct hybrid_options o = HYBRID_OPTIONS;
    struct hybrid_context *c = hybrid_context_new(r->h, r->m, &e);
    float *theta = calloc(r->n_theta, sizeof *theta);
    assert_true(c && theta);
    for (size_t at = 0; at < n; at += chunk) {
        uint32_t tokens[512];
        const size_t len = n - at < chunk ? n - at : chunk;
        for (size_t t = 0; t < len; t++)
            tokens[t] = 'a' + (uint32_t)((at + t) * (at + t) % 11);
        assert_int_equal(hybrid_context_feed(c, r->s, tokens, len, &e), 0);
    }
    o.strength = strength;
    if (hybrid_adjust(r->h, c, &o, theta, norms, &e) < 0)
        fail_msg("%s", e.msg);
    hybrid_context_free(c);
    return theta;
}

static void check_reading(const char *name)
{
    struct err e = {0};
    struct reading r = {0};
    struct hybrid_norms norms;
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_int_equal(rwkv_open(in_folder("model.safetensors"),
                               &(struct rwkv_options){.weights_type = -1}, pool, &r.m, &e),
                     0);
    r.s = rwkv_session_new(r.m, pool, 64, &e);
    assert_int_equal(hybrid_open(in_folder("%s/hybrid.safetensors", name), &r.h, &e), 0);
    r.n_theta = rwkv_theta_floats(rwkv_get_info(r.m), rank);
    float *own = calloc(r.n_theta, sizeof *own), *first = NULL;
    rwkv_get_theta(r.m, rank, own);
    static const size_t lengths[] = {0, 1, 15, 16, 17, 400, 20000};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        float *a = read_to_theta(&r, lengths[k], 512, 1, &norms);
        float *b = read_to_theta(&r, lengths[k], 37, 1, &norms);
        float *zero = read_to_theta(&r, lengths[k], 100, 0, &norms);
        assert_memory_equal(a, b, r.n_theta * sizeof *a);
        assert_memory_equal(zero, own, r.n_theta * sizeof *a);
        assert_true(memcmp(a, own, r.n_theta * sizeof *a) != 0);
        if (first)
            assert_true(memcmp(a, first, r.n_theta * sizeof *a) != 0);
        else
            first = a;
        if (first != a)
            free(a);
        free(b);
        free(zero);
    }
    /* half the strength: half the way */
    float *half = read_to_theta(&r, 0, 1, 0.5, &norms), *whole = read_to_theta(&r, 0, 1, 1, &norms);
    for (size_t i = 0; i < r.n_theta; i++)
        assert_true(fabsf(2 * (half[i] - own[i]) - (whole[i] - own[i])) <= 1e-5f);
    assert_true(norms.change[0] > 0 && norms.change[5] > 0 && norms.coordinate > 0);
    for (int q = 0; q < 3; q++)
        assert_true(rank ? norms.low[q] > 0 && norms.low[q] < 100 : norms.low[q] == 0);
    struct hybrid_options bad = {.strength = 5};
    struct hybrid_context *c = hybrid_context_new(r.h, r.m, &e);
    assert_int_equal(hybrid_adjust(r.h, c, &bad, half, &norms, &e), ERR_INVALID);
    assert_string_equal(e.param, "strength");
    hybrid_context_free(c);
    free(half), free(whole), free(first), free(own);
    hybrid_close(r.h);
    rwkv_session_free(r.s);
    rwkv_close(r.m);
    pool_free(pool);
}

static void test_reading(void **state)
{
    (void)state;
    check_reading("whole");
}

/* Damaged files: every prefix and many changed bytes are refused or opened, never read past. */
static void check_damage(const char *file)
{
    size_t n;
    char *bytes = read_file(file, &n);
    struct rng rng;
    rng_init(&rng, 13, 0);
    for (size_t i = 0; i < 400; i++) {
        struct hybrid *h = NULL;
        struct err e = {0};
        size_t len = i < 200 ? rng_below(&rng, n) : n;
        char *copy = malloc(len + 1);
        memcpy(copy, bytes, len);
        if (i >= 200) /* mostly in the header */
            copy[rng_below(&rng, i % 4 ? 4000 : n)] ^= (char)(1 << rng_below(&rng, 8));
        int rc = hybrid_open_memory(copy, len, &h, &e);
        assert_true(rc == 0 || rc == ERR_FORMAT);
        assert_true(i >= 200 || rc < 0);
        hybrid_close(h);
        free(copy);
    }
    free(bytes);
}

static void test_damage(void **state)
{
    (void)state;
    check_damage("whole/hybrid.safetensors");
}

static void test_stopped_and_continued(void **state)
{
    (void)state;
    write_recipe("parts", "");
    training_check_stops(&training, "whole", "parts", 11);
    check_files("parts", "checkpoint.safetensors hybrid.safetensors log.jsonl");
}

static void test_killed_and_continued(void **state)
{
    (void)state;
    write_recipe("killed", "");
    training_check_kills(&training, "whole", "killed", 12, 6);
    check_files("killed", "checkpoint.safetensors hybrid.safetensors log.jsonl");
}

static void test_steps(void **state)
{
    (void)state;
    training_check_threads(&training, "threads");
    training_check_average(&training, "average");
}

/* The same with low-rank additions, of which the pairs' targets then have some too. */
static void test_low_rank(void **state)
{
    (void)state;
    static struct hybrid_recipe r;
    struct hybrid *h = NULL;
    struct hybrid_need need, low;
    struct err e = {0};
    bool done;
    rank = LOW;
    check_whole("rank");
    write_recipe("rank-parts", "");
    training_check_stops(&training, "rank", "rank-parts", 11);
    check_reading("rank");
    check_damage("rank/hybrid.safetensors");
    /* written again: the same bytes */
    size_t n[2];
    assert_int_equal(hybrid_open(in_folder("rank/hybrid.safetensors"), &h, &e), 0);
    assert_int_equal(hybrid_write(h, in_folder("rank-parts/hybrid.safetensors"), &e), 0);
    hybrid_close(h);
    char *a = read_file("rank/hybrid.safetensors", &n[0]);
    char *b = read_file("rank-parts/hybrid.safetensors", &n[1]);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(a, b, n[0]);
    free(a), free(b);
    /* it takes more; pairs of another rank are refused */
    assert_int_equal(hybrid_recipe_read(&r, in_folder("rank.json"), &e), 0);
    assert_int_equal(train_hybrid_plan(&r, 2, &low, &e), 0);
    r.rank = 0;
    assert_int_equal(train_hybrid_plan(&r, 2, &need, &e), 0);
    assert_true(need.memory < low.memory && need.disk < low.disk && need.n_params < low.n_params);
    snprintf(r.out, sizeof r.out, "%s", in_folder("rank-wrong"));
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_int_equal(train_hybrid(&r, &(struct train_control){0}, pool, &done, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "another model or rank"));
    pool_free(pool);
    rank = 0;
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_true(training_check_memory(&training, "parts") > 20);
    check_files("parts", "checkpoint.safetensors hybrid.safetensors log.jsonl");
}

/* The largest difference of pair i's state from the model's behind the n bytes before `end`, read from the
 * separator on, in units of F16's rounding. */
static double state_error(const struct hybrid_pairs *p, size_t i, struct reading *r,
                          const char *end)
{
    struct err e = {0};
    uint32_t tokens[601] = {CORPUS_SEPARATOR};
    const size_t n = (size_t)p->bytes[i];
    const struct rwkv_info *info = rwkv_get_info(r->m);
    float *state = rwkv_state_new(info);
    double most = 0;
    for (size_t t = 0; t < n; t++)
        tokens[t + 1] = (uint8_t)end[(ptrdiff_t)t - (ptrdiff_t)n];
    for (size_t at = 0; at <= n; at += 64) {
        struct rwkv_seq q = {
            .tokens = tokens + at, .n_tokens = n + 1 - at < 64 ? n + 1 - at : 64, .state = state};
        assert_int_equal(rwkv_eval(r->s, &q, 1, &e), 0);
    }
    for (size_t layer = 0; layer < L; layer++) { /* what follows begins anew */
        memset(rwkv_state_att_shift(info, state, layer), 0, C * sizeof *state);
        memset(rwkv_state_ffn_shift(info, state, layer), 0, C * sizeof *state);
    }
    for (size_t k = 0; k < p->S; k++) {
        const double x = (double)state[k], kept = (double)f16_to_f32(p->state[i * p->S + k]);
        most = fmax(most, fabs(kept - x) / (0x1p-11 * fabs(x) + 0x1p-24));
    }
    free(state);
    return most;
}

/* Of the ends that a pair's context can have, one gives its state. */
static void check_state(const struct hybrid_pairs *p, size_t i, struct reading *r)
{
    const char *text = corpora[p->corpus[i]];
    const char *at = memmem(text, TEXT, p->text + i * p->M * p->T, p->T);
    double least = INFINITY;
    for (const char *end = at - 32; end > at - 200 && end - text > p->bytes[i]; end--)
        least = fmin(least, state_error(p, i, r, end));
    if (!(least <= 1.01))
        fail_msg("state %zu: off by %g roundings at the nearest", i, least);
}

static void on_eval_states(void *ctx, const struct train_eval *v)
{
    struct seen *seen = ctx;
    assert_int_equal(v->n, 7 + L * 6);
    assert_string_equal(v->names[4], "state");
    assert_string_equal(v->names[5], "both");
    assert_string_equal(v->names[6], "diffusion");
    assert_true(seen->evals == 0 || v->bits[4] == seen->plain);
    seen->plain = v->bits[4];
    seen->context[seen->evals++ > 0] = v->bits[5];
}

/* Continuations that begin at states: pairs made without are refused; made anew they have the model's
 * behind the context, and the vectors help from there. */
static void test_states(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct hybrid_pairs p;
    struct reading r = {0};
    struct err e = {0};
    bool done;
    const struct train_control c = {.on_eval = on_eval_states, .ctx = &seen};
    struct pool *pool = pool_new(2, "test", 0, &e);
    write_recipe("states", ", \"states\": 0.5");
    assert_int_equal(train(in_folder("states.json"), 0, &c, pool, &done, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "made without states"));
    assert_int_equal(unlink(in_folder("pairs")), 0);
    assert_true(training_run(&training, "states", &c));
    if (!(seen.context[1] < seen.plain - 0.002))
        fail_msg("from states %g, with the context %g", seen.plain, seen.context[1]);
    assert_int_equal(hybrid_pairs_open(&p, in_folder("pairs"), &e), 0);
    assert_int_equal(rwkv_open(in_folder("model.safetensors"),
                               &(struct rwkv_options){.weights_type = -1}, pool, &r.m, &e),
                     0);
    r.s = rwkv_session_new(r.m, pool, 64, &e);
    assert_int_equal(p.S, rwkv_state_floats(rwkv_get_info(r.m)));
    for (size_t i = 0; i < p.n; i += 30)
        check_state(&p, i, &r);
    hybrid_pairs_close(&p);
    rwkv_session_free(r.s);
    rwkv_close(r.m);
    pool_free(pool);
}

static void test_need(void **state)
{
    (void)state;
    static struct hybrid_recipe r;
    struct hybrid_need need;
    struct err e = {0};
    write_recipe("need", ", \"states\": 0.5");
    assert_int_equal(unlink(in_folder("pairs")), 0); /* they are made again */
    assert_int_equal(hybrid_recipe_read(&r, in_folder("need.json"), &e), 0);
    assert_int_equal(train_hybrid_plan(&r, 2, &need, &e), 0);
    training_check_need(&training, "need", need.memory + 4 * TEXT);
    struct stat pairs, checkpoint;
    assert_int_equal(stat(in_folder("pairs"), &pairs), 0);
    assert_int_equal(stat(in_folder("need/checkpoint.safetensors"), &checkpoint), 0);
    const double files = (double)pairs.st_size + (double)checkpoint.st_size;
    if (!(files <= need.disk) || !(need.disk <= 4 * files))
        fail_msg("%.0f bytes on disk, %.0f were said", files, need.disk);
    r.n_head = 5; /* does not divide the width */
    assert_int_equal(train_hybrid_plan(&r, 2, &need, &e), ERR_INVALID);
    snprintf(r.model, sizeof r.model, "%s", in_folder("low"));
    assert_true(train_hybrid_plan(&r, 2, &need, &e) < 0);
}

static void test_recipes_refused(void **state)
{
    (void)state;
    static const struct training_refusal cases[] = {
        {", \"learning_rate\": 1", "unknown key learning_rate"},
        {", \"alpha\": 1", "alpha must be a number"},
        {", \"lambda\": -1", "lambda must be a number"},
        {", \"gap\": 1.5", "gap must be a whole number"},
        {", \"products\": \"f16\"", "products must be"},
        {", \"target_bytes\": 2561", "target_bytes is above 64 continuations"},
    };
    training_check_refused(&training, cases, sizeof cases / sizeof *cases);
    static const struct training_refusal too_high = {"", "rank must be a whole number"};
    rank = RWKV_MAX_RANK + 1;
    training_check_refused(&training, &too_high, 1);
    rank = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_descent),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_killed_and_continued),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_low_rank),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_need),
        cmocka_unit_test(test_recipes_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
