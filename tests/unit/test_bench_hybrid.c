/* `bench hybrid` on a small model and hybrids trained for a few steps: the rows whose values are known
 * have them, figures are the same twice, what is missing is told; and the charts of training logs. */
#include "tests/lib/bench.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "daemon/bench.h"
#include "daemon/bench_hybrid.h"
#include "engine/train/hybrid.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static int set_up(void **state)
{
    (void)state;
    folder_open();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_files("out", "checkpoint.safetensors hybrid.safetensors log.jsonl");
    folder_close("1.json 2.json bad bad.jsonl baselines.json curve-alpha-0.svg curve-alpha-1.svg "
                 "curve-diffusion.svg curve-gradient.svg curve-heldout.svg curve-language.svg "
                 "curve-none.svg curve-wrong.svg high high.gz hybrid.json low low.gz model out "
                 "pairs");
    return 0;
}

static void train(void)
{
    static struct hybrid_recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    struct pool *pool = pool_new(2, "test", 0, &e);
    char text[1500];
    bool done;
    int n = snprintf(
        text, sizeof text,
        "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"steps\": 12, \"batch\": 4,"
        " \"pairs\": 20, \"eval_pairs\": 4, \"context_max\": 600, \"continuations\": 2,"
        " \"max_context\": 8, \"corpus_steps\": 3, \"target_steps\": 1, \"target_bytes\": 64,"
        " \"target_lr\": 0.2, \"lr\": 0.01, \"n_embd\": 24, \"n_head\": 2, \"n_block\": 1,"
        " \"n_mlp\": 32, \"warmup\": 2, \"eval_every\": 6,"
        " \"data\": [{\"name\": \"low\", \"path\": \"%s\"}, {\"name\": \"high\", \"path\": "
        "\"%s\"}],"
        " \"eval\": [{\"name\": \"low\", \"path\": \"%s\"}]}",
        in_folder("model"), in_folder("pairs"), in_folder("out"), in_folder("low"),
        in_folder("high"), in_folder("low"));
    assert_true(n > 0 && (size_t)n < sizeof text);
    write_file("hybrid.json", text, (size_t)n);
    if (hybrid_recipe_read(&r, in_folder("hybrid.json"), &e) < 0 ||
        train_hybrid(&r, &c, pool, &done, &e) < 0)
        fail_msg("%s", e.msg);
    pool_free(pool);
}

static int command(const char *out, const char *const *list)
{
    return bench_command(bench_hybrid, out, list);
}

/* With or without the files that may be absent. */
static json_t *measure(const char *out, bool all)
{
    char model[160], hybrid[160], heldout[160];
    snprintf(model, sizeof model, "%s", in_folder("model"));
    snprintf(hybrid, sizeof hybrid, "%s", in_folder("out/hybrid.safetensors"));
    snprintf(heldout, sizeof heldout, "%s", in_folder("."));
    const char *const argv[] = {
        "hybrid",    "--model", model,     "--hybrid", hybrid,
        "--heldout", heldout,   "--limit", "5",        "--threads",
        "2",         "--json",  "--tuned", model,      all ? "--control" : NULL,
        hybrid,      NULL};
    assert_int_equal(command(out, argv), 0);
    json_t *root = json_load_file(in_folder("%s", out), 0, NULL);
    assert_non_null(root);
    return root;
}

static double bits(const json_t *length, const char *row, const char *key)
{
    json_t *item;
    size_t i;
    json_array_foreach(json_object_get(length, "rows"), i,
                       item) if (!strcmp(json_string_value(json_object_get(item, "row")),
                                         row)) return json_number_value(json_object_get(item, key));
    return NAN;
}

static void check_length(const json_t *length)
{
    const double plain = bits(length, "plain", "bits_per_byte");
    json_t *item;
    size_t i;
    assert_int_equal(json_integer_value(json_object_get(length, "continuations")), 10);
    assert_int_equal(json_array_size(json_object_get(length, "rows")), HB_ROWS);
    assert_int_equal(json_array_size(json_object_get(length, "differences")), HB_PAIRS);
    /* Alpha 1 is the model itself, and here so is the model trained on; a hybrid without a context is
     * its own control. */
    assert_true(bits(length, "hybrid, alpha 1", "bits_per_byte") == plain);
    assert_true(bits(length, "model trained on", "bits_per_byte") == plain);
    assert_true(bits(length, "constant control", "bits_per_byte") ==
                bits(length, "hybrid, no context", "bits_per_byte"));
    assert_true(bits(length, "plain", "less_plain") == 0 && bits(length, "plain", "high") == 0);
    assert_true(bits(length, "hybrid, gap 32", "bits_per_byte") != plain);
    assert_true(bits(length, "hybrid, gap 32", "bits_per_byte") !=
                bits(length, "hybrid, another corpus", "bits_per_byte"));
    assert_true(bits(length, "state, adjacent", "bits_per_byte") !=
                bits(length, "both, adjacent", "bits_per_byte"));
    json_array_foreach(json_object_get(length, "rows"), i, item)
    {
        const double x = json_number_value(json_object_get(item, "bits_per_byte"));
        const double less = json_number_value(json_object_get(item, "less_plain"));
        assert_true(x > 0 && x < 16 && fabs(plain + less - x) < 1e-4);
        assert_true(json_number_value(json_object_get(item, "low")) <= less + 1e-9 &&
                    json_number_value(json_object_get(item, "high")) >= less - 1e-9);
    }
}

static void test_command(void **state)
{
    (void)state;
    static const char index[] = "{\"corpora\": [{\"name\": \"low\"}, {\"name\": \"high\"}]}";
    json_t *item;
    size_t i;
    training_model("model", true);
    bench_write_text("low", 'a');
    bench_write_text("high", 'n');
    write_file("baselines.json", index, sizeof index - 1);
    train();
    json_t *one = measure("1.json", true), *two = measure("2.json", true);
    json_object_del(one, "seconds");
    json_object_del(two, "seconds");
    assert_true(json_equal(one, two));
    assert_int_equal(json_array_size(json_object_get(one, "lengths")), 3); /* none of 8,192 */
    assert_int_equal(json_array_size(json_object_get(one, "targets")), 13);
    assert_int_equal(json_array_size(json_object_get(one, "skipped")), 0);
    json_array_foreach(json_object_get(one, "lengths"), i, item) check_length(item);
    json_decref(one);
    json_decref(two);
    one = measure("1.json", false);
    assert_int_equal(json_array_size(json_object_get(one, "skipped")), 1);
    assert_int_equal(json_array_size(json_object_get(one, "targets")), 10);
    json_decref(one);
}

static void test_curves(void **state)
{
    (void)state;
    static const char *const files[] = {"language", "diffusion", "gradient", "heldout",
                                        "none",     "wrong",     "alpha-0",  "alpha-1"};
    static const char broken[] =
        "{\"step\":1,\"bits\":2.5,\"grad_norm\":7.25,\"diffusion_loss\":1.0}\n"
        "{\"step\":2,\"bits\":NaN,\"grad_norm\":1,\"diffusion_loss\":1.0}\n"
        "{\"step\":3,\"bits\":2.25,\"grad_norm\":1}\n";
    char prefix[160], log[200], bad[200];
    size_t n;
    write_file("bad.jsonl", broken, sizeof broken - 1);
    snprintf(prefix, sizeof prefix, "%s", in_folder("curve"));
    snprintf(log, sizeof log, "lambda 1=%s", in_folder("out/log.jsonl"));
    snprintf(bad, sizeof bad, "other=%s", in_folder("bad.jsonl"));
    const char *const argv[] = {"hybrid", "--curves", prefix, "--log", log, "--log", bad, NULL};
    assert_int_equal(command("1.json", argv), 0);
    char *table = read_file("1.json", &n), said[100];
    unsigned long steps, not_finite;
    double most[2], end[6];
    assert_int_equal(sscanf(strstr(table, "lambda 1"),
                            "lambda 1 %lu %lu %lf %lf %lf %lf %lf %lf %lf %lf", &steps, &not_finite,
                            &most[0], &most[1], &end[0], &end[1], &end[2], &end[3], &end[4],
                            &end[5]),
                     10);
    assert_int_equal(steps, 12);
    assert_int_equal(not_finite, 0);
    for (size_t i = 0; i < 6; i++)
        assert_true(end[i] > 0 && end[i] < 16);
    snprintf(said, sizeof said, "%-26s %6d %10d %9.4f %9.4f %8s", "other", 3, 2, 7.25, 2.5, "nan");
    assert_non_null(strstr(table, said));
    free(table);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64];
        snprintf(name, sizeof name, "curve-%s.svg", files[i]);
        char *svg = read_file(name, &n);
        assert_true(n > 500 && memmem(svg, n, "lambda 1", 8) && memmem(svg, n, "</svg>", 6));
        free(svg);
    }
}

static void test_refused(void **state)
{
    (void)state;
    char bad[160], model[160];
    write_file("bad", "what", 4);
    snprintf(bad, sizeof bad, "%s", in_folder("bad"));
    snprintf(model, sizeof model, "%s", in_folder("model"));
    const char *const nonsense[] = {"hybrid", "--nonsense", NULL};
    const char *const none[] = {"hybrid", "--limit", "0", NULL};
    const char *const unnamed[] = {"hybrid", "--curves", bad, "--log", bad, NULL};
    const char *const alone[] = {"hybrid", "--curves", bad, NULL};
    const char *const damaged[] = {"hybrid", "--model", model, "--hybrid", bad, NULL};
    const char *const away[] = {"hybrid", "--curves", bad, "--log", "a=/nowhere", NULL};
    assert_int_equal(command("1.json", nonsense), 2);
    assert_int_equal(command("1.json", none), 2);
    assert_int_equal(command("1.json", unnamed), 2);
    assert_int_equal(command("1.json", alone), 2);
    assert_int_equal(command("1.json", damaged), 1);
    assert_int_equal(command("1.json", away), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command),
        cmocka_unit_test(test_curves),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
