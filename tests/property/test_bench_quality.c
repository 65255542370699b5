/* `bench quality --json --limit` on the bundled model prints figures that fit together. */
#include "tests/lib/check.h"

#include "daemon/bench.h"
#include "daemon/bundled.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* Runs a command line with stdout in a temporary file; sets *root to the object it printed, or NULL. */
static int run_quality(const char *line, json_t **root)
{
    char words[256], *argv[16], *save = NULL;
    int argc = 0;
    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok_r(words, " ", &save); w && argc < 16; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    FILE *f = tmpfile();
    assert_non_null(f);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0 && dup2(fileno(f), STDOUT_FILENO) >= 0);
    int code = bench_quality(argc, argv);
    fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    rewind(f);
    json_error_t je;
    *root = json_loadf(f, JSON_REJECT_DUPLICATES, &je);
    fclose(f);
    return code;
}

static double number(const json_t *o, const char *key)
{
    assert_true(json_is_number(json_object_get(o, key)));
    return json_number_value(json_object_get(o, key));
}

static void test_bundled_model(void **unused)
{
    (void)unused;
    struct buf path;
    struct err e = {0};
    buf_init(&path, 8192);
    int rc = bundled_path("tiny/model.safetensors", &path, &e);
    buf_fini(&path);
    if (rc < 0) {
        printf("skip: no bundled model\n");
        skip();
    }
    json_t *root, *corpus;
    assert_int_equal(
        run_quality("quality --json --limit 3000 --weights-type q8_0 --threads 2", &root), 0);
    assert_non_null(root);
    size_t i;
    double sum = 0;
    json_array_foreach(json_object_get(root, "corpora"), i, corpus) {
        double bits = number(corpus, "bits_per_byte"), bytes = number(corpus, "bytes");
        assert_true(bits > 0.3 && bits < 4); /* 8 would be knowing nothing */
        assert_true(bytes >= 3000 && bytes < 3000 + number(corpus, "documents"));
        assert_true(number(corpus, "xz_9") > 0.5 && number(corpus, "xz_9") < 3.5);
        assert_true(number(corpus, "zstd_19") > 0.5 && number(corpus, "zstd_19") < 3.5);
        sum += bits;
    }
    assert_int_equal(i, 6);
    double average = number(json_object_get(root, "average"), "bits_per_byte");
    assert_true(fabs(average - sum / 6) < 1e-4);
    const json_t *target = json_array_get(json_object_get(root, "targets"), 0);
    assert_true(fabs(number(target, "value") - average) < 1e-9);
    assert_int_equal(json_is_true(json_object_get(target, "met")),
                     number(target, "value") <= number(target, "target"));
    const json_t *types = json_object_get(root, "weights_types");
    assert_int_equal(json_array_size(types), 2);
    double own = number(json_array_get(types, 0), "bits_per_byte");
    double q8 = number(json_array_get(types, 1), "bits_per_byte");
    assert_true(fabs(own - average) < 1e-4);
    assert_true(own != q8 && fabs(own - q8) < 0.05);
    json_decref(root);
}

static void test_refuses(void **unused)
{
    (void)unused;
    static const struct {
        const char *line;
        int code;
    } cases[] = {
        {"quality --no-such", 2},   {"quality word", 2},
        {"quality --limit 12x", 2}, {"quality --threads 0", 2},
        {"quality --model /nonexistent.safetensors --heldout /nonexistent", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root;
        assert_int_equal(run_quality(cases[i].line, &root), cases[i].code);
        assert_null(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bundled_model),
                                       cmocka_unit_test(test_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
