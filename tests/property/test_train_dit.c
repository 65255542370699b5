/* `train dit` from texts to a diffuser on a small model with random weights: what is baked is what the
 * model computes, a stopped or killed run ends with the bytes of a whole one, and the loss falls. */
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include "engine/dit/dit.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/params.h"
#include "engine/train/bake.h"
#include "engine/train/dit.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 60, L = 2, C = 64, N = 32 };

static char folder[48];

static const char *in_folder(const char *name)
{
    static char path[6][256];
    static int turn;
    turn = (turn + 1) % 6;
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

/* Eight documents of sentences over an alphabet of their own. */
static void write_text(const char *name, char first)
{
    char text[24000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i % 3000 == 2999 ? 0
                  : i % 37 == 35   ? '.'
                  : i % 37 == 36   ? ' '
                  : i % 6 == 5     ? ' '
                                   : (char)(first + i * i / 7 % 9);
    write_file(name, text, sizeof text);
}

static void write_model(void)
{
    struct rwkv_shape s = {
        .n_layer = L, .n_embd = C, .head_size = N, .n_ffn = 2 * C, .n_vocab = 256};
    struct rwkv_layout l;
    struct err e = {0};
    rwkv_default_ranks(&s);
    assert_int_equal(rwkv_layout_init(&l, &s, &e), 0);
    float *p = calloc(l.count, sizeof *p);
    assert_int_equal(rwkv_params_init(&l, p, 4, &e), 0);
    struct rng rng;
    rng_init(&rng, 6, 0);
    for (size_t i = 0; i < 256 * C; i++) /* the reference's embeddings are near 0 at the start */
        p[l.emb + i] = (float)rng_normal(&rng);
    assert_int_equal(rwkv_params_write(&l, p, in_folder("model.safetensors"), 0, &e), 0);
    free(p);
    rwkv_layout_fini(&l);
}

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
        in_folder("model.safetensors"), in_folder("states"), in_folder(name), STEPS,
        in_folder("low"), in_folder("styles"), in_folder("high"), in_folder("low"), more);
    assert_true(n > 0 && (size_t)n < sizeof text);
    snprintf(file, sizeof file, "%s.json", name);
    write_file(file, text, (size_t)n);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/dreamstate-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    static const char styles[] = "one\none\n\ntwo\ntwo\nrare\n\n\n";
    write_model();
    write_text("low", 'a');
    write_text("high", 'n');
    write_file("styles", styles, sizeof styles - 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const runs[] = {"whole", "parts", "killed", "bad"};
    static const char *const files[] = {"checkpoint.safetensors", "codec.safetensors",
                                        "diffuser.safetensors", "log.jsonl"};
    static const char *const others[] = {"model.safetensors", "states", "low", "high", "styles"};
    char name[96];
    for (size_t r = 0; r < 4; r++) {
        for (size_t i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "%s/%s", runs[r], files[i]);
            unlink(in_folder(name));
        }
        rmdir(in_folder(runs[r]));
        snprintf(name, sizeof name, "%s.json", runs[r]);
        unlink(in_folder(name));
    }
    for (size_t i = 0; i < 5; i++)
        unlink(in_folder(others[i]));
    return rmdir(folder);
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

/* Runs a recipe up to a step (0: to its end) as the command would. */
static bool run(const char *name, uint64_t stop_at, struct seen *seen)
{
    static struct dit_recipe r;
    char file[64];
    struct err e = {0};
    const struct train_control c = {.stop_at = stop_at,
                                    .on_step = seen ? on_step : NULL,
                                    .on_eval = seen ? on_eval : NULL,
                                    .ctx = seen};
    bool done = false;
    snprintf(file, sizeof file, "%s.json", name);
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_non_null(pool);
    int rc = dit_recipe_read(&r, in_folder(file), &e);
    if (rc == 0)
        rc = train_dit(&r, &c, pool, &done, &e);
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
    char *p = malloc(1 << 21);
    *n = fread(p, 1, 1 << 21, f);
    assert_true(*n > 1000 && *n < 1 << 21);
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

static void test_whole(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct diffuser *d = NULL;
    struct err e = {0};
    write_recipe("whole", "");
    assert_true(run("whole", 0, &seen));
    assert_int_equal(seen.evals, 3);
    /* saying nothing (v = 0) would have an error of 1 - alpha_bar, 0.5 on average */
    if (!(seen.last < 0.8 * seen.first) || !(seen.eval[1] < 0.25))
        fail_msg("loss from %g to %g, held-out error %g", seen.first, seen.last, seen.eval[1]);
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

/* A row's state and condition are the model's own for separator, text, separator. */
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
        uint32_t tokens[82] = {'\n'};
        assert_true(row->n_text >= 40 && row->n_text <= 80 && row->text[row->n_text - 1] == '.');
        for (size_t k = 0; k < row->n_text; k++)
            tokens[1 + k] = (uint8_t)row->text[k];
        tokens[1 + row->n_text] = '\n';
        float *hidden = calloc((row->n_text + 2) * C, sizeof *hidden);
        struct rwkv_seq q = {
            .tokens = tokens, .n_tokens = row->n_text + 2, .state = want, .hidden = hidden};
        memset(want, 0, d.state_floats * sizeof *want);
        assert_int_equal(rwkv_eval(s, &q, 1, &e), 0);
        dataset_state(&d, i, got);
        for (size_t k = 0; k < d.state_floats; k++)
            if (!(fabsf(got[k] - want[k]) <= 1e-3f * fabsf(want[k]) + 1e-6f))
                fail_msg("row %zu [%zu]: %g, want %g", i, k, (double)got[k], (double)want[k]);
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t t = 0; t < row->n_text + 2; t++)
                sum += (double)hidden[t * C + c];
            assert_true(fabs(sum / (double)(row->n_text + 2) - (double)d.cond[i * C + c]) < 1e-5);
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

static void test_stopped_and_continued(void **state)
{
    (void)state;
    struct rng rng;
    write_recipe("parts", "");
    rng_init(&rng, 11, 0);
    for (uint64_t at = 0; at < STEPS;) {
        at += 1 + rng_below(&rng, 25);
        at = at < STEPS ? at : STEPS;
        assert_int_equal(run("parts", at, NULL), at == STEPS);
    }
    check_same("whole", "parts", "codec.safetensors");
    check_same("whole", "parts", "checkpoint.safetensors");
    check_same("whole", "parts", "diffuser.safetensors");
}

/* `dreamstated train dit RECIPE` with the binary that was built beside this test. */
static pid_t spawn(const char *recipe, int *err_fd)
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
        execl(exe, exe, "train", "dit", recipe, (char *)NULL);
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
    char line[1024];
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
    write_recipe("killed", "");
    rng_init(&rng, 12, 0);
    for (int round = 0; round < 6; round++) {
        pid_t pid = spawn(in_folder("killed.json"), &fd);
        follow(pid, fd, 1 + rng_below(&rng, 6));
    }
    pid_t pid = spawn(in_folder("killed.json"), &fd);
    int status = follow(pid, fd, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_same("whole", "killed", "checkpoint.safetensors");
    check_same("whole", "killed", "diffuser.safetensors");
}

/* A run of one step with every allocation failing in turn: one clear error. */
static int run_once(void *arg)
{
    static struct dit_recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    bool done = false;
    unlink(in_folder("parts/checkpoint.safetensors"));
    int rc = dit_recipe_read(&r, in_folder("parts.json"), &e);
    r.schedule.steps = 1;
    if (rc == 0)
        rc = train_dit(&r, &c, arg, &done, &e);
    assert_true(rc < 0 ? e.msg[0] && !done : done);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    struct err e = {0};
    struct pool *pool = pool_new(1, "test", 0, &e);
    assert_non_null(pool);
    assert_true(alloc_sweep(run_once, pool) > 20);
    pool_free(pool);
}

static void test_recipes_refused(void **state)
{
    (void)state;
    static const struct {
        const char *more, *said;
    } cases[] = {
        {", \"learning_rate\": 1", "unknown key learning_rate"},
        {", \"schedule\": \"square\"", "schedule must be"},
        {", \"prediction\": \"y\"", "prediction must be"},
        {", \"products\": \"int8\"", "products must be"},
        {", \"per_token\": 1", "per_token must be true or false"},
        {", \"ema\": 1", "ema must be a number"},
        {", \"texts\": 0", "texts must be a whole number"},
    };
    static struct dit_recipe r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        write_recipe("bad", cases[i].more);
        assert_int_equal(dit_recipe_read(&r, in_folder("bad.json"), &e), ERR_INVALID);
        if (!strstr(e.msg, cases[i].said))
            fail_msg("'%s' does not say '%s'", e.msg, cases[i].said);
    }
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
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_killed_and_continued),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_recipes_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
