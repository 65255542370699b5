/* `bench tracking`: the texts are what they say, lines have right answers, and the command gives every
 * row of small models and hybrids, the same twice; what is missing is told. */
#include "tests/lib/bench.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "daemon/bench.h"
#include "daemon/bench_tracking.h"
#include "engine/train/hybrid.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TEXTS "mod3.heldout mod3.train mod5.heldout mod5.train parity.heldout parity.train"

static int set_up(void **state)
{
    (void)state;
    folder_open();
    assert_int_equal(mkdir(in_folder("text"), 0700), 0);
    assert_int_equal(mkdir(in_folder("run"), 0700), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_files("text", TEXTS);
    folder_close("1.json 2.json hybrid.json pairs run text");
    return 0;
}

static int command(const char *out, const char *const *list)
{
    return bench_command(bench_tracking, out, list);
}

/* Adds the lines of a text to counts by bits, the answers being right. */
static void check_text(const char *text, size_t n, unsigned modulus,
                       size_t counts[TRACK_LONGEST + 1])
{
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at), *answer = memchr(text + at, '=', n - at);
        assert_true(end && answer && end == answer + 2);
        unsigned sum = 0;
        for (const char *c = text + at; c < answer; c++) {
            assert_true(*c == '0' || *c == '1');
            sum += *c == '1';
        }
        assert_int_equal(answer[1], '0' + sum % modulus);
        const size_t bits = (size_t)(answer - text) - at;
        assert_in_range(bits, 1, TRACK_LONGEST);
        counts[bits]++;
        at = (size_t)(end - text) + 1;
        if (at < n && !text[at])
            at++; /* between documents */
    }
}

static void test_texts(void **state)
{
    (void)state;
    static const unsigned modulus[TRACK_TASKS] = {2, 3, 5};
    char folder[160];
    snprintf(folder, sizeof folder, "%s", in_folder("text"));
    const char *const argv[] = {"tracking", "--write", folder, NULL};
    assert_int_equal(command("1.json", argv), 0);
    for (size_t task = 0; task < TRACK_TASKS; task++) {
        size_t n, counts[TRACK_LONGEST + 1] = {0}, all = 0;
        char name[64];
        snprintf(name, sizeof name, "text/%s.train", track_task[task]);
        char *text = read_file(name, &n);
        assert_true(n > 1400000);
        check_text(text, n, modulus[task], counts);
        free(text);
        for (size_t i = 1; i <= TRACK_LONGEST; i++)
            all += counts[i];
        /* 1 / (1 + 1/2 + ... + 1/12) of the lines have one bit, a twelfth of those all twelve. */
        assert_true(fabs((double)counts[1] / (double)all - .3222) < .005);
        assert_true(fabs((double)counts[TRACK_LONGEST] / (double)all - .0269) < .002);
    }
    struct rng rng;
    char line[TRACK_LINE], again[TRACK_LINE];
    rng_init(&rng, 1, 1);
    struct rng same = rng;
    assert_int_equal(track_line(&rng, 2, 96, line), TRACK_LINE);
    assert_int_equal(track_line(&same, 2, 96, again), TRACK_LINE);
    assert_memory_equal(line, again, TRACK_LINE);
}

static void train(void)
{
    static struct hybrid_recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    struct pool *pool = pool_new(2, "test", 0, &e);
    char text[1500];
    bool done;
    int n = snprintf(text, sizeof text,
                     "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"steps\": 8,"
                     " \"batch\": 4, \"pairs\": 20, \"eval_pairs\": 4, \"context_max\": 300,"
                     " \"continuations\": 2, \"max_context\": 8, \"corpus_steps\": 3,"
                     " \"target_steps\": 0, \"lr\": 0.02, \"n_embd\": 24, \"n_head\": 2,"
                     " \"n_block\": 1, \"n_mlp\": 32, \"warmup\": 2,"
                     " \"data\": [{\"name\": \"parity\", \"path\": \"%s\"},"
                     " {\"name\": \"mod5\", \"path\": \"%s\"}],"
                     " \"eval\": [{\"name\": \"parity\", \"path\": \"%s\"}]}",
                     in_folder("run/model.safetensors"), in_folder("pairs"), in_folder("run"),
                     in_folder("text/parity.train"), in_folder("text/mod5.train"),
                     in_folder("text/parity.heldout"));
    assert_true(n > 0 && (size_t)n < sizeof text);
    write_file("hybrid.json", text, (size_t)n);
    if (hybrid_recipe_read(&r, in_folder("hybrid.json"), &e) < 0 ||
        train_hybrid(&r, &c, pool, &done, &e) < 0)
        fail_msg("%s", e.msg);
    pool_free(pool);
}

static void copy(const char *from, const char *to)
{
    size_t n;
    char *bytes = read_file(from, &n);
    write_file(to, bytes, n);
    free(bytes);
}

static json_t *measure(const char *out, const char *threads)
{
    char folder[160];
    snprintf(folder, sizeof folder, "%s", in_folder("run"));
    const char *const argv[] = {"tracking", "--limit",   "12",    "--json", "--seed", "2",
                                folder,     "--threads", threads, folder,   NULL};
    assert_int_equal(command(out, argv), 0);
    json_t *root = json_load_file(in_folder("%s", out), 0, NULL);
    assert_non_null(root);
    return root;
}

/* Shares of a row: [task, length]. */
static void shares(json_t *root, const char *row, double to[TRACK_TASKS * TRACK_LENGTHS])
{
    json_t *item, *length, *one;
    size_t i, k, t, n = 0;
    json_array_foreach(json_object_get(root, "rows"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "row")), row))
            continue;
        json_array_foreach(json_object_get(item, "lengths"), k, length)
        {
            to[n] = json_number_value(json_object_get(length, "right"));
            assert_true(to[n] >= 0 && to[n] <= 1);
            assert_int_equal(json_array_size(json_object_get(length, "trainings")), 2);
            json_array_foreach(json_object_get(length, "trainings"), t, one)
                assert_true(fabs(json_number_value(one) - to[n]) < 1e-5); /* one folder, twice */
            n++;
        }
    }
    assert_int_equal(n, TRACK_TASKS * TRACK_LENGTHS);
}

static void test_command(void **state)
{
    (void)state;
    double plain[15], tuned[15], control[15], none[15];
    training_model("run/model.safetensors", true);
    train();
    copy("run/model.safetensors", "run/tuned.safetensors");
    copy("run/hybrid.safetensors", "run/control.safetensors");
    json_t *one = measure("1.json", "1"), *two = measure("2.json", "2");
    assert_true(json_equal(one, two));
    assert_int_equal(json_array_size(json_object_get(one, "rows")), TRACK_ROWS * TRACK_TASKS);
    shares(one, "plain", plain);
    shares(one, "model trained on", tuned);
    shares(one, "constant control", control);
    shares(one, "hybrid, no context", none);
    assert_memory_equal(plain, tuned, sizeof plain);
    assert_memory_equal(control, none, sizeof control);
    json_decref(one);
    json_decref(two);
    char folder[160];
    snprintf(folder, sizeof folder, "%s", in_folder("run"));
    const char *const text[] = {"tracking", "--limit", "1", "--threads", "1", folder, NULL};
    assert_int_equal(command("1.json", text), 0);
    size_t n;
    char *table = read_file("1.json", &n);
    for (size_t row = 0; row < TRACK_ROWS; row++)
        assert_non_null(memmem(table, n, track_row_name[row], strlen(track_row_name[row])));
    free(table);
}

static void test_refused(void **state)
{
    (void)state;
    char text[160];
    snprintf(text, sizeof text, "%s", in_folder("text"));
    const char *const nothing[] = {"tracking", NULL};
    const char *const nonsense[] = {"tracking", "--nonsense", NULL};
    const char *const none[] = {"tracking", "--limit", "0", text, NULL};
    const char *const both[] = {"tracking", "--write", text, text, NULL};
    const char *const empty[] = {"tracking", text, NULL};
    const char *const away[] = {"tracking", "--write", "/nowhere", NULL};
    assert_int_equal(command("1.json", nothing), 2);
    assert_int_equal(command("1.json", nonsense), 2);
    assert_int_equal(command("1.json", none), 2);
    assert_int_equal(command("1.json", both), 2);
    assert_int_equal(command("1.json", empty), 1);
    assert_int_equal(command("1.json", away), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_command),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
