/* What every training run has around its steps: the report of progress, the JSON-lines log, when to
 * stop. Threads: the calling thread of the training; `stop` may be set from anywhere, also from a
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
    atomic_bool *stop;  /* set: stop after the present step, with a checkpoint */
    uint64_t stop_at;   /* stop once this many steps are done; 0: at the recipe's end */
    double max_minutes; /* instead of the recipe's, if positive */
    void (*on_step)(void *ctx, const struct train_step *s);
    void (*on_eval)(void *ctx, const struct train_eval *v);
    void (*on_note)(void *ctx, const char *text); /* one line for a person */
    void *ctx;
};

struct train_run {
    const struct train_control *control;
    FILE *log;
    uint64_t began_ns, first_step, first_tokens;
    double max_minutes;
};

/* Makes the folder `out` and opens out/log.jsonl to append. ERR_IO. */
int train_run_open(struct train_run *r, const struct train_control *c, const char *out,
                   double max_minutes, uint64_t step, uint64_t tokens, struct err *e)
    __attribute__((warn_unused_result));
void train_run_close(struct train_run *r);
/* Counts time and rates from now on, `step` steps and `tokens` being done. */
void train_run_begin(struct train_run *r, uint64_t step, uint64_t tokens);
/* Fill in the rates, log, report. */
void train_run_step(struct train_run *r, struct train_step *s);
void train_run_eval(struct train_run *r, const struct train_eval *v);
void train_run_note(struct train_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether to stop now that `step` steps are done. */
bool train_run_must_stop(const struct train_run *r, uint64_t step);

#endif
