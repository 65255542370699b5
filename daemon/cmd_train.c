/* `dreamstated train base|state RECIPE`: training without the daemon. SIGINT and SIGTERM stop after
 * the present step, with a checkpoint; the same command then goes on. */
#include "daemon/base/err.h"
#include "daemon/cmd.h"
#include "engine/train/base.h"
#include "engine/train/state.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
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
    bool tty;
    uint64_t every; /* off a terminal: a line every so many steps */
};

static void on_step(void *ctx, const struct train_step *s)
{
    const struct report *r = ctx;
    if (!r->tty && s->step % r->every && s->step != s->steps)
        return;
    unsigned eta = (unsigned)s->eta_s;
    fprintf(stderr,
            "%sstep %llu/%llu  loss %.4f  %.4f bits/byte  lr %.2e  norm %.2f  %.0f tok/s  ETA "
            "%u:%02u:%02u%s",
            r->tty ? "\r" : "", (unsigned long long)s->step, (unsigned long long)s->steps, s->loss,
            s->loss * 1.4426950408889634, s->lr, s->norm, s->tokens_per_s, eta / 3600,
            eta / 60 % 60, eta % 60, r->tty ? "\033[K" : "\n");
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    const struct report *r = ctx;
    fprintf(stderr, "%sheld out at step %llu: %.4f bits/byte (", r->tty ? "\n" : "",
            (unsigned long long)v->step, v->mean);
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
    fputs("usage: dreamstated train base|state RECIPE [--threads N] [--max-minutes M] [--stop-at "
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

static bool parse(int argc, char **argv, struct recipe *r, struct train_control *c)
{
    for (int i = 3; i < argc; i += 2) {
        double x;
        if (i + 1 >= argc || !number(argv[i + 1], &x))
            return false;
        if (!strcmp(argv[i], "--threads") && x >= 1 && x <= 256)
            r->threads = (uint64_t)x;
        else if (!strcmp(argv[i], "--max-minutes"))
            c->max_minutes = x;
        else if (!strcmp(argv[i], "--stop-at"))
            c->stop_at = (uint64_t)x;
        else
            return false;
    }
    return true;
}

int cmd_train(int argc, char **argv)
{
    struct report report = {.tty = isatty(STDERR_FILENO), .every = 10};
    struct train_control c = {.stop = &stop_asked,
                              .on_step = on_step,
                              .on_eval = on_eval,
                              .on_note = on_note,
                              .ctx = &report};
    struct err e = {0};
    bool done = false;
    bool base = argc > 1 && !strcmp(argv[1], "base");
    if (argc < 3 || (!base && strcmp(argv[1], "state")))
        return usage();
    struct recipe *r = calloc(1, sizeof *r);
    struct pool *pool = NULL;
    int rc = r ? recipe_read(r, argv[2], &e) : err_set(&e, ERR_NOMEM, "out of memory");
    if (rc == 0 && !parse(argc, argv, r, &c)) {
        free(r);
        return usage();
    }
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    if (getenv("OPENBLAS_CORETYPE"))
        fputs("train: OPENBLAS_CORETYPE is set: BLAS does not choose its kernels by this CPU\n",
              stderr);
    if (rc == 0) {
        pool = pool_new((int)r->threads, "train", 0, &e);
        rc = !pool  ? e.code
             : base ? train_base(r, &c, pool, &done, &e)
                    : train_state(r, &c, pool, &done, &e);
    }
    pool_free(pool);
    if (rc < 0)
        fprintf(stderr, "train: %s\n", e.msg);
    else
        fprintf(stderr, "%s: %s/%s.safetensors\n",
                done ? "finished" : "stopped, to go on run it again", r->out,
                base ? "model" : "state");
    free(r);
    return rc < 0 ? 1 : 0;
}
