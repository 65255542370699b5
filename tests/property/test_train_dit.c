/* `train dit` from texts to a diffuser on a small model with random weights: what is baked is what the
 * model computes, a stopped or killed run ends with the bytes of a whole one, and the loss falls. */
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "engine/dit/dit.h"
#include "engine/rwkv/rwkv.h"
#include "engine/rwkv/score.h"
#include "engine/train/bake.h"
#include "engine/train/dit.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 60, L = TRAINING_L, C = TRAINING_C, N = TRAINING_N };

static void write_recipe(const char *name, const char *more)
{
    char text[2048], file[64];
    int n = snprintf(
        text, sizeof text,
        "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"seed\": 3, \"threads\": 2, "
        "\"steps\": %d, \"batch\": 12, \"segments\": 160, \"eval_segments\": 16, "
        "\"segment_bytes\": 80, \"style_segments\": 15, \"components\": 12, \"basis\": 16, "
        "\"shifts\": true, \"n_embd\": 24, \"n_head\": 2, \"n_block\": 2, \"n_mlp\": 32, "
        "\"warmup\": 5, \"checkpoint_every\": 7, \"eval_every\": 20, "
        "\"data\": [{\"name\": \"low\", \"path\": \"%s\", \"styles\": \"%s\"}, "
        "{\"name\": \"high\", \"path\": \"%s\"}], "
        "\"eval\": [{\"name\": \"low\", \"path\": \"%s\"}]%s}",
        in_folder("model.safetensors"), in_folder("states"), in_folder("%s", name), STEPS,
        in_folder("low"), in_folder("styles"), in_folder("high"), in_folder("low"), more);
    assert_true(n > 0 && (size_t)n < sizeof text);
    snprintf(file, sizeof file, "%s.json", name);
    write_file(file, text, (size_t)n);
}

static int train(const char *recipe, uint64_t steps, const struct train_control *c,
                 struct pool *pool, bool *done, struct err *e)
{
    static struct dit_recipe r;
    int rc = dit_recipe_read(&r, recipe, e);
    r.schedule.steps = steps ? steps : r.schedule.steps;
    return rc < 0 ? rc : train_dit(&r, c, pool, done, e);
}

static const struct training training = {
    "dit",
    STEPS,
    write_recipe,
    train,
    {"checkpoint.safetensors", "codec.safetensors", "diffuser.safetensors"}};

static int set_up(void **state)
{
    (void)state;
    static const char styles[] = "one\none\n\ntwo\ntwo\nrare\n\n\n";
    char text[24000];
    folder_open();
    training_model("model.safetensors", false);
    training_text(text, sizeof text, 3000, 'a', 0);
    write_file("low", text, sizeof text);
    training_text(text, sizeof text, 3000, 'n', 0);
    write_file("high", text, sizeof text);
    write_file("styles", styles, sizeof styles - 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    folder_close(
        "average average.json bad.json high killed killed.json loud.safetensors low "
        "model.safetensors need need.json parts "
        "parts.json states styles threads1 threads1.json threads2 threads2.json tuned tuned.json "
        "tuned.states whole whole.json");
    return 0;
}

struct seen {
    double first, last; /* losses */
    double eval[2];     /* first and last mean */
    size_t evals;
};

static void on_step(void *ctx, const struct train_step *s)
{
    struct seen *seen = ctx;
    if (s->step == 1)
        seen->first = s->loss;
    seen->last = s->loss;
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    struct seen *seen = ctx;
    assert_string_equal(v->what, "x0_error");
    assert_int_equal(v->n, 20);
    seen->eval[seen->evals++ > 0] = v->mean;
}

static void test_whole(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct diffuser *d = NULL;
    struct err e = {0};
    const struct train_control c = {.on_step = on_step, .on_eval = on_eval, .ctx = &seen};
    write_recipe("whole", "");
    assert_true(training_run(&training, "whole", &c));
    assert_int_equal(seen.evals, 3);
    /* saying nothing (v = 0) would have an error of 1 - alpha_bar, 0.5 on average */
    if (!(seen.last < 0.8 * seen.first) || !(seen.eval[1] < 0.35) ||
        !(seen.eval[1] < 0.8 * seen.eval[0]))
        fail_msg("loss from %g to %g, held-out error from %g to %g", seen.first, seen.last,
                 seen.eval[0], seen.eval[1]);
    if (diffuser_open(in_folder("whole/diffuser.safetensors"), &d, &e) < 0)
        fail_msg("%s", e.msg);
    const struct diffuser_info *i = diffuser_get_info(d);
    assert_int_equal(i->steps, STEPS);
    assert_int_equal(i->cond_dim, C);
    assert_int_equal(i->n_token, L * C / N + 2 * L);
    assert_int_equal(i->n_label, 4); /* the corpora, and the two styles that are not rare */
    assert_string_equal(i->label[0], "low");
    assert_string_equal(i->label[1], "high");
    assert_true(diffuser_label(d, "low/one") > 1 && diffuser_label(d, "low/two") > 1);
    diffuser_close(d);
}

/* A row's state and condition are the model's own for separator and text, without the shift vectors. */
static void test_baked(void **state)
{
    (void)state;
    struct dataset d;
    struct err e = {0};
    struct rwkv_model *m = NULL;
    struct pool *pool = pool_new(1, "test", 0, &e);
    if (dataset_open(&d, in_folder("states"), &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(rwkv_open(in_folder("model.safetensors"),
                               &(struct rwkv_options){.weights_type = -1}, pool, &m, &e),
                     0);
    const struct rwkv_info *info = rwkv_get_info(m);
    struct rwkv_session *s = rwkv_session_new(m, pool, 64, &e);
    assert_non_null(s);
    assert_int_equal(d.n, 160 + 16);
    assert_string_equal(d.fingerprint, info->fingerprint);
    float *got = malloc(d.state_floats * sizeof *got), *want = rwkv_state_new(info);
    for (size_t i = 0; i < d.n; i += 17) {
        const struct dataset_row *row = &d.row[i];
        uint32_t tokens[81] = {'\n'};
        assert_true(row->n_text >= 40 && row->n_text <= 80 && row->text[row->n_text - 1] == '.');
        for (size_t k = 0; k < row->n_text; k++)
            tokens[1 + k] = (uint8_t)row->text[k];
        float *hidden = calloc((row->n_text + 1) * C, sizeof *hidden);
        struct rwkv_seq q = {
            .tokens = tokens, .n_tokens = row->n_text + 1, .state = want, .hidden = hidden};
        memset(want, 0, d.state_floats * sizeof *want);
        assert_int_equal(rwkv_eval(s, &q, 1, &e), 0);
        dataset_state(&d, i, got);
        assert_int_equal(bake_forget_last(info, want, &e), 0);
        for (size_t k = 0; k < d.state_floats; k++)
            if (!(fabsf(got[k] - want[k]) <= 1e-3f * fabsf(want[k]) + 1e-6f))
                fail_msg("row %zu [%zu]: %g, want %g", i, k, (double)got[k], (double)want[k]);
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t t = 0; t < row->n_text + 1; t++)
                sum += (double)hidden[t * C + c];
            assert_true(fabs(sum / (double)(row->n_text + 1) - (double)d.cond[i * C + c]) < 1e-5);
        }
        assert_int_equal(row->heldout, i >= 160);
        free(hidden);
    }
    free(got);
    free(want);
    rwkv_session_free(s);
    rwkv_close(m);
    pool_free(pool);
    dataset_close(&d);
}

/* Bits of the first 40 bytes of every text of a corpus' training rows, behind a separator, from a state. */
static double bits_from(const struct rwkv_model *m, struct pool *pool, const struct dataset *d,
                        int32_t corpus, const float *state)
{
    enum { LONG = 40 };
    static uint32_t ids[200][LONG + 1];
    static float bits[200][LONG];
    struct score_seq q[200] = {0};
    struct err e = {0};
    size_t n = 0;
    double sum = 0;
    for (size_t i = 0; i < d->n && n < 200; i++) {
        if (d->row[i].corpus != corpus || d->row[i].heldout || d->row[i].n_text < LONG)
            continue;
        ids[n][0] = '\n';
        for (size_t k = 0; k < LONG; k++)
            ids[n][k + 1] = (uint8_t)d->row[i].text[k];
        q[n] = (struct score_seq){
            .tokens = ids[n], .n_tokens = LONG + 1, .bits = bits[n], .state = state};
        n++;
    }
    assert_int_equal(rwkv_score(m, pool, q, n, &e), 0);
    for (size_t i = 0; i < n * LONG; i++)
        sum += (double)bits[i / LONG][i % LONG];
    return sum / (double)(n * LONG);
}

/* Rows without text: copies of states that predict their corpus better than the mean of its states does.
 * They have a label and no condition. */
static void test_tuned(void **state)
{
    (void)state;
    static struct dit_recipe r;
    struct dataset d;
    struct err e = {0};
    bool done;
    struct rwkv_model *m = NULL;
    struct pool *pool = pool_new(2, "test", 0, &e);
    write_recipe("tuned", "");
    assert_int_equal(dit_recipe_read(&r, in_folder("tuned.json"), &e), 0);
    training_model("loud.safetensors", true); /* a new model's output does not hear its state */
    snprintf(r.model, sizeof r.model, "%s", in_folder("loud.safetensors"));
    snprintf(r.dataset, sizeof r.dataset, "%s", in_folder("tuned.states"));
    r.tuned = 2;
    r.tuned_steps = 60;
    r.style_segments = 5;
    r.schedule.steps = r.schedule.warmup = 1;
    if (train_dit(&r, &(struct train_control){0}, pool, &done, &e) < 0 ||
        dataset_open(&d, r.dataset, &e) < 0 ||
        rwkv_open(in_folder("loud.safetensors"), &(struct rwkv_options){.weights_type = -1}, pool,
                  &m, &e) < 0)
        fail_msg("%s", e.msg);
    enum { COPIES = 80 / 9 / 2 + 1 };
    assert_int_equal(d.n, 160 + 16 + 2 * 2 * COPIES);
    float *mean = calloc(2 * d.state_floats, sizeof *mean), *x = calloc(d.state_floats, sizeof *x);
    for (size_t i = 0; i < d.n; i++) {
        dataset_state(&d, i, x);
        for (size_t k = 0; k < d.state_floats && d.row[i].n_text && !d.row[i].heldout; k++)
            mean[(size_t)d.row[i].corpus * d.state_floats + k] += x[k] / 80;
    }
    size_t tuned = 0;
    for (size_t i = 0; i < d.n; i++) {
        const struct dataset_row *row = &d.row[i];
        if (row->n_text)
            continue;
        assert_true(!row->heldout && row->style >= 0);
        assert_string_equal(d.label[row->style], row->corpus ? "high/tuned" : "low/tuned");
        for (size_t c = 0; c < C; c++)
            assert_true(d.cond[i * C + c] == 0);
        if (tuned++ % COPIES)
            continue;
        dataset_state(&d, i, x);
        assert_true(bits_from(m, pool, &d, row->corpus, x) <
                    bits_from(m, pool, &d, row->corpus, mean + row->corpus * d.state_floats));
    }
    assert_int_equal(tuned, 2 * 2 * COPIES);
    free(mean);
    free(x);
    rwkv_close(m);
    dataset_close(&d);
    pool_free(pool);
}

struct stopper {
    size_t calls, most; /* 0: never stopped */
    size_t done;
};

static bool go_on(void *ctx, size_t done, size_t n)
{
    struct stopper *s = ctx;
    assert_true(done <= n && done >= s->done);
    s->done = done;
    return ++s->calls != s->most;
}

/* Rows of texts of several lengths; read in one go or, with most > 0, in as many as it takes. */
static size_t bake_rows(const struct rwkv_model *m, struct pool *pool, const char *name,
                        size_t most)
{
    enum { N_ROWS = 61 };
    static const char text[] =
        "It was the best of times, it was the worst of times, it was the age of "
        "wisdom, it was the age of foolishness, it was the epoch of belief.";
    static const char *const labels[] = {"one"};
    struct dataset_row rows[N_ROWS];
    struct tokenizer *tok = tokenizer_new_bytes();
    struct err e = {0};
    size_t runs = 0;
    int rc;
    for (size_t i = 0; i < N_ROWS; i++)
        rows[i] = (struct dataset_row){
            .style = -1, .document = (int32_t)i, .text = text + i, .n_text = 4 + i * 7 % 70};
    do {
        struct stopper stop = {.most = most};
        const struct bake b = {.model = m,
                               .pool = pool,
                               .tokenizer = tok,
                               .rows = rows,
                               .n = N_ROWS,
                               .label = labels,
                               .n_label = 1,
                               .path = in_folder("%s", name),
                               .proceed = go_on,
                               .ctx = &stop};
        rc = bake_run(&b, &e);
        runs++;
        assert_true(rc == 0 || (rc == ERR_CANCELLED && access(in_folder("%s", name), F_OK) < 0));
    } while (rc < 0 && runs < 1000);
    assert_int_equal(rc, 0);
    tokenizer_free(tok);
    return runs;
}

/* Baking that was stopped goes on with the rows that are missing, and ends with the bytes of a whole
 * run; on quantised weights too. */
static void test_baking_goes_on(void **state)
{
    (void)state;
    static const int types[] = {-1, DTYPE_Q8_0};
    struct err e = {0};
    struct pool *pool = pool_new(2, "test", 0, &e);
    for (size_t k = 0; k < 2; k++) {
        struct rwkv_model *m = NULL;
        assert_int_equal(rwkv_open(in_folder("model.safetensors"),
                                   &(struct rwkv_options){.weights_type = types[k]}, pool, &m, &e),
                         0);
        assert_int_equal(bake_rows(m, pool, "whole.rows", 0), 1);
        assert_true(bake_rows(m, pool, "part.rows", 6) > 1);
        check_same_file("whole.rows", "part.rows");
        unlink(in_folder("whole.rows"));
        unlink(in_folder("part.rows"));
        rwkv_close(m);
    }
    pool_free(pool);
}

static void test_stopped_and_continued(void **state)
{
    (void)state;
    write_recipe("parts", "");
    training_check_stops(&training, "whole", "parts", 11);
    check_files("parts", "checkpoint.safetensors codec.safetensors diffuser.safetensors log.jsonl");
}

static void test_killed_and_continued(void **state)
{
    (void)state;
    write_recipe("killed", "");
    training_check_kills(&training, "whole", "killed", 12, 6);
    check_files("killed",
                "checkpoint.safetensors codec.safetensors diffuser.safetensors log.jsonl");
}

static void test_steps(void **state)
{
    (void)state;
    training_check_threads(&training, "threads");
    training_check_average(&training, "average");
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_true(training_check_memory(&training, "parts") > 20);
    check_files("parts", "checkpoint.safetensors codec.safetensors diffuser.safetensors log.jsonl");
}

static void test_need(void **state)
{
    (void)state;
    static struct dit_recipe r;
    struct dataset d;
    struct dit_need need;
    struct err e = {0};
    write_recipe("need", "");
    assert_int_equal(dit_recipe_read(&r, in_folder("need.json"), &e), 0);
    assert_int_equal(dataset_open(&d, r.dataset, &e), 0);
    struct dit_rows_info rows = {d.shape, d.n, d.n_label, d.n * 80};
    dataset_close(&d);
    assert_int_equal(train_dit_plan(&r, &rows, 2, &need, &e), 0);
    assert_int_equal(need.n_token, L * C / N + 2 * L);
    training_check_need(&training, "need", need.memory);
    r.components = 100000; /* more than a head's matrix has */
    assert_int_equal(train_dit_plan(&r, &rows, 2, &need, &e), ERR_INVALID);
    assert_string_equal(e.param, "components");
}

static void test_recipes_refused(void **state)
{
    (void)state;
    static const struct training_refusal cases[] = {
        {", \"learning_rate\": 1", "unknown key learning_rate"},
        {", \"schedule\": \"square\"", "schedule must be"},
        {", \"prediction\": \"y\"", "prediction must be"},
        {", \"products\": \"int8\"", "products must be"},
        {", \"per_token\": 1", "per_token must be true or false"},
        {", \"ema\": 1", "ema must be a number"},
        {", \"texts\": 0", "texts must be a whole number"},
    };
    training_check_refused(&training, cases, sizeof cases / sizeof *cases);
}

static void test_pieces(void **state)
{
    (void)state;
    static const char text[] =
        "A first sentence. A second, longer one!\n\n  A line of its own\n"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nThe end of it.";
    static const char *const want[] = {"A first sentence. A second, longer one!", "The end of it."};
    size_t at = 0, begin, n, k = 0;
    while ((n = bake_piece(text, sizeof text - 1, 40, &at, &begin)) > 0) {
        if (n < 30) /* pieces below half of the most are passed over */
            fail_msg("a piece of %zu bytes", n);
        assert_true(k == 0);
        assert_memory_equal(text + begin, want[k], n);
        k++;
    }
    at = 0;
    for (k = 0; (n = bake_piece(text, sizeof text - 1, 28, &at, &begin)) > 0; k++) {
        assert_true(n >= 14 && n <= 28);
        assert_true(text[begin] != ' ' && text[begin] != '\n');
    }
    assert_true(k >= 3);
    at = 0;
    assert_int_equal(bake_piece("", 0, 40, &at, &begin), 0);
    assert_int_equal(bake_piece("   \n ", 5, 40, &at, &begin), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_baked),
        cmocka_unit_test(test_tuned),
        cmocka_unit_test(test_baking_goes_on),
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_killed_and_continued),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_need),
        cmocka_unit_test(test_recipes_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
