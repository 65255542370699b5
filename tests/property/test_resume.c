/* `train base` and `train state`: a run that was stopped, or killed, and run again ends with the bytes
 * of one that never was; without memory there is one clear error, and nothing lost or leaked. */
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "engine/train/base.h"
#include "engine/train/state.h"

#include <sys/wait.h>

enum { STEPS = 60 };

/* The recipe NAME.json writing into the folder NAME. model: JSON. */
static void write_model_recipe(const char *name, const char *model, const char *more)
{
    char text[1024], file[64];
    int n =
        snprintf(text, sizeof text,
                 "{\"model\": %s, \"seed\": 3, \"threads\": 2, \"out\": \"%s\", \"sequence\": 24, "
                 "\"batch\": 5, \"steps\": %d, \"lr\": 2e-3, \"warmup\": 5, \"weight_decay\": 0.1, "
                 "\"checkpoint_every\": 7, \"eval_every\": 20, \"eval_bytes\": 200, "
                 "\"data\": [{\"name\": \"a\", \"path\": \"%s\"}], "
                 "\"eval\": [{\"name\": \"a\", \"path\": \"%s\"}]%s}",
                 model, in_folder("%s", name), STEPS, in_folder("text"), in_folder("text"), more);
    snprintf(file, sizeof file, "%s.json", name);
    write_file(file, text, (size_t)n);
}

static void write_base(const char *name, const char *more)
{
    static const char model[] =
        "{\"n_layer\": 2, \"n_embd\": 32, \"head_size\": 16, \"n_ffn\": 64}";
    write_model_recipe(name, model, more);
}

/* For the model that "whole" has made. */
static void write_state(const char *name, const char *more)
{
    char model[160];
    snprintf(model, sizeof model, "\"%s\"", in_folder("whole/model.safetensors"));
    write_model_recipe(name, model, more);
}

static int run_base(const char *recipe, uint64_t steps, const struct train_control *c,
                    struct pool *pool, bool *done, struct err *e)
{
    static struct recipe r;
    int rc = recipe_read(&r, recipe, e);
    r.schedule.steps = steps ? steps : r.schedule.steps;
    return rc < 0 ? rc : train_base(&r, c, pool, done, e);
}

static int run_state(const char *recipe, uint64_t steps, const struct train_control *c,
                     struct pool *pool, bool *done, struct err *e)
{
    static struct recipe r;
    int rc = recipe_read(&r, recipe, e);
    r.schedule.steps = steps ? steps : r.schedule.steps;
    return rc < 0 ? rc : train_state(&r, c, pool, done, e);
}

static const struct training base = {
    "base", STEPS, write_base, run_base, {"checkpoint.safetensors", "model.safetensors"}};
static const struct training state_tuning = {
    "state", STEPS, write_state, run_state, {"checkpoint.safetensors", "state.safetensors"}};
static const struct train_control no_control;

#define BASE_FILES  "checkpoint.safetensors log.jsonl model.safetensors"
#define STATE_FILES "checkpoint.safetensors log.jsonl state.safetensors"

static int set_up(void **state)
{
    (void)state;
    char text[6000];
    folder_open();
    for (size_t i = 0; i < sizeof text; i++) /* five documents of words */
        text[i] = i % 1200 == 1199 ? 0 : i % 7 == 6 ? ' ' : (char)('a' + i * i % 23);
    write_file("text", text, sizeof text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    folder_close(
        "killed killed.json parts parts.json s_parts s_parts.json s_whole s_whole.json text "
        "threads1 threads1.json threads2 threads2.json whole whole.json wild wild.json");
    return 0;
}

static void test_stopped_and_continued(void **state)
{
    (void)state;
    write_base("whole", ", \"carry\": 0.6");
    write_base("parts", ", \"carry\": 0.6");
    assert_true(training_run(&base, "whole", &no_control));
    training_check_stops(&base, "whole", "parts", 11);
    assert_true(training_run(&base, "whole", &no_control)); /* nothing left to do: unchanged */
    check_same_file("whole/checkpoint.safetensors", "parts/checkpoint.safetensors");
    check_files("parts", BASE_FILES);
    training_check_threads(&base, "threads");
}

static void test_state_stopped_and_continued(void **state)
{
    (void)state;
    write_state("s_whole", "");
    write_state("s_parts", "");
    assert_true(training_run(&state_tuning, "s_whole", &no_control));
    training_check_stops(&state_tuning, "s_whole", "s_parts", 13);
    check_files("s_parts", STATE_FILES);
}

static void test_killed_and_continued(void **state)
{
    (void)state;
    write_base("killed", ", \"carry\": 0.6");
    /* the first line says where it begins, then every 10 steps */
    training_check_kills(&base, "whole", "killed", 12, 3);
    check_files("killed", BASE_FILES);
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_true(training_check_memory(&base, "parts") > 10);
    check_files("parts", BASE_FILES);
    assert_true(training_check_memory(&state_tuning, "s_parts") > 10);
    check_files("s_parts", STATE_FILES);
}

static int exit_code(const char *what, const char *recipe, const char *option)
{
    int status = training_command(what, recipe, option, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_exit_codes(void **state)
{
    (void)state;
    const char *recipe = in_folder("whole.json");
    assert_int_equal(exit_code("base", recipe, NULL), 0); /* all steps are done already */
    assert_int_equal(exit_code("base", in_folder("nothing.json"), NULL), 1);
    assert_int_equal(exit_code("state", recipe, NULL), 1); /* its model is a shape, not a file */
    assert_int_equal(exit_code("cake", recipe, NULL), 2);
    assert_int_equal(exit_code("base", recipe, "--threads"), 2);
    assert_int_equal(exit_code("base", recipe, "--sideways"), 2);
    assert_int_equal(exit_code("base", NULL, NULL), 2);
}

/* A training that runs away says so, and leaves its last good checkpoint. */
static void test_runs_away(void **state)
{
    (void)state;
    static struct recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    bool done = true;
    write_base("wild", ", \"clip\": 0");
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_non_null(pool);
    assert_int_equal(recipe_read(&r, in_folder("wild.json"), &e), 0);
    r.schedule.lr = r.schedule.lr_final = 1e9;
    assert_int_equal(train_base(&r, &c, pool, &done, &e), ERR_NUMERIC);
    assert_false(done);
    assert_non_null(strstr(e.msg, "training step "));
    assert_non_null(strstr(e.msg, "first in "));
    assert_null(strstr(e.msg, "no tensor"));
    pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_state_stopped_and_continued),
        cmocka_unit_test(test_killed_and_continued),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_runs_away),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
