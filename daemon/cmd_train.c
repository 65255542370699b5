/* `dreamstated train base|state|dit|hybrid RECIPE`: training without the daemon. SIGINT and SIGTERM stop after
 * the present step, with a checkpoint; the same command then goes on. */
#include "daemon/base/err.h"
#include "daemon/cmd.h"
#include "engine/train/base.h"
#include "engine/train/dit.h"
#include "engine/train/hybrid.h"
#include "engine/train/state.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_bool stop_asked; /* the one thing that a signal handler can reach */

static void on_signal(int sig)
{
    (void)sig;
    atomic_store(&stop_asked, true);
}

struct report {
    bool tty, dit;
    uint64_t every; /* off a terminal: a line every so many steps */
};

static void on_step(void *ctx, const struct train_step *s)
{
    const struct report *r = ctx;
    if (!r->tty && s->step % r->every && s->step != s->steps)
        return;
    unsigned eta = (unsigned)s->eta_s;
    char bits[64] = "";
    if (!r->dit)
        snprintf(bits, sizeof bits, "  %.4f bits/byte", s->loss * 1.4426950408889634);
    if (s->diffusion > 0)
        snprintf(bits + strlen(bits), sizeof bits - strlen(bits), "  diffusion %.4f", s->diffusion);
    fprintf(stderr,
            "%sstep %llu/%llu  loss %.4f%s  lr %.2e  norm %.2f  %.0f %s/s  ETA %u:%02u:%02u%s",
            r->tty ? "\r" : "", (unsigned long long)s->step, (unsigned long long)s->steps, s->loss,
            bits, s->lr, s->norm, s->tokens_per_s, r->dit ? "samples" : "tok", eta / 3600,
            eta / 60 % 60, eta % 60, r->tty ? "\033[K" : "\n");
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    const struct report *r = ctx;
    fprintf(stderr, "%sheld out at step %llu: %.4f %s (", r->tty ? "\n" : "",
            (unsigned long long)v->step, v->mean, v->what ? v->what : "bits/byte");
    for (size_t i = 0; i < v->n; i++)
        fprintf(stderr, "%s%s %.4f", i ? ", " : "", v->names[i], v->bits[i]);
    fputs(")\n", stderr);
}

static void on_note(void *ctx, const char *text)
{
    (void)ctx;
    fprintf(stderr, "%s\n", text);
}

static int usage(void)
{
    fputs("usage: dreamstated train base|state|dit|hybrid RECIPE [--threads N] [--max-minutes M] "
          "[--stop-at "
          "STEP]\n"
          "  --threads N      instead of the recipe's\n"
          "  --max-minutes M  stop after M minutes with a checkpoint; the same command goes on\n"
          "  --stop-at STEP   stop once STEP steps are done, with a checkpoint\n",
          stderr);
    return 2;
}

static bool number(const char *s, double *out)
{
    char *end;
    errno = 0;
    *out = strtod(s, &end);
    return *s && !*end && !errno && *out >= 0 && *out < 1e15;
}

/* ---- what can be trained ---- */

static int read_recipe(void *r, const char *path, struct err *e)
{
    return recipe_read(r, path, e);
}

static int read_dit(void *r, const char *path, struct err *e)
{
    return dit_recipe_read(r, path, e);
}

static int run_base(const void *r, const struct train_control *c, struct pool *pool, bool *done,
                    struct err *e)
{
    return train_base(r, c, pool, done, e);
}

static int run_state(const void *r, const struct train_control *c, struct pool *pool, bool *done,
                     struct err *e)
{
    return train_state(r, c, pool, done, e);
}

static int run_dit(const void *r, const struct train_control *c, struct pool *pool, bool *done,
                   struct err *e)
{
    return train_dit(r, c, pool, done, e);
}

static int read_hybrid(void *r, const char *path, struct err *e)
{
    return hybrid_recipe_read(r, path, e);
}

static int run_hybrid(const void *r, const struct train_control *c, struct pool *pool, bool *done,
                      struct err *e)
{
    return train_hybrid(r, c, pool, done, e);
}

static const struct kind {
    const char *name, *result; /* out/RESULT.safetensors */
    size_t size, threads, out; /* of the recipe; offsets of uint64_t threads and char out[] in it */
    int (*read)(void *r, const char *path, struct err *e);
    int (*run)(const void *r, const struct train_control *c, struct pool *pool, bool *done,
               struct err *e);
} kinds[] = {
#define K(name, result, type, read, run)                                                           \
    {                                                                                              \
        name, result, sizeof(struct type), offsetof(struct type, threads),                         \
            offsetof(struct type, out), read, run                                                  \
    }
    K("base", "model", recipe, read_recipe, run_base),
    K("state", "state", recipe, read_recipe, run_state),
    K("dit", "diffuser", dit_recipe, read_dit, run_dit),
    K("hybrid", "hybrid", hybrid_recipe, read_hybrid, run_hybrid),
#undef K
};

static const struct kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

static bool parse(int argc, char **argv, uint64_t *threads, struct train_control *c)
{
    for (int i = 3; i < argc; i += 2) {
        double x;
        if (i + 1 >= argc || !number(argv[i + 1], &x))
            return false;
        if (!strcmp(argv[i], "--threads") && x >= 1 && x <= 256)
            *threads = (uint64_t)x;
        else if (!strcmp(argv[i], "--max-minutes"))
            c->max_minutes = x;
        else if (!strcmp(argv[i], "--stop-at"))
            c->stop_at = (uint64_t)x;
        else
            return false;
    }
    return true;
}

static int train(const struct kind *k, const void *r, uint64_t threads, struct train_control *c,
                 struct err *e)
{
    bool done = false;
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    if (getenv("OPENBLAS_CORETYPE"))
        fputs("train: OPENBLAS_CORETYPE is set: BLAS does not choose its kernels by this CPU\n",
              stderr);
    struct pool *pool = pool_new((int)threads, "train", 0, e);
    int rc = pool ? k->run(r, c, pool, &done, e) : e->code;
    pool_free(pool);
    if (rc == 0)
        fprintf(stderr, "%s: %s/%s.safetensors\n",
                done ? "finished" : "stopped, to go on run it again", (const char *)r + k->out,
                k->result);
    return rc;
}

int cmd_train(int argc, char **argv)
{
    const struct kind *k = argc >= 3 ? find_kind(argv[1]) : NULL;
    if (!k)
        return usage();
    struct report report = {
        .tty = isatty(STDERR_FILENO), .dit = !strcmp(k->name, "dit"), .every = 10};
    struct train_control c = {.stop = &stop_asked,
                              .on_step = on_step,
                              .on_eval = on_eval,
                              .on_note = on_note,
                              .ctx = &report};
    struct err e = {0};
    void *r = calloc(1, k->size);
    int rc = r ? k->read(r, argv[2], &e) : err_set(&e, ERR_NOMEM, "out of memory");
    uint64_t *threads = r ? (uint64_t *)(void *)((char *)r + k->threads) : NULL;
    if (rc == 0 && !parse(argc, argv, threads, &c)) {
        free(r);
        return usage();
    }
    if (rc == 0)
        rc = train(k, r, *threads, &c, &e);
    if (rc < 0)
        fprintf(stderr, "train: %s\n", e.msg);
    free(r);
    return rc < 0 ? 1 : 0;
}
