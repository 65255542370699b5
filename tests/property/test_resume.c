/* A training that was stopped, or killed, and run again ends with the bytes of one that never was.
 */
#include "tests/lib/check.h"

#include "engine/kernels/rng.h"
#include "engine/train/base.h"
#include "engine/train/state.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 60 };

static char folder[48];

static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_file(const char *name, const char *text, size_t n)
{
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The recipe NAME.json writing into the folder NAME. model: JSON. */
static void write_recipe(const char *name, const char *model, const char *more)
{
    char text[1024], file[64];
    int n =
        snprintf(text, sizeof text,
                 "{\"model\": %s, \"seed\": 3, \"threads\": 2, \"out\": \"%s\", \"sequence\": 24, "
                 "\"batch\": 5, \"steps\": %d, \"lr\": 2e-3, \"warmup\": 5, \"weight_decay\": 0.1, "
                 "\"checkpoint_every\": 7, \"eval_every\": 20, \"eval_bytes\": 200, "
                 "\"data\": [{\"name\": \"a\", \"path\": \"%s\"}], "
                 "\"eval\": [{\"name\": \"a\", \"path\": \"%s\"}]%s}",
                 model, in_folder(name), STEPS, in_folder("text"), in_folder("text"), more);
    snprintf(file, sizeof file, "%s.json", name);
    write_file(file, text, (size_t)n);
}

#define MODEL "{\"n_layer\": 2, \"n_embd\": 32, \"head_size\": 16, \"n_ffn\": 64}"

static int set_up(void **state)
{
    (void)state;
    char text[6000];
    snprintf(folder, sizeof folder, "/tmp/dreamstate-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    for (size_t i = 0; i < sizeof text; i++) /* five documents of words */
        text[i] = i % 1200 == 1199 ? 0 : i % 7 == 6 ? ' ' : (char)('a' + i * i % 23);
    write_file("text", text, sizeof text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const runs[] = {"whole", "parts", "killed", "s_whole", "s_parts", "wild"};
    static const char *const files[] = {"checkpoint.safetensors", "model.safetensors",
                                        "state.safetensors", "log.jsonl"};
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        char name[96];
        for (size_t i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "%s/%s", runs[r], files[i]);
            unlink(in_folder(name));
        }
        rmdir(in_folder(runs[r]));
        snprintf(name, sizeof name, "%s.json", runs[r]);
        unlink(in_folder(name));
    }
    unlink(in_folder("text"));
    return rmdir(folder);
}

/* Runs a recipe up to a step (0: to its end) as the command would. */
static bool run(const char *name, bool base, uint64_t stop_at)
{
    static struct recipe r;
    char file[64];
    struct err e = {0};
    struct train_control c = {.stop_at = stop_at};
    bool done = false;
    snprintf(file, sizeof file, "%s.json", name);
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_non_null(pool);
    int rc = recipe_read(&r, in_folder(file), &e);
    if (rc == 0)
        rc = base ? train_base(&r, &c, pool, &done, &e) : train_state(&r, &c, pool, &done, &e);
    if (rc < 0)
        fail_msg("%s", e.msg);
    pool_free(pool);
    return done;
}

static char *slurp(const char *run_name, const char *file, size_t *n)
{
    char name[96];
    snprintf(name, sizeof name, "%s/%s", run_name, file);
    FILE *f = fopen(in_folder(name), "rb");
    assert_non_null(f);
    char *p = malloc(1 << 20);
    *n = fread(p, 1, 1 << 20, f);
    assert_true(*n > 1000 && *n < 1 << 20);
    fclose(f);
    return p;
}

static void check_same(const char *a, const char *b, const char *file)
{
    size_t n, m;
    char *x = slurp(a, file, &n), *y = slurp(b, file, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static void test_stopped_and_continued(void **state)
{
    (void)state;
    struct rng rng;
    write_recipe("whole", MODEL, ", \"carry\": 0.6");
    write_recipe("parts", MODEL, ", \"carry\": 0.6");
    assert_true(run("whole", true, 0));
    rng_init(&rng, 11, 0);
    for (uint64_t at = 0; at < STEPS;) {
        at += 1 + rng_below(&rng, 25);
        at = at < STEPS ? at : STEPS;
        assert_int_equal(run("parts", true, at), at == STEPS);
    }
    check_same("whole", "parts", "checkpoint.safetensors");
    check_same("whole", "parts", "model.safetensors");
    assert_true(run("whole", true, 0)); /* nothing left to do: unchanged */
    check_same("whole", "parts", "checkpoint.safetensors");
}

static void test_state_stopped_and_continued(void **state)
{
    (void)state;
    char model[160];
    snprintf(model, sizeof model, "\"%s\"", in_folder("whole/model.safetensors"));
    write_recipe("s_whole", model, "");
    write_recipe("s_parts", model, "");
    assert_true(run("s_whole", false, 0));
    assert_false(run("s_parts", false, 13));
    assert_false(run("s_parts", false, 14));
    assert_true(run("s_parts", false, 0));
    check_same("s_whole", "s_parts", "checkpoint.safetensors");
    check_same("s_whole", "s_parts", "state.safetensors");
}

/* `dreamstated train WHAT RECIPE [OPTION]` with the binary that was built beside this test. */
static pid_t spawn(const char *what, const char *recipe, const char *option, int *err_fd)
{
    char exe[512];
    int fd[2];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = 0;
    for (int up = 0; up < 3; up++)
        *strrchr(exe, '/') = 0;
    assert_true(strlen(exe) + 16 < sizeof exe);
    memcpy(exe + strlen(exe), "/dreamstated", sizeof "/dreamstated");
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fd[1], 2);
        execl(exe, exe, "train", what, recipe, option, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    *err_fd = fd[0];
    return pid;
}

/* Reads the command's lines; after `lines` of them kills it (0: never). Its wait status. */
static int follow(pid_t pid, int fd, uint64_t lines)
{
    FILE *f = fdopen(fd, "r");
    char line[512];
    int status;
    assert_non_null(f);
    for (uint64_t n = 1; fgets(line, sizeof line, f); n++)
        if (n == lines)
            kill(pid, SIGKILL);
    fclose(f);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_killed_and_continued(void **state)
{
    (void)state;
    struct rng rng;
    int fd;
    write_recipe("killed", MODEL, ", \"carry\": 0.6");
    rng_init(&rng, 12, 0);
    for (int round = 0; round < 6;
         round++) { /* the first line says where it begins, then every 10 steps */
        pid_t pid = spawn("base", in_folder("killed.json"), NULL, &fd);
        follow(pid, fd, 1 + rng_below(&rng, 3));
    }
    pid_t pid = spawn("base", in_folder("killed.json"), NULL, &fd);
    int status = follow(pid, fd, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_same("whole", "killed", "checkpoint.safetensors");
    check_same("whole", "killed", "model.safetensors");
}

static int exit_code(const char *what, const char *recipe, const char *option)
{
    int fd;
    pid_t pid = spawn(what, recipe, option, &fd);
    int status = follow(pid, fd, 0);
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
    write_recipe("wild", MODEL, ", \"clip\": 0");
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
        cmocka_unit_test(test_runs_away),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
