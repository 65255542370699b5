/* States tuned on texts: the initial state under which a frozen byte model predicts them best, found by
 * gradient (state.h), for callers that tune many.
 *
 * Each text is read behind a separator, its first 128 bytes; AdamW from a given state (from the mean of what
 * the texts leave, held-out text is predicted better than from zero), batches of 16 texts drawn with
 * replacement. Shift vectors are zero. Deterministic for seed and threads. Threads: one at a
 * time; the pool works inside. */
#ifndef ENGINE_TRAIN_TUNE_H
#define ENGINE_TRAIN_TUNE_H

#include "engine/dit/dataset.h"
#include "engine/train/state.h"

struct tuning {
    struct rwkv_layout layout;
    struct trainer trainer;
    struct state_tuner tuner;
    size_t S; /* numbers of a state */
};

/* ERR_IO, ERR_FORMAT, ERR_INVALID (no byte model), ERR_NOMEM. Close it also when this failed. */
int tuning_open(struct tuning *t, const char *model, struct pool *pool, struct err *e)
    __attribute__((warn_unused_result));
void tuning_close(struct tuning *t); /* a zeroed one is fine */

struct tuning_job {
    const struct dataset_row *rows; /* texts, */
    const size_t *of;               /* [n] those to tune on */
    size_t n, steps;
    uint64_t seed;
};
/* state [S]: where it begins, and the result; *bits: per byte, of the last batch. ERR_NUMERIC, ERR_INVALID (no text), ERR_NOMEM. */
int tuning_run(struct tuning *t, const struct tuning_job *j, float *state, double *bits,
               struct err *e) __attribute__((warn_unused_result));

#endif
