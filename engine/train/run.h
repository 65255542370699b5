/* What every training run has around its steps: the report of progress, the JSON-lines log, when to
 * evaluate, to save and to stop.
 *
 *     rc = train_run_open(&run, control, recipe->out, recipe->max_minutes, e);
 *     ... make everything; from a checkpoint: run.step = its step ...
 *     train_run_begin(&run, tokens);
 *     rc = train_run_steps(&run, &plan, &kind, ctx, done, e);
 *     train_run_close(&run);
 *
 * Threads: the calling thread of the training; `stop` may be set from anywhere, also from a
 * signal handler. */
#ifndef ENGINE_TRAIN_RUN_H
#define ENGINE_TRAIN_RUN_H

#include "daemon/base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct train_step {
    uint64_t step, steps; /* steps done, of */
    uint64_t tokens;      /* seen since the beginning (a diffuser's: samples) */
    double loss;          /* nats a token, of this batch (a diffuser's: mean squared error) */
    double diffusion;     /* a hybrid's second term, mean squared error; others: 0 */
    double lr, norm;      /* of this step; norm before clipping */
    double tokens_per_s;  /* since this run began */
    double eta_s;         /* seconds left at that rate */
    const char *culprit;  /* where loss or norm is not finite: the tensor, if that is known */
};

struct train_eval {
    uint64_t step;
    size_t n;
    const char *const *names;
    const double *bits; /* bits a byte, each corpus; or what `what` says */
    double mean;        /* over the names */
    const char *what;   /* NULL: bits a byte */
};

/* What the caller wants of a run; all zero is fine. */
struct train_control {
    atomic_bool *stop; /* set: stop after the present step, with a checkpoint */
    void (*between)(
        void *ctx); /* between pieces of what is no step (about 50 ms): the pool rests */
    void (*on_part)(void *ctx, size_t done,
                    size_t n); /* the same where it is known how many there are */
    uint64_t stop_at;          /* stop once this many steps are done; 0: at the recipe's end */
    double max_minutes;        /* instead of the recipe's, if positive */
    void (*on_step)(void *ctx, const struct train_step *s);
    void (*on_eval)(void *ctx, const struct train_eval *v);
    void (*on_note)(void *ctx, const char *text); /* one line for a person */
    void *ctx;
};

struct train_run {
    const struct train_control *control;
    const char *out; /* borrowed */
    FILE *log;
    uint64_t step; /* done */
    uint64_t began_ns, first_step, first_tokens;
    double max_minutes;
};

/* Makes the folder `out` and opens out/log.jsonl to append; no step is done. ERR_IO. */
int train_run_open(struct train_run *r, const struct train_control *c, const char *out,
                   double max_minutes, struct err *e) __attribute__((warn_unused_result));
void train_run_close(struct train_run *r); /* a zeroed one is fine */
/* The path of a file in `out`. */
#define TRAIN_PATH 1200
void train_run_path(const struct train_run *r, const char *name, char path[TRAIN_PATH]);
/* Between two pieces of what is no step: whether to go on. */
bool train_run_goes_on(const struct train_run *r);
/* The same, `done` of n of them being done. */
bool train_run_prepares(const struct train_run *r, size_t done, size_t n);
/* Counts time and rates from now on, r->step steps and `tokens` being done. */
void train_run_begin(struct train_run *r, uint64_t tokens);

/* One kind of training. */
struct train_kind {
    /* Does the step behind r->step at the rate s->lr and fills in s: tokens, loss, norm, diffusion.
     * Where one of the last three is not finite it changes nothing. */
    int (*step)(void *ctx, struct train_step *s, struct err *e);
    int (*evaluate)(void *ctx, struct err *e); /* reports */
    int (*save)(void *ctx, struct err *e);     /* the checkpoint, and the result so far */
};
struct train_schedule;
struct train_plan {
    const struct train_schedule *schedule;
    uint64_t eval_every, checkpoint_every; /* steps */
};
/* Step by step to the schedule's end or until it must stop. Evaluates every eval_every steps and at
 * the end, saves every checkpoint_every steps and whenever it leaves off. *done: no step is left.
 * ERR_NUMERIC (a loss or a gradient is not finite), and what the kind returns. */
int train_run_steps(struct train_run *r, const struct train_plan *p, const struct train_kind *k,
                    void *ctx, bool *done, struct err *e) __attribute__((warn_unused_result));

/* Log and report. */
void train_run_eval(struct train_run *r, const struct train_eval *v);
void train_run_note(struct train_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
#endif
