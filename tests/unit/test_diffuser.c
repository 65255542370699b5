/* Datasets, codecs and diffusers on made-up states: what goes in comes out, what a file claims is
 * checked, and a sample depends on its own seed and place alone. */
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"

#include "engine/dit/diffuser.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/nn/nn.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { L = 2, C = 32, N = 16, H = C / N, S = L * C * (N + 2), ROWS = 300, K = 12, LABELS = 3 };
static const struct state_shape shape = {L, C, N};
static const char *const labels[LABELS] = {"prose", "code", "code/python"};
static const char fingerprint[] =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static struct pool *pool;

/* States of K strong directions a matrix, so that a codec of K components keeps them. */
static void draw_state(struct rng *rng, float *state)
{
    for (size_t i = 0; i < S; i++)
        state[i] = 0.5f + 0.01f * (float)rng_normal(rng);
    for (size_t k = 0; k < 4; k++) {
        float a = (float)rng_normal(rng);
        for (size_t i = 0; i < S; i++)
            state[i] += a * (float)sin((double)((k + 1) * i));
    }
}

static struct dataset_row row_of(size_t i)
{
    return (struct dataset_row){.corpus = i % 2,
                                .style = i % 4 == 1 ? 2 : -1,
                                .document = (int32_t)(i / 10),
                                .heldout = i % 5 == 0,
                                .text = i % 3 ? "some text" : "",
                                .n_text = i % 3 ? 9 : 0};
}

static struct dataset_plan plan_of(struct dataset_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = row_of(i);
    return (struct dataset_plan){.shape = shape,
                                 .cond_dim = C,
                                 .n = n,
                                 .rows = rows,
                                 .label = labels,
                                 .n_label = LABELS,
                                 .fingerprint = fingerprint,
                                 .weights = "F32"};
}

static void put_row(struct dataset_writer *w, struct rng *rng, size_t i, bool put)
{
    struct err e = {0};
    float state[S], cond[C];
    draw_state(rng, state);
    for (size_t c = 0; c < C; c++)
        cond[c] = (float)rng_normal(rng);
    if (put && dataset_writer_put(w, i, state, cond, &e) < 0)
        fail_msg("%s", e.msg);
}

static void write_dataset(const char *name)
{
    static struct dataset_row rows[ROWS];
    const struct dataset_plan plan = plan_of(rows, ROWS);
    struct dataset_writer w;
    struct err e = {0};
    struct rng rng;
    rng_init(&rng, 3, 0);
    if (dataset_writer_open(&w, in_folder("%s", name), &plan, &e) < 0)
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < ROWS; i++)
        put_row(&w, &rng, i, true);
    if (dataset_writer_close(&w, 0, &e) < 0)
        fail_msg("%s", e.msg);
}

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    gemm_setup();
    folder_open();
    pool = pool_new(2, "test", 0, &e);
    if (!pool)
        return -1;
    write_dataset("states");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pool_free(pool);
    folder_close("diffuser parts states");
    return 0;
}

static void test_dataset(void **state)
{
    (void)state;
    struct dataset d;
    struct err e = {0};
    struct rng rng;
    float want[S], got[S];
    if (dataset_open(&d, in_folder("states"), &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(d.n, ROWS);
    assert_int_equal(d.cond_dim, C);
    assert_int_equal(d.n_label, LABELS);
    assert_string_equal(d.label[2], "code/python");
    assert_string_equal(d.fingerprint, fingerprint);
    rng_init(&rng, 3, 0);
    for (size_t i = 0; i < ROWS; i++) {
        draw_state(&rng, want);
        dataset_state(&d, i, got);
        for (size_t k = 0; k < S; k++)
            assert_true(fabsf(got[k] - want[k]) <= 5e-4f * fabsf(want[k]) + 1e-7f);
        for (size_t c = 0; c < C; c++)
            assert_true(d.cond[i * C + c] == (float)rng_normal(&rng));
        assert_int_equal(d.row[i].corpus, i % 2);
        assert_int_equal(d.row[i].style, i % 4 == 1 ? 2 : -1);
        assert_int_equal(d.row[i].document, i / 10);
        assert_int_equal(d.row[i].heldout, i % 5 == 0);
        assert_int_equal(d.row[i].n_text, i % 3 ? 9 : 0);
        assert_memory_equal(d.row[i].text, "some text", d.row[i].n_text);
    }
    dataset_close(&d);
}

/* No number that F16 cannot hold, and no half file. */
static void test_dataset_refuses(void **state)
{
    (void)state;
    struct dataset_writer w;
    struct dataset_row rows[2];
    const struct dataset_plan plan = plan_of(rows, 2);
    struct err e = {0};
    float numbers[S] = {0}, cond[C] = {0};
    assert_int_equal(dataset_writer_open(&w, in_folder("bad"), &plan, &e), 0);
    numbers[7] = 70000;
    assert_int_equal(dataset_writer_put(&w, 0, numbers, cond, &e), ERR_NUMERIC);
    numbers[7] = NAN;
    assert_int_equal(dataset_writer_put(&w, 0, numbers, cond, &e), ERR_NUMERIC);
    numbers[7] = 0;
    cond[1] = INFINITY;
    int rc = dataset_writer_put(&w, 0, numbers, cond, &e);
    assert_int_equal(rc, ERR_NUMERIC);
    assert_false(dataset_writer_has(&w, 0));
    struct dataset_writer other;
    struct err busy = {0};
    int second = dataset_writer_open(&other, in_folder("bad"), &plan, &busy);
    assert_int_equal(second, ERR_IO); /* one at a time */
    assert_int_equal(dataset_writer_close(&other, second, &busy), ERR_IO);
    assert_int_equal(dataset_writer_close(&w, rc, &e), ERR_NUMERIC);
    assert_int_equal(access(in_folder("bad"), F_OK), -1);
    assert_int_equal(access(in_folder("bad.part"), F_OK), -1);
    struct dataset d;
    assert_int_equal(dataset_open(&d, in_folder("bad"), &e), ERR_IO);
}

static size_t rows_there(const struct dataset_writer *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->plan->n; i++)
        n += dataset_writer_has(w, i);
    return n;
}

/* A writer that stopped leaves its rows to the next of the same plan, but none that was damaged since;
 * of another plan, nothing. */
static void test_dataset_goes_on(void **state)
{
    (void)state;
    static struct dataset_row rows[ROWS];
    struct dataset_plan plan = plan_of(rows, ROWS);
    struct dataset_writer w;
    struct err e = {0};
    struct rng rng;
    rng_init(&rng, 3, 0);
    assert_int_equal(dataset_writer_open(&w, in_folder("parts"), &plan, &e), 0);
    for (size_t i = 0; i < ROWS; i++)
        put_row(&w, &rng, i, i % 3 != 1);
    assert_int_equal(dataset_writer_close(&w, ERR_CANCELLED, &e), ERR_CANCELLED);
    assert_int_equal(access(in_folder("parts"), F_OK), -1);

    assert_int_equal(dataset_writer_open(&w, in_folder("parts"), &plan, &e), 0);
    size_t there = rows_there(&w);
    assert_int_equal(there, ROWS - (ROWS + 1) / 3);
    assert_true(dataset_writer_has(&w, 3) && !dataset_writer_has(&w, 4));
    w.states[3 * S + 5] ^= 1;
    w.cond[5 * C] += 1;
    assert_int_equal(rows_there(&w), there - 2);
    rng_init(&rng, 3, 0);
    for (size_t i = 0; i < ROWS; i++)
        put_row(&w, &rng, i, !dataset_writer_has(&w, i));
    assert_int_equal(rows_there(&w), ROWS);
    assert_int_equal(dataset_writer_close(&w, 0, &e), 0);
    check_same_file("parts", "states");

    assert_int_equal(dataset_writer_open(&w, in_folder("parts"), &plan, &e), 0);
    assert_int_equal(rows_there(&w), 0);
    rng_init(&rng, 3, 0);
    put_row(&w, &rng, 0, true);
    assert_int_equal(dataset_writer_close(&w, ERR_CANCELLED, &e), ERR_CANCELLED);
    rows[1].text = "same length";
    rows[1].n_text = 9;
    assert_int_equal(dataset_writer_open(&w, in_folder("parts"), &plan, &e), 0);
    assert_int_equal(rows_there(&w), 0);
    plan.weights = "F16";
    assert_int_equal(dataset_writer_close(&w, ERR_CANCELLED, &e), ERR_CANCELLED);
    assert_int_equal(dataset_writer_open(&w, in_folder("parts"), &plan, &e), 0);
    assert_int_equal(rows_there(&w), 0);
    assert_int_equal(dataset_writer_close(&w, ERR_IO, &e), ERR_IO);
    assert_int_equal(access(in_folder("parts.part"), F_OK), -1);
}

static void fit(struct dit_codec *c, const struct dataset *d, size_t k, size_t p, bool shifts)
{
    const struct manifold_run run = {.pool = pool};
    struct err e = {0};
    const struct dit_codec_options o = {.components = k, .basis = p, .shifts = shifts};
    if (dit_codec_fit(c, d, &o, &run, &e) < 0)
        fail_msg("%s", e.msg);
}

static void test_codec(void **state)
{
    (void)state;
    struct dataset d;
    struct err e = {0};
    assert_int_equal(dataset_open(&d, in_folder("states"), &e), 0);
    for (int k = 0; k < 4; k++) {
        struct dit_codec c;
        double matrices, shifts, sum = 0, squares = 0;
        fit(&c, &d, K, k & 1 ? 8 : 0, k & 2);
        assert_int_equal(c.n_token, L * H + (k & 2 ? 2 * L : 0));
        assert_int_equal(dit_codec_error(&c, &d, true, &matrices, &shifts, &e), 0);
        if (!(matrices < 1e-3) || !((k & 2) ? shifts < 1e-3 : shifts > 0.5))
            fail_msg("case %d: loses %g of the matrices, %g of the shift vectors", k, matrices,
                     shifts);
        /* coordinates: mean 0 and variance 1 over the training rows */
        float x[S], *z = calloc(c.n_token * K, sizeof *z);
        size_t n = 0;
        for (size_t i = 0; i < d.n; i++) {
            if (d.row[i].heldout)
                continue;
            dataset_state(&d, i, x);
            assert_int_equal(dit_codec_encode(&c, x, 1, z, &e), 0);
            for (size_t t = 0; t < c.n_token * K; t++, n++) {
                sum += (double)z[t];
                squares += (double)z[t] * (double)z[t];
            }
        }
        assert_true(fabs(sum / (double)n) < 0.01 && fabs(squares / (double)n - 1) < 0.02);
        free(z);
        dit_codec_fini(&c);
    }
    dataset_close(&d);
}

static void test_codec_refuses(void **state)
{
    (void)state;
    static const struct dit_codec_options bad[] = {
        {.components = 0},
        {.components = N * N + 1},
        {.components = 5, .basis = 2},
        {.components = 4, .basis = N + 1},
        {.components = C + 1, .shifts = true},
        {.components = 250}, /* more than rows to fit on */
    };
    const struct manifold_run run = {.pool = pool};
    struct dataset d;
    struct err e = {0};
    assert_int_equal(dataset_open(&d, in_folder("states"), &e), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dit_codec c;
        assert_int_equal(dit_codec_fit(&c, &d, &bad[i], &run, &e), ERR_INVALID);
    }
    dataset_close(&d);
}

/* A diffuser with random weights, through its file. */
static struct diffuser *make_diffuser(bool shifts)
{
    struct dataset d;
    struct diffuser net = {0}, *out = NULL;
    struct err e = {0};
    struct rng rng;
    assert_int_equal(dataset_open(&d, in_folder("states"), &e), 0);
    fit(&net.codec, &d, K, 0, shifts);
    dataset_close(&d);
    const struct dit_shape s = {.n_token = net.codec.n_token,
                                .token_dim = K,
                                .n_embd = 24,
                                .n_head = 3,
                                .n_block = 2,
                                .n_mlp = 40,
                                .cond_dim = C,
                                .n_label = LABELS,
                                .per_token = true};
    assert_int_equal(dit_layout_init(&net.layout, &s, &e), 0);
    assert_int_equal(dit_schedule_init(&net.schedule, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    assert_int_equal(diffuser_set_labels(&net, labels, LABELS, &e), 0);
    net.info.shape = shape;
    net.info.schedule = DIT_SCHEDULE_COSINE;
    net.info.prediction = DIT_PREDICT_V;
    net.info.steps = 77;
    memcpy(net.info.fingerprint, fingerprint, 65);
    net.params = calloc(net.layout.count, sizeof(float));
    net.cond_mean = calloc(C, sizeof(float));
    net.cond_scale = calloc(C, sizeof(float));
    rng_init(&rng, 9, 0);
    for (size_t i = 0; i < net.layout.n; i++)
        for (size_t k = 0; k < net.layout.param[i].count; k++)
            net.params[net.layout.param[i].offset + k] = /* as a file keeps it */
                f16_to_f32(f32_to_f16(0.2f * (float)rng_normal(&rng)));
    for (size_t c = 0; c < C; c++)
        net.cond_scale[c] = 1 + 0.1f * (float)c;
    if (diffuser_write(&net, in_folder("diffuser"), &e) < 0 ||
        diffuser_open(in_folder("diffuser"), &out, &e) < 0)
        fail_msg("%s", e.msg);
    net.params[0] = 1e5f; /* more than F16 holds: refused, and the file stays */
    assert_int_equal(diffuser_write(&net, in_folder("diffuser"), &e), ERR_NUMERIC);
    net.params[0] = out->params[0];
    assert_memory_equal(out->params, net.params, net.layout.count * sizeof(float));
    assert_memory_equal(out->codec.basis, net.codec.basis, L * H * K * N * N * sizeof(float));
    assert_memory_equal(out->cond_scale, net.cond_scale, C * sizeof(float));
    diffuser_fini(&net);
    return out;
}

static void test_file(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(true);
    const struct diffuser_info *i = diffuser_get_info(d);
    assert_int_equal(i->shape.n_layer, L);
    assert_int_equal(i->n_token, L * H + 2 * L);
    assert_int_equal(i->token_dim, K);
    assert_int_equal(i->n_label, LABELS);
    assert_int_equal(i->steps, 77);
    assert_true(i->per_token && i->shifts && i->schedule == DIT_SCHEDULE_COSINE);
    assert_string_equal(i->fingerprint, fingerprint);
    assert_int_equal(diffuser_label(d, "code"), 1);
    assert_int_equal(diffuser_label(d, "poetry"), -1);
    assert_int_equal(diffuser_matrix_token(i, 1, 1), 3);
    assert_int_equal(diffuser_matrix_token(i, 2, 0), -1);
    assert_int_equal(diffuser_shift_token(i, 1, 1), L * H + 3);
    diffuser_close(d);
}

/* Every cut of the file, and every byte of its header changed, is refused or read as something
 * whole: never a crash. */
static void test_hostile_files(void **state)
{
    (void)state;
    diffuser_close(make_diffuser(true));
    struct err e = {0};
    size_t n, refused = 0;
    char *bytes = read_file("diffuser", &n);
    uint64_t header;
    memcpy(&header, bytes, 8);
    for (size_t cut = 0; cut < n; cut += 1 + n / 200) {
        struct diffuser *d = NULL;
        assert_true(diffuser_open_memory(bytes, cut, &d, &e) < 0);
    }
    for (size_t i = 0; i < header; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            struct diffuser *d = NULL;
            bytes[8 + i] ^= (char)(1 << bit);
            if (diffuser_open_memory(bytes, n, &d, &e) < 0)
                refused++;
            else
                diffuser_close(d);
            bytes[8 + i] ^= (char)(1 << bit);
        }
    assert_true(refused > header);
    /* a weight that is no number */
    const float nan = NAN;
    char *copy = malloc(n);
    memcpy(copy, bytes, n);
    for (size_t at = 8 + header; at + 4 <= n; at += n / 7) {
        struct diffuser *d = NULL;
        memcpy(copy + (at & ~(size_t)7), &nan, 4);
        if (diffuser_open_memory(copy, n, &d, &e) == 0)
            diffuser_close(d);
    }
    struct diffuser *d = NULL;
    assert_int_equal(diffuser_open_memory(copy, n, &d, &e), ERR_FORMAT);
    free(copy);
    free(bytes);
}

static const float vector[C] = {0.3f, -1.2f, 0.7f};
static const struct diffuser_condition by_vector = {DIFFUSER_VECTOR, vector};

static void sample(const struct diffuser *d, const struct diffuser_options *o,
                   const struct diffuser_job *job)
{
    struct err e = {0};
    if (diffuser_run(d, pool, o, job, &e) < 0)
        fail_msg("%s", e.msg);
}

enum { MANY = 40 }; /* more than one group of a thread */

static void check_same_bytes(const struct diffuser *d, const struct diffuser_options *o,
                             const struct diffuser_condition *c)
{
    static float many[MANY * S], one[S], again[MANY * S];
    struct err e = {0};
    sample(d, o, &(struct diffuser_job){.n = MANY, .condition = c, .states = many});
    sample(d, o, &(struct diffuser_job){.n = MANY, .condition = c, .states = again});
    assert_memory_equal(many, again, sizeof many);
    for (uint32_t i = 0; i < MANY; i += 13) {
        sample(d, o, &(struct diffuser_job){.n = 1, .condition = &c[i], .first = i, .states = one});
        assert_memory_equal(one, many + i * S, sizeof one);
    }
    struct pool *alone = pool_new(1, "test", 0, &e);
    const struct diffuser_job job = {.n = MANY, .condition = c, .states = again};
    assert_non_null(alone);
    assert_int_equal(diffuser_run(d, alone, o, &job, &e), 0);
    assert_memory_equal(many, again, sizeof many);
    pool_free(alone);
    assert_memory_not_equal(many, many + S, sizeof one);
    struct diffuser_options other = *o;
    other.seed = 12;
    sample(d, &other, &(struct diffuser_job){.n = 1, .condition = c, .states = one});
    assert_memory_not_equal(one, many, sizeof one);
}

/* Alone and among others, on any number of threads, with either kind of products. */
static void test_same_bytes(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(true);
    struct diffuser_condition c[MANY];
    for (size_t i = 0; i < MANY; i++)
        c[i] = i % 3 ? by_vector : (struct diffuser_condition){.label = (int32_t)(i % 2)};
    for (int k = 0; k < 6; k++)
        check_same_bytes(d,
                         &(struct diffuser_options){.steps = 5,
                                                    .scheduler = (enum dit_scheduler)(k % 3),
                                                    .eta = k % 3 == DIT_DDIM ? 0.5 : 0,
                                                    .guidance = k < 5 ? 2 : 1,
                                                    .seed = 11,
                                                    .bf16 = k / 3,
                                                    .negative = {.label = DIFFUSER_NONE}},
                         c);
    diffuser_close(d);
}

static void draw_start(float *start)
{
    struct rng rng;
    rng_init(&rng, 77, 0);
    draw_state(&rng, start);
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < S; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sqrt(sum);
}

/* Rounded operands move a state by some thousandths; where the CPU has no such products, not at all. */
static void test_products(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(true);
    struct diffuser_options o = DIFFUSER_OPTIONS;
    struct nn_f32 op = *nn_f32_for(CPU_AUTO);
    static float f32[S], bf16[S], zero[S];
    sample(d, &o, &(struct diffuser_job){.n = 1, .condition = &by_vector, .states = bf16});
    o.bf16 = false;
    sample(d, &o, &(struct diffuser_job){.n = 1, .condition = &by_vector, .states = f32});
    const double off = distance(f32, bf16) / distance(f32, zero);
    if (nn_bf16_products(&op))
        assert_true(off > 1e-6 && off < 0.01);
    else
        assert_true(off == 0);
    diffuser_close(d);
}

/* More strength leads further away; kept parts stay bit for bit; others change. */
static void test_editing(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(true);
    const struct diffuser_info *info = diffuser_get_info(d);
    const struct diffuser_options o = DIFFUSER_OPTIONS;
    static float start[S], out[S];
    double before = 0;
    uint8_t keep[L * H + 2 * L] = {0};
    draw_start(start);
    for (double strength = 0.05; strength <= 1; strength += 0.45) {
        sample(d, &o,
               &(struct diffuser_job){.n = 1,
                                      .condition = &by_vector,
                                      .start = start,
                                      .strength = strength,
                                      .states = out});
        assert_true(distance(start, out) > before);
        before = distance(start, out);
    }
    keep[diffuser_matrix_token(info, 1, 0)] = keep[diffuser_shift_token(info, 0, 1)] = 1;
    sample(d, &o,
           &(struct diffuser_job){.n = 1,
                                  .condition = &by_vector,
                                  .start = start,
                                  .strength = 1,
                                  .keep = keep,
                                  .states = out});
    const size_t layer = 2 * C + C * N;
    assert_memory_equal(out + layer + C, start + layer + C, N * N * sizeof *out);
    assert_memory_equal(out + C + C * N, start + C + C * N, C * sizeof *out);
    assert_memory_not_equal(out, start, C * sizeof *out);
    assert_memory_not_equal(out + layer + C + N * N, start + layer + C + N * N,
                            N * N * sizeof *out);
    diffuser_close(d);
}

/* Inverted and made again under the same condition: near the start, nearer with more steps. */
static void test_inversion(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(true);
    struct diffuser_options o = DIFFUSER_OPTIONS;
    static float start[S], out[S];
    double off[2];
    draw_start(start);
    o.guidance = 1;
    for (int k = 0; k < 2; k++) {
        o.steps = k ? 200 : 20;
        sample(d, &o,
               &(struct diffuser_job){.n = 1,
                                      .condition = &by_vector,
                                      .start = start,
                                      .strength = 0.6,
                                      .source = &by_vector,
                                      .states = out});
        off[k] = distance(start, out);
    }
    assert_true(off[1] < 0.7 * off[0]);
    diffuser_close(d);
}

static bool stop_at_three(void *ctx, size_t done, size_t total)
{
    *(size_t *)ctx = total;
    return done < 3;
}

static void test_refusals(void **state)
{
    (void)state;
    struct diffuser *d = make_diffuser(false);
    const struct diffuser_options good = DIFFUSER_OPTIONS;
    struct diffuser_options bad[5] = {good, good, good, good, good};
    static float start[S], out[S];
    struct err e = {0};
    struct diffuser_job job = {.n = 1, .condition = &by_vector, .states = out};
    bad[0].steps = 1;
    bad[1].guidance = NAN;
    bad[2].eta = 2;
    bad[3].negative.label = LABELS;
    bad[4].clip = -1;
    for (size_t i = 0; i < 5; i++) {
        e = (struct err){0};
        assert_int_equal(diffuser_run(d, pool, &bad[i], &job, &e), ERR_INVALID);
        assert_true(e.param[0]);
    }
    job.start = start;
    assert_int_equal(diffuser_run(d, pool, &good, &job, &e), ERR_INVALID);
    assert_string_equal(e.param, "strength");
    job.start = NULL;
    float wild[C] = {INFINITY};
    job.condition = &(struct diffuser_condition){DIFFUSER_VECTOR, wild};
    assert_int_equal(diffuser_run(d, pool, &good, &job, &e), ERR_INVALID);
    job.condition = &by_vector;
    size_t total = 0;
    job.proceed = stop_at_three;
    job.ctx = &total;
    assert_int_equal(diffuser_run(d, pool, &good, &job, &e), ERR_CANCELLED);
    assert_int_equal(total, good.steps);
    diffuser_close(d);
}

static int open_fit_and_close(void *arg)
{
    const struct manifold_run run = {.pool = pool};
    const struct dit_codec_options o = {.components = 4, .basis = 4, .shifts = true};
    struct dataset d;
    struct dit_codec c = {0};
    struct err e = {0};
    double matrices, shifts;
    (void)arg;
    int rc = dataset_open(&d, in_folder("states"), &e);
    if (rc < 0)
        return rc;
    rc = dit_codec_fit(&c, &d, &o, &run, &e);
    if (rc == 0)
        rc = dit_codec_error(&c, &d, true, &matrices, &shifts, &e);
    dit_codec_fini(&c);
    dataset_close(&d);
    return rc;
}

static int open_edit_and_close(void *arg)
{
    static float start[S], out[S];
    const struct diffuser_options o = {
        .steps = 2, .guidance = 2, .bf16 = true, .negative = {.label = DIFFUSER_NONE}};
    const struct diffuser_job job = {
        .n = 1, .condition = &by_vector, .start = start, .strength = 1, .states = out};
    struct diffuser *d = NULL;
    struct err e = {0};
    (void)arg;
    int rc = diffuser_open(in_folder("diffuser"), &d, &e);
    if (rc == 0)
        rc = diffuser_run(d, pool, &o, &job, &e);
    diffuser_close(d);
    return rc;
}

static int write_and_close(void *arg)
{
    struct dataset_writer w;
    struct dataset_row rows[1];
    const struct dataset_plan plan = plan_of(rows, 1);
    struct err e = {0};
    const float numbers[S] = {0};
    (void)arg;
    int rc = dataset_writer_open(&w, in_folder("bad"), &plan, &e);
    if (rc == 0)
        rc = dataset_writer_put(&w, 0, numbers, numbers, &e);
    return dataset_writer_close(&w, rc, &e);
}

static void test_no_memory(void **state)
{
    (void)state;
    diffuser_close(make_diffuser(true));
    assert_true(alloc_sweep(write_and_close, NULL) > 5);
    unlink(in_folder("bad"));
    assert_true(alloc_sweep(open_fit_and_close, NULL) > 20);
    assert_true(alloc_sweep(open_edit_and_close, NULL) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dataset),         cmocka_unit_test(test_dataset_refuses),
        cmocka_unit_test(test_dataset_goes_on), cmocka_unit_test(test_codec),
        cmocka_unit_test(test_codec_refuses),   cmocka_unit_test(test_file),
        cmocka_unit_test(test_hostile_files),   cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_products),        cmocka_unit_test(test_editing),
        cmocka_unit_test(test_inversion),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
