/* What the tests of every kind of training share: small texts and a model to train on, runs that are
 * stopped or killed and must end with the bytes of a whole one, failing allocations, refused
 * recipes. Files are in the program's folder (folder.h): the recipe NAME.json writes into NAME. */
#ifndef TESTS_TRAINING_H
#define TESTS_TRAINING_H

#include "engine/kernels/pool.h"
#include "engine/train/run.h"

#include <sys/types.h>

/* One kind of training. */
struct training {
    const char *what; /* as `dreamstated train` calls it */
    uint64_t steps;   /* of its recipes */
    /* Writes the recipe of a run; more: further keys, each ", \"key\": value". */
    void (*write_recipe)(const char *name, const char *more);
    /* Reads a recipe and runs it; steps: instead of its own, 0: those. */
    int (*train)(const char *recipe, uint64_t steps, const struct train_control *c,
                 struct pool *pool, bool *done, struct err *e);
    const char *files[4]; /* whose bytes a run ends with, the checkpoint first, NULL behind them */
};

/* Documents of `document` bytes, sentences over nine letters from `first` on; other `variant`s have
 * other words. text [n]. */
void training_text(char *text, size_t n, size_t document, char first, size_t variant);
enum { TRAINING_L = 2, TRAINING_C = 64, TRAINING_N = 32 }; /* layers, width, head size */
/* A byte model of that shape with random weights. The reference begins with matrices behind the
 * recurrence at 0; `matrices`: with those random too. */
void training_model(const char *name, bool matrices);

/* Runs NAME.json with two threads; whether all steps are done. Fails the test on an error. */
bool training_run(const struct training *t, const char *name, const struct train_control *c);
/* NAME, run in parts of random lengths (this seed), has the bytes of `whole` in all files. */
void training_check_stops(const struct training *t, const char *whole, const char *name,
                          uint64_t seed);
/* The same for NAME run by the command, which is killed six times after up to `lines` lines. */
void training_check_kills(const struct training *t, const char *whole, const char *name,
                          uint64_t seed, uint64_t lines);
/* One step of NAME's recipe, begun anew, with every allocation failing in turn: one clear error each
 * time. Returns the number of allocations. */
size_t training_check_memory(const struct training *t, const char *name);

/* The first step has the same loss and norm of the gradient with one thread (NAME1) and two (NAME2).
 */
void training_check_threads(const struct training *t, const char *name);
/* The average in NAME's checkpoint moves towards the weights as it should from step to step (ema.h).
 */
void training_check_average(const struct training *t, const char *name);

/* `memory`, said to be what NAME's recipe takes at most with two threads, is that, and means something: a run,
 * from its beginning on, holds less, but not less than half. */
void training_check_need(const struct training *t, const char *name, double memory);

struct training_refusal {
    const char *more, *said; /* keys, and part of what the error says */
};
/* Recipes with each of these are refused, ERR_INVALID. */
void training_check_refused(const struct training *t, const struct training_refusal *r, size_t n);

/* `dreamstated train WHAT RECIPE [OPTION]` with the binary that was built beside this test; kills it
 * after so many lines of stderr (0: never). Its wait status. */
int training_command(const char *what, const char *recipe, const char *option, uint64_t lines);

#endif
