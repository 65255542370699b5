/* The measures of `bench dreamstate` on made-up data whose answers are known, and the whole command on
 * a small model, its diffuser trained for a few steps. */
#include "tests/lib/bench.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "daemon/bench.h"
#include "daemon/bench_dreamstate.h"
#include "engine/kernels/rng.h"
#include "engine/train/dit.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static struct pool *pool;
static struct manifold_run run;

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    folder_open();
    pool = pool_new(2, "test", 0, &e);
    run.pool = pool;
    return pool ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    check_files("out", "checkpoint.safetensors codec.safetensors diffuser.safetensors log.jsonl");
    folder_close("1.json 2.json bad baselines.json curve.svg dit.json high high.gz low low.gz "
                 "map.svg model out reference states styles");
    pool_free(pool);
    return 0;
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static void test_margin(void **state)
{
    (void)state;
    const struct ds_edit_point line[3] = {{3, 2}, {2.5, 2.2}, {2, 3}};
    /* On the curve: none. Halfway along its second piece the curve reads 2.25. */
    assert_true(fabs(ds_edit_margin(line, 3, (struct ds_edit_point){2.5, 2.2})) < 1e-12);
    assert_true(fabs(ds_edit_margin(line, 3, (struct ds_edit_point){2.05, 2.6}) - .2) < 1e-12);
    assert_true(fabs(ds_edit_margin(line, 3, (struct ds_edit_point){2.9, 2.1}) + .15) < 1e-12);
    /* Beyond its ends it is flat. */
    assert_true(fabs(ds_edit_margin(line, 3, (struct ds_edit_point){2.8, 1.9}) - .2) < 1e-12);
    assert_true(fabs(ds_edit_margin(line, 3, (struct ds_edit_point){1.9, 4}) - .1) < 1e-12);
    assert_true(ds_edit_monotone(line, 3));
    const struct ds_edit_point back[3] = {{3, 2}, {2.5, 2.2}, {2.6, 3}};
    assert_false(ds_edit_monotone(back, 3));
    const struct ds_edit_point stuck[3] = {{3, 2}, {2.5, 2.2}, {2, 2.2}};
    assert_false(ds_edit_monotone(stuck, 3));
}

static void test_rank(void **state)
{
    (void)state;
    const float distance[6] = {1, 2, 3, 4, 2, 0};
    const int8_t first[6] = {1, 0, 0, 0, 0, -1}, last[6] = {0, 0, 0, 1, 0, -1};
    const int8_t tie[6] = {-1, 1, -1, -1, 0, -1}, none[6] = {1, -1, -1, -1, -1, -1};
    const int8_t both[6] = {1, 0, 0, 1, -1, -1}; /* 1 beats 2 and 3, 4 neither */
    assert_true(ds_rank(distance, first, 6) == 1);
    assert_true(ds_rank(distance, last, 6) == 0);
    assert_true(ds_rank(distance, tie, 6) == .5);
    assert_true(ds_rank(distance, both, 6) == .5);
    assert_true(isnan(ds_rank(distance, none, 6)));
}

static void test_distances(void **state)
{
    (void)state;
    struct err e = {0};
    double x;
    /* Two groups of three: distances 3, 4, 5 and 6, 8, 10. */
    const float z[12] = {0, 0, 3, 0, 3, 4, 100, 100, 106, 100, 106, 108};
    const struct points p = {z, 6, 2, 2}, to = {z, 1, 2, 2};
    assert_int_equal(ds_spread(&run, &p, 3, &x, &e), 0);
    assert_true(fabs(x - 6) < 1e-4);
    const struct points three = {z, 3, 2, 2}; /* 0, 3, 5 from the first */
    assert_int_equal(ds_nearest(&run, &three, &to, &x, &e), 0);
    assert_true(fabs(x - 3) < 1e-4);
    const struct points two = {z, 2, 2, 2}; /* an even number: between */
    assert_int_equal(ds_nearest(&run, &two, &to, &x, &e), 0);
    assert_true(fabs(x - 1.5) < 1e-4);
}

static void test_votes(void **state)
{
    (void)state;
    struct err e = {0};
    const float at[4] = {0, 1, 10, 11}, ask[3] = {.4f, 10.6f, 4};
    const uint32_t label[4] = {0, 0, 2, 2}, own[3] = {0, 2, 2};
    const struct points to = {at, 4, 1, 1}, p = {ask, 3, 1, 1};
    const struct ds_voters v = {&to, label, 3, 3};
    float share[9];
    assert_int_equal(ds_votes(&run, &p, &v, share, &e), 0);
    const float want[9] = {2 / 3.f, 0, 1 / 3.f, 1 / 3.f, 0, 2 / 3.f, 2 / 3.f, 0, 1 / 3.f};
    for (size_t i = 0; i < 9; i++)
        assert_true(fabsf(share[i] - want[i]) < 1e-6f);
    assert_true(fabs(ds_vote_accuracy(share, 3, 3, own) - 2 / 3.) < 1e-12);
}

/* Draws have their class' mean and covariance: here x1 = 2 x0 exactly, and x2 apart. */
static void test_gaussian(void **state)
{
    (void)state;
    enum { N = 400, PER = 4000 };
    struct err e = {0};
    struct rng rng;
    static float z[N * 3], out[2 * PER * 3];
    static uint32_t label[N];
    rng_init(&rng, 5, 0);
    for (size_t i = 0; i < N; i++) {
        label[i] = i % 2;
        float a = (float)rng_normal(&rng);
        z[3 * i] = a + (float)label[i] * 50;
        z[3 * i + 1] = 2 * a;
        z[3 * i + 2] = 3 * (float)rng_normal(&rng);
    }
    const struct points p = {z, N, 3, 3};
    assert_int_equal(ds_gaussian(&run, &p, label, 2, PER, 9, out, &e), 0);
    for (size_t k = 0; k < 2; k++) {
        double m = 0, v = 0, c = 0, w = 0;
        for (size_t i = 0; i < PER; i++) {
            const float *x = out + 3 * (k * PER + i);
            m += (double)x[0] / PER;
            assert_true(fabs((double)x[1] - 2 * ((double)x[0] - 50 * (double)k)) < .01);
            v += (double)(x[1] * x[1]) / PER;
            w += (double)(x[2] * x[2]) / PER;
            c += (double)(x[1] * x[2]) / PER;
        }
        assert_true(fabs(m - 50 * (double)k) < .3);
        assert_true(v > 3 && v < 5 && w > 7 && w < 11 && fabs(c) < 1);
    }
}

static void test_judge(void **state)
{
    (void)state;
    static char text[3][4000];
    static const char *const words[3] = {"alpha beta gamma. ", "beta gamma alpha, ", "0123 4567\n"};
    struct ds_judge *j = ds_judge_new(3);
    assert_non_null(j);
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof text[k]; i++)
            text[k][i] = words[k][i % strlen(words[k])];
        ds_judge_train(j, k, text[k], 3000);
    }
    for (size_t k = 0; k < 3; k++)
        assert_int_equal(ds_judge_classify(j, text[k] + 3500, 60), k);
    assert_int_equal(ds_judge_classify(j, "", 0), 0);
    ds_judge_free(j);
    ds_judge_free(NULL);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void train(void)
{
    static struct dit_recipe r;
    struct train_control c = {0};
    struct err e = {0};
    char text[1500];
    bool done;
    int n = snprintf(
        text, sizeof text,
        "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"steps\": 12, \"batch\": 8,"
        " \"segments\": 160, \"style_segments\": 10, \"components\": 12, \"basis\": 16,"
        " \"shifts\": true, \"n_embd\": 24, \"n_head\": 2, \"n_block\": 1, \"n_mlp\": 32,"
        " \"warmup\": 2, \"data\": [{\"name\": \"low\", \"path\": \"%s\", \"styles\": \"%s\"},"
        " {\"name\": \"high\", \"path\": \"%s\"}]}",
        in_folder("model"), in_folder("states"), in_folder("out"), in_folder("low"),
        in_folder("styles"), in_folder("high"));
    write_file("dit.json", text, (size_t)n);
    if (dit_recipe_read(&r, in_folder("dit.json"), &e) < 0 ||
        train_dit(&r, &c, pool, &done, &e) < 0)
        fail_msg("%s", e.msg);
}

static int command(const char *out, const char *const *list)
{
    return bench_command(bench_dreamstate, out, list);
}

static json_t *measure(const char *out)
{
    char model[160], diffuser[160], reference[160], heldout[160], map[160], curve[160];
    snprintf(model, sizeof model, "%s", in_folder("model"));
    snprintf(diffuser, sizeof diffuser, "%s", in_folder("out/diffuser.safetensors"));
    snprintf(reference, sizeof reference, "%s", in_folder("reference"));
    snprintf(heldout, sizeof heldout, "%s", in_folder("."));
    snprintf(map, sizeof map, "%s", in_folder("map.svg"));
    snprintf(curve, sizeof curve, "%s", in_folder("curve.svg"));
    const char *const argv[] = {"dreamstate", "--model", model,         "--diffuser", diffuser,
                                "--diffuser", diffuser,  "--reference", reference,    "--heldout",
                                heldout,      "--quick", "--threads",   "2",          "--svg",
                                map,          "--curve", curve,         "--json",     NULL};
    assert_int_equal(command(out, argv), 0);
    json_t *root = json_load_file(in_folder("%s", out), 0, NULL);
    assert_non_null(root);
    return root;
}

static double at(const json_t *root, const char *key, const char *inner)
{
    return json_number_value(json_object_get(json_object_get(root, key), inner));
}

static void check_figures(const json_t *root)
{
    const json_t *starts = json_object_get(root, "starts"),
                 *targets = json_object_get(root, "targets");
    json_t *item;
    size_t i;
    assert_int_equal(json_array_size(starts), DS_N_STARTS - 1); /* no tuned states in that data set */
    json_array_foreach(starts, i, item)
    {
        for (size_t l = 0; l < DS_LENGTHS; l++) {
            double b = json_number_value(json_array_get(json_object_get(item, "bits_per_byte"), l));
            double low = json_number_value(json_array_get(json_object_get(item, "low"), l));
            double high = json_number_value(json_array_get(json_object_get(item, "high"), l));
            assert_true(b > 0 && b < 16 && low <= b + 1e-6 && b <= high + 1e-6);
        }
    }
    assert_int_equal(json_array_size(targets), 26);
    json_array_foreach(targets, i, item)
    {
        assert_true(json_string_length(json_object_get(item, "name")) > 0);
        assert_true(json_is_boolean(json_object_get(item, "met")));
    }
    assert_int_equal(json_array_size(json_object_get(root, "edits")), DS_EDITS);
    assert_int_equal(json_array_size(json_object_get(root, "curve")), 2);
    assert_true(at(root, "real", "nearest") == 1 && at(root, "real", "diversity") == 1);
    assert_true(at(root, "real", "class") == 1); /* their alphabets have no letter in common */
    assert_true(at(root, "real", "documents") > 1 && at(root, "generated", "styles") == 2);
    double sum = 0;
    for (i = 0; i < 3; i++)
        sum += json_number_value(json_array_get(json_object_get(root, "mixed"), i));
    assert_true(fabs(sum - 1) < 1e-4);
}

static void test_command(void **state)
{
    (void)state;
    static const char styles[] = "one\none\none\ntwo\ntwo\ntwo\n";
    static const char index[] = "{\"corpora\": [{\"name\": \"low\"}, {\"name\": \"high\"}]}";
    char model[160], diffuser[160], dataset[160], reference[160], heldout[160], bad[160];
    training_model("model", false);
    bench_write_text("low", 'a');
    bench_write_text("high", 'n');
    write_file("styles", styles, sizeof styles - 1);
    write_file("baselines.json", index, sizeof index - 1);
    train();
    snprintf(model, sizeof model, "%s", in_folder("model"));
    snprintf(diffuser, sizeof diffuser, "%s", in_folder("out/diffuser.safetensors"));
    snprintf(dataset, sizeof dataset, "%s", in_folder("states"));
    snprintf(reference, sizeof reference, "%s", in_folder("reference"));
    snprintf(heldout, sizeof heldout, "%s", in_folder("."));
    snprintf(bad, sizeof bad, "%s", in_folder("bad"));
    const char *const prepare[] = {"dreamstate", "--prepare", reference, "--dataset",
                                   dataset,      "--model",   model,     "--diffuser",
                                   diffuser,     "--rows",    "120",     "--tune-steps",
                                   "3",          "--threads", "2",       NULL};
    assert_int_equal(command("1.json", prepare), 0);
    json_t *one = measure("1.json"), *two = measure("2.json");
    check_figures(one);
    json_object_del(one, "seconds");
    json_object_del(two, "seconds");
    assert_true(json_equal(one, two));
    json_decref(one);
    json_decref(two);
    /* A reference that is none, no such file, options that do not exist. */
    write_file("bad", "what", 4);
    const char *const damaged[] = {"dreamstate", "--model",     model, "--diffuser",
                                   diffuser,     "--reference", bad,   "--heldout",
                                   heldout,      "--quick",     NULL};
    const char *const nonsense[] = {"dreamstate", "--nonsense", NULL};
    const char *const half[] = {"dreamstate", "--prepare", bad, NULL};
    assert_int_equal(command("1.json", damaged), 1);
    assert_int_equal(command("1.json", nonsense), 2);
    assert_int_equal(command("1.json", half), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_margin),    cmocka_unit_test(test_rank),
        cmocka_unit_test(test_distances), cmocka_unit_test(test_votes),
        cmocka_unit_test(test_gaussian),  cmocka_unit_test(test_judge),
        cmocka_unit_test(test_command),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
