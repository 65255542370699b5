#include "tests/lib/training.h"

#include "engine/kernels/rng.h"
#include "engine/rwkv/params.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"

#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- What is trained on ---- */

void training_text(char *text, size_t n, size_t document, char first, size_t variant)
{
    for (size_t i = 0; i < n; i++)
        text[i] = i % document == document - 1 ? 0
                  : i % 37 == 35               ? '.'
                  : i % 37 == 36               ? ' '
                  : i % 6 == 5                 ? ' '
                                               : (char)(first + i * (i + variant) / 7 % 9);
}

void training_model(const char *name, bool matrices)
{
    enum { L = TRAINING_L, C = TRAINING_C, N = TRAINING_N };
    struct rwkv_shape s = {
        .n_layer = L, .n_embd = C, .head_size = N, .n_ffn = 2 * C, .n_vocab = 256};
    struct rwkv_layout l;
    struct rng rng;
    struct err e = {0};
    rwkv_default_ranks(&s);
    assert_int_equal(rwkv_layout_init(&l, &s, &e), 0);
    float *p = calloc(l.count, sizeof *p);
    assert_non_null(p);
    assert_int_equal(rwkv_params_init(&l, p, 4, &e), 0);
    rng_init(&rng, 6, 0);
    for (size_t i = 0; i < 256 * C; i++) /* the reference's embeddings are near 0 at the start */
        p[l.emb + i] = (float)rng_normal(&rng);
    for (size_t i = 0; i < l.n && matrices; i++)
        for (size_t k = 0; l.param[i].group == RWKV_GROUP_DECAY && k < l.param[i].count; k++)
            p[l.param[i].offset + k] += 0.1f * (float)rng_normal(&rng);
    assert_int_equal(rwkv_params_write(&l, p, in_folder("%s", name), 0, &e), 0);
    free(p);
    rwkv_layout_fini(&l);
}

/* ---- Runs ---- */

static bool run(const struct training *t, const char *name, const struct train_control *c,
                int threads)
{
    struct err e = {0};
    bool done = false;
    struct pool *pool = pool_new(threads, "test", 0, &e);
    assert_non_null(pool);
    if (t->train(in_folder("%s.json", name), 0, c, pool, &done, &e) < 0)
        fail_msg("%s", e.msg);
    pool_free(pool);
    return done;
}

bool training_run(const struct training *t, const char *name, const struct train_control *c)
{
    return run(t, name, c, 2);
}

static void check_same_run(const struct training *t, const char *whole, const char *name)
{
    for (const char *const *file = t->files; *file; file++) {
        char a[64], b[64];
        snprintf(a, sizeof a, "%s/%s", whole, *file);
        snprintf(b, sizeof b, "%s/%s", name, *file);
        check_same_file(a, b);
    }
}

void training_check_stops(const struct training *t, const char *whole, const char *name,
                          uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (uint64_t at = 0; at < t->steps;) {
        at += 1 + rng_below(&rng, 25);
        at = at < t->steps ? at : t->steps;
        const struct train_control c = {.stop_at = at};
        assert_int_equal(training_run(t, name, &c), at == t->steps);
    }
    check_same_run(t, whole, name);
}

static void exec_train(const char *what, const char *recipe, const char *option)
{
    char exe[512];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 16);
    if (n < 0)
        _exit(126);
    exe[n] = 0;
    for (int up = 0; up < 3; up++) /* build/PROFILE/tests/KIND/test_name */
        *strrchr(exe, '/') = 0;
    memcpy(exe + strlen(exe), "/dreamstated", sizeof "/dreamstated");
    execl(exe, exe, "train", what, recipe, option, (char *)NULL);
    _exit(127);
}

int training_command(const char *what, const char *recipe, const char *option, uint64_t lines)
{
    int fd[2], status;
    char line[1024];
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fd[1], 2);
        exec_train(what, recipe, option);
    }
    close(fd[1]);
    FILE *f = fdopen(fd[0], "r");
    assert_non_null(f);
    for (uint64_t n = 1; fgets(line, sizeof line, f); n++)
        if (n == lines)
            kill(pid, SIGKILL);
    fclose(f);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

void training_check_kills(const struct training *t, const char *whole, const char *name,
                          uint64_t seed, uint64_t lines)
{
    struct rng rng;
    int killed = 0, status;
    rng_init(&rng, seed, 0);
    for (int round = 0; round < 6; round++) {
        status =
            training_command(t->what, in_folder("%s.json", name), NULL, 1 + rng_below(&rng, lines));
        killed += WIFSIGNALED(status);
    }
    assert_true(killed > 0);
    status = training_command(t->what, in_folder("%s.json", name), NULL, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_same_run(t, whole, name);
}

/* ---- Memory ---- */

/* Bytes that are allocated now; 0: this build does not tell. */
static double allocated(void)
{
    const struct mallinfo2 m = mallinfo2();
    return (double)(m.uordblks + m.hblkhd);
}

static void see_memory(void *ctx)
{
    double *most = ctx, now = allocated();
    *most = now > *most ? now : *most;
}

static void see_step(void *ctx, const struct train_step *s)
{
    (void)s;
    see_memory(ctx);
}

void training_check_need(const struct training *t, const char *name, double memory)
{
    double most = 0;
    const double before = allocated();
    const struct train_control c = {
        .stop_at = 3, .between = see_memory, .on_step = see_step, .ctx = &most};
    training_run(t, name, &c);
    if (before > 0 && (!(most - before <= memory) || !(memory <= 2 * (most - before))))
        fail_msg("%.0f bytes are held, %.0f were said", most - before, memory);
}

/* ---- Steps ---- */

static void keep_step(void *ctx, const struct train_step *s)
{
    *(struct train_step *)ctx = *s;
}

void training_check_threads(const struct training *t, const char *name)
{
    struct train_step s[2];
    for (int k = 0; k < 2; k++) {
        const struct train_control c = {.stop_at = 1, .on_step = keep_step, .ctx = &s[k]};
        char each[32];
        snprintf(each, sizeof each, "%s%d", name, k + 1);
        t->write_recipe(each, "");
        run(t, each, &c, k + 1);
    }
    assert_true(s[0].step == 1 && s[1].step == 1);
    if (!(fabs(s[0].loss - s[1].loss) <= 1e-5 * s[0].loss) ||
        !(fabs(s[0].norm - s[1].norm) <= 1e-4 * s[0].norm))
        fail_msg("loss %g, norm %g with one thread, %g and %g with two", s[0].loss, s[0].norm,
                 s[1].loss, s[1].norm);
}

void training_check_average(const struct training *t, const char *name)
{
    float *before = NULL;
    size_t n = 0;
    t->write_recipe(name, "");
    for (uint64_t step = 1; step <= 3; step++) {
        const struct train_control c = {.stop_at = step};
        struct tensor_file *f = NULL;
        struct err e = {0};
        training_run(t, name, &c);
        assert_int_equal(tensor_file_open(in_folder("%s/%s", name, t->files[0]), &f, &e), 0);
        float *params = golden_f32(f, "params", n), *average = golden_f32(f, "average", n);
        n = tensor_file_find(f, "params")->count;
        const float keep = (float)step / (float)(9 + step);
        for (size_t i = 0; i < n && before; i++) {
            const float want = keep * before[i] + (1 - keep) * params[i];
            if (!(fabsf(average[i] - want) <= 1e-6f * (fabsf(want) + fabsf(params[i]))))
                fail_msg("step %d, average [%zu]: %g, want %g", (int)step, i, (double)average[i],
                         (double)want);
        }
        free(before);
        free(params);
        before = average;
        tensor_file_close(f);
    }
    free(before);
}

/* ---- Failures ---- */

/* The pool is made outside: another module's allocations. */
struct step {
    const struct training *t;
    const char *name;
    struct pool *pool;
};

static int run_step(void *arg)
{
    const struct step *s = arg;
    const struct train_control c = {0};
    struct err e = {0};
    bool done = false;
    unlink(in_folder("%s/%s", s->name, s->t->files[0]));
    int rc = s->t->train(in_folder("%s.json", s->name), 1, &c, s->pool, &done, &e);
    assert_true(rc < 0 ? e.msg[0] && !done : done);
    return rc;
}

size_t training_check_memory(const struct training *t, const char *name)
{
    struct err e = {0};
    struct step s = {t, name, pool_new(1, "test", 0, &e)};
    assert_non_null(s.pool);
    size_t n = alloc_sweep(run_step, &s);
    pool_free(s.pool);
    return n;
}

void training_check_refused(const struct training *t, const struct training_refusal *r, size_t n)
{
    const struct train_control c = {0};
    for (size_t i = 0; i < n; i++) {
        struct err e = {0};
        bool done;
        t->write_recipe("bad", r[i].more);
        assert_int_equal(t->train(in_folder("bad.json"), 0, &c, NULL, &done, &e), ERR_INVALID);
        if (!strstr(e.msg, r[i].said))
            fail_msg("'%s' does not say '%s'", e.msg, r[i].said);
    }
}
