/* `train hybrid` from texts to a hybrid on a small model with random weights: a stopped or killed run
 * ends with the bytes of a whole one, both losses fall, and the result reads contexts, of any length
 * and however they come, to vectors that the model runs with. */
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include "engine/hybrid/hybrid.h"
#include "engine/kernels/rng.h"
#include "engine/rwkv/params.h"
#include "engine/train/hybrid.h"
#include "engine/train/hybrid_data.h"

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
    static char path[8][256];
    static int turn;
    turn = (turn + 1) % 8;
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
    for (size_t i = 0; i < l.n; i++) /* and matrices behind the recurrence are 0 */
        for (size_t k = 0; l.param[i].group == RWKV_GROUP_DECAY && k < l.param[i].count; k++)
            p[l.param[i].offset + k] += 0.1f * (float)rng_normal(&rng);
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
        "\"steps\": %d, \"batch\": 6, \"pairs\": 60, \"eval_pairs\": 8, \"context_min\": 20, "
        "\"context_max\": 600, \"continuation\": 40, \"max_context\": 8, \"target_steps\": 2, "
        "\"target_bytes\": 60, \"target_lr\": 0.5, \"n_embd\": 24, \"n_head\": 2, \"n_block\": 2, "
        "\"n_mlp\": 32, "
        "\"sampling_steps\": 2, \"lr\": 0.01, \"warmup\": 5, \"checkpoint_every\": 7, "
        "\"eval_every\": 20, \"data\": [{\"name\": \"low\", \"path\": \"%s\"}, "
        "{\"name\": \"high\", \"path\": \"%s\"}], "
        "\"eval\": [{\"name\": \"low\", \"path\": \"%s\"}, "
        "{\"name\": \"high\", \"path\": \"%s\"}]%s}",
        in_folder("model.safetensors"), in_folder("pairs"), in_folder(name), STEPS,
        in_folder("low"), in_folder("high"), in_folder("low"), in_folder("high"), more);
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
    write_model();
    write_text("low", 'a');
    write_text("high", 'n');
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const runs[] = {"whole", "parts", "killed", "bad"};
    static const char *const files[] = {"checkpoint.safetensors", "hybrid.safetensors",
                                        "log.jsonl"};
    static const char *const others[] = {"model.safetensors", "pairs", "low", "high"};
    char name[96];
    for (size_t r = 0; r < 4; r++) {
        for (size_t i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "%s/%s", runs[r], files[i]);
            unlink(in_folder(name));
        }
        rmdir(in_folder(runs[r]));
        snprintf(name, sizeof name, "%s.json", runs[r]);
        unlink(in_folder(name));
    }
    for (size_t i = 0; i < 4; i++)
        unlink(in_folder(others[i]));
    return rmdir(folder);
}

struct seen {
    double first, last;       /* of the diffusion's losses */
    double plain, context[2]; /* held out: first and last */
    size_t evals;
};

static void on_step(void *ctx, const struct train_step *s)
{
    struct seen *seen = ctx;
    if (s->step == 1)
        seen->first = s->diffusion;
    seen->last = s->diffusion;
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    struct seen *seen = ctx;
    assert_int_equal(v->n, 5 + L * 6);
    assert_string_equal(v->names[0], "plain");
    assert_string_equal(v->names[1], "context");
    assert_true(seen->evals == 0 || v->bits[0] == seen->plain); /* nothing moves the model */
    seen->plain = v->bits[0];
    seen->context[seen->evals++ > 0] = v->bits[1];
    for (size_t i = 5; i < v->n; i++)
        assert_true(v->bits[i] > 0 && v->bits[i] < 1);
}

/* Runs a recipe up to a step (0: to its end) as the command would. */
static bool run(const char *name, uint64_t stop_at, struct seen *seen)
{
    static struct hybrid_recipe r;
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
    int rc = hybrid_recipe_read(&r, in_folder(file), &e);
    if (rc == 0)
        rc = train_hybrid(&r, &c, pool, &done, &e);
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
    char *p = malloc(1 << 22);
    *n = fread(p, 1, 1 << 22, f);
    assert_true(*n > 1000 && *n < 1 << 22);
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
    struct hybrid *h = NULL;
    struct err e = {0};
    write_recipe("whole", "");
    assert_true(run("whole", 0, &seen));
    assert_int_equal(seen.evals, 4);
    if (!(seen.last < 0.9 * seen.first) || !(seen.context[1] < seen.plain - 0.002))
        fail_msg("diffusion from %g to %g; held out %g, with the context %g", seen.first, seen.last,
                 seen.plain, seen.context[1]);
    if (hybrid_open(in_folder("whole/hybrid.safetensors"), &h, &e) < 0)
        fail_msg("%s", e.msg);
    const struct hybrid_info *i = hybrid_get_info(h);
    assert_int_equal(i->steps, STEPS);
    assert_int_equal(i->max_context, 8);
    assert_int_equal(i->sampling_steps, 2);
    assert_int_equal(i->shape.n_embd, C);
    hybrid_close(h);
}

/* The pairs are what they are said to be: text of their corpora, rows bounded, targets that move. */
static void test_pairs(void **state)
{
    (void)state;
    struct hybrid_pairs p;
    struct err e = {0};
    char *low = calloc(1, 24001), *high = calloc(1, 24001);
    static const char *const names[] = {"low", "high"};
    char *text[] = {low, high};
    for (int k = 0; k < 2; k++) {
        FILE *f = fopen(in_folder(names[k]), "rb");
        assert_non_null(f);
        assert_int_equal(fread(text[k], 1, 24000, f), 24000);
        fclose(f);
    }
    if (hybrid_pairs_open(&p, in_folder("pairs"), &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(p.n, 68);
    assert_int_equal(p.n_train, 60);
    assert_int_equal(p.X, C + 2);
    assert_int_equal(p.n_theta, L * 6 * C);
    for (size_t i = 0; i < p.n; i++) {
        const int64_t rows = p.first[i + 1] - p.first[i];
        double moved = 0;
        assert_true(p.bytes[i] >= 20 && p.bytes[i] <= 600 && rows >= 1 && rows <= 8);
        if (!memmem(text[p.corpus[i]], 24000, p.text + i * p.T, p.T))
            fail_msg("pair %zu of %s: '%.40s'", i, names[p.corpus[i]], p.text + i * p.T);
        for (size_t k = 0; k < p.n_theta; k++)
            moved += fabs((double)p.delta[i * p.n_theta + k]);
        assert_true(moved > 0 && isfinite(moved));
    }
    hybrid_pairs_close(&p);
    free(low);
    free(high);
}

struct reading {
    struct rwkv_model *m;
    struct rwkv_session *s;
    struct hybrid *h;
    size_t n_theta;
};

/* theta after a context of n tokens fed in parts of `chunk`. */
static float *read_to_theta(struct reading *r, size_t n, size_t chunk, double strength,
                            struct hybrid_norms *norms)
{
    struct err e = {0};
    struct hybrid_options o = HYBRID_OPTIONS;
    struct hybrid_context *c = hybrid_context_new(r->h, r->m, &e);
    float *theta = calloc(r->n_theta, sizeof *theta);
    assert_true(c && theta);
    for (size_t at = 0; at < n; at += chunk) {
        uint32_t tokens[512];
        const size_t len = n - at < chunk ? n - at : chunk;
        for (size_t t = 0; t < len; t++)
            tokens[t] = 'a' + (uint32_t)((at + t) * (at + t) % 11);
        assert_int_equal(hybrid_context_feed(c, r->s, tokens, len, &e), 0);
    }
    o.strength = strength;
    if (hybrid_adjust(r->h, c, &o, theta, norms, &e) < 0)
        fail_msg("%s", e.msg);
    hybrid_context_free(c);
    return theta;
}

static void test_reading(void **state)
{
    (void)state;
    struct err e = {0};
    struct reading r = {0};
    struct hybrid_norms norms;
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_int_equal(rwkv_open(in_folder("model.safetensors"),
                               &(struct rwkv_options){.weights_type = -1}, pool, &r.m, &e),
                     0);
    r.s = rwkv_session_new(r.m, pool, 64, &e);
    r.n_theta = rwkv_theta_floats(rwkv_get_info(r.m));
    assert_int_equal(hybrid_open(in_folder("whole/hybrid.safetensors"), &r.h, &e), 0);
    float *own = calloc(r.n_theta, sizeof *own), *first = NULL;
    rwkv_get_theta(r.m, own);
    static const size_t lengths[] = {0, 1, 15, 16, 17, 400, 20000};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        float *a = read_to_theta(&r, lengths[k], 512, 1, &norms);
        float *b = read_to_theta(&r, lengths[k], 37, 1, &norms);
        float *zero = read_to_theta(&r, lengths[k], 100, 0, &norms);
        assert_memory_equal(a, b, r.n_theta * sizeof *a);
        assert_memory_equal(zero, own, r.n_theta * sizeof *a);
        assert_true(memcmp(a, own, r.n_theta * sizeof *a) != 0);
        if (first)
            assert_true(memcmp(a, first, r.n_theta * sizeof *a) != 0);
        else
            first = a;
        if (first != a)
            free(a);
        free(b);
        free(zero);
    }
    /* half the strength: half the way */
    float *half = read_to_theta(&r, 0, 1, 0.5, &norms), *whole = read_to_theta(&r, 0, 1, 1, &norms);
    for (size_t i = 0; i < r.n_theta; i++)
        assert_true(fabsf(2 * (half[i] - own[i]) - (whole[i] - own[i])) <= 1e-5f);
    assert_true(norms.change[0] > 0 && norms.change[5] > 0 && norms.coordinate > 0);
    struct hybrid_options bad = {.strength = 5};
    struct hybrid_context *c = hybrid_context_new(r.h, r.m, &e);
    assert_int_equal(hybrid_adjust(r.h, c, &bad, half, &norms, &e), ERR_INVALID);
    assert_string_equal(e.param, "strength");
    hybrid_context_free(c);
    free(half), free(whole), free(first), free(own);
    hybrid_close(r.h);
    rwkv_session_free(r.s);
    rwkv_close(r.m);
    pool_free(pool);
}

/* Damaged files: every prefix and many changed bytes are refused or opened, never read past. */
static void test_damage(void **state)
{
    (void)state;
    size_t n;
    char *bytes = slurp("whole", "hybrid.safetensors", &n);
    struct rng rng;
    rng_init(&rng, 13, 0);
    for (size_t i = 0; i < 400; i++) {
        struct hybrid *h = NULL;
        struct err e = {0};
        size_t len = i < 200 ? rng_below(&rng, n) : n;
        char *copy = malloc(len + 1);
        memcpy(copy, bytes, len);
        if (i >= 200) /* mostly in the header */
            copy[rng_below(&rng, i % 4 ? 4000 : n)] ^= (char)(1 << rng_below(&rng, 8));
        int rc = hybrid_open_memory(copy, len, &h, &e);
        assert_true(rc == 0 || rc == ERR_FORMAT);
        assert_true(i >= 200 || rc < 0);
        hybrid_close(h);
        free(copy);
    }
    free(bytes);
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
    check_same("whole", "parts", "checkpoint.safetensors");
    check_same("whole", "parts", "hybrid.safetensors");
}

/* `dreamstated train hybrid RECIPE` with the binary that was built beside this test. */
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
        execl(exe, exe, "train", "hybrid", recipe, (char *)NULL);
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
    check_same("whole", "killed", "hybrid.safetensors");
}

/* A run of one step with every allocation failing in turn: one clear error. */
static int run_once(void *arg)
{
    static struct hybrid_recipe r;
    const struct train_control c = {0};
    struct err e = {0};
    bool done = false;
    unlink(in_folder("parts/checkpoint.safetensors"));
    int rc = hybrid_recipe_read(&r, in_folder("parts.json"), &e);
    r.schedule.steps = 1;
    if (rc == 0)
        rc = train_hybrid(&r, &c, arg, &done, &e);
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
        {", \"alpha\": 1", "alpha must be a number"},
        {", \"lambda\": -1", "lambda must be a number"},
        {", \"gap\": 1.5", "gap must be a whole number"},
    };
    static struct hybrid_recipe r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        write_recipe("bad", cases[i].more);
        assert_int_equal(hybrid_recipe_read(&r, in_folder("bad.json"), &e), ERR_INVALID);
        if (!strstr(e.msg, cases[i].said))
            fail_msg("'%s' does not say '%s'", e.msg, cases[i].said);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_killed_and_continued),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_recipes_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
