/* Training with every allocation failing in turn: one clear error, nothing lost or leaked. */
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include "engine/train/base.h"
#include "engine/train/state.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[48], recipe_base[96], recipe_state[96], out_base[96], out_state[96];

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void remove_in(const char *dir, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

static void remove_runs(bool base)
{
    const char *dir = base ? out_base : out_state;
    remove_in(dir, "checkpoint.safetensors");
    remove_in(dir, "state.safetensors");
    remove_in(dir, "log.jsonl");
    remove_in(dir, "model.safetensors");
    rmdir(dir);
}

static int set_up(void **state)
{
    (void)state;
    static const char rest[] = "\"sequence\": 8, \"batch\": 2, \"steps\": 1, \"warmup\": 0, "
                               "\"lr\": 1e-3, \"eval_every\": 1, \"eval_bytes\": 20";
    char text[1024], corpus[96];
    snprintf(folder, sizeof folder, "/tmp/dreamstate-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(recipe_base, sizeof recipe_base, "%s/base.json", folder);
    snprintf(recipe_state, sizeof recipe_state, "%s/state.json", folder);
    snprintf(out_base, sizeof out_base, "%s/base", folder);
    snprintf(out_state, sizeof out_state, "%s/state", folder);
    snprintf(corpus, sizeof corpus, "%s/text", folder);
    write_text(corpus, "It was the best of times, it was the worst of times.\n");
    snprintf(text, sizeof text,
             "{\"model\": {\"n_layer\": 1, \"n_embd\": 16, \"head_size\": 16, \"n_ffn\": 16}, "
             "\"out\": \"%s\", \"data\": [{\"name\": \"a\", \"path\": \"%s\"}], "
             "\"eval\": [{\"name\": \"a\", \"path\": \"%s\"}], %s}",
             out_base, corpus, corpus, rest);
    write_text(recipe_base, text);
    snprintf(text, sizeof text,
             "{\"model\": \"%s/model.safetensors\", \"out\": \"%s\", "
             "\"data\": [{\"name\": \"a\", \"path\": \"%s\"}], "
             "\"eval\": [{\"name\": \"a\", \"path\": \"%s\"}], %s}",
             out_base, out_state, corpus, corpus, rest);
    write_text(recipe_state, text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_runs(false);
    remove_runs(true);
    remove_in(folder, "base.json");
    remove_in(folder, "state.json");
    remove_in(folder, "text");
    return rmdir(folder);
}

/* The pool is made outside: another module's allocations. */
struct job {
    struct pool *pool;
    bool base;
};

static int run(void *arg)
{
    const struct job *j = arg;
    static struct recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    bool done = false;
    int rc = recipe_read(&r, j->base ? recipe_base : recipe_state, &e);
    if (rc == 0)
        rc = j->base ? train_base(&r, &c, j->pool, &done, &e)
                     : train_state(&r, &c, j->pool, &done, &e);
    assert_true(rc < 0 || done);
    assert_true(rc == 0 || e.msg[0]);
    if (rc < 0) /* the next one starts anew; a whole one leaves its model for the other test */
        remove_in(j->base ? out_base : out_state, "checkpoint.safetensors");
    return rc;
}

static void test_base(void **state)
{
    (void)state;
    struct err e = {0};
    struct job j = {.pool = pool_new(1, "test", 0, &e), .base = true};
    assert_non_null(j.pool);
    assert_true(alloc_sweep(run, &j) > 10);
    pool_free(j.pool);
}

static void test_state(void **state)
{
    (void)state;
    struct err e = {0};
    struct job j = {.pool = pool_new(1, "test", 0, &e), .base = false};
    assert_non_null(j.pool);
    assert_true(alloc_sweep(run, &j) > 10);
    pool_free(j.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_base), cmocka_unit_test(test_state)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
