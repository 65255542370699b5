/* Held-out bits a byte of corpora: each document from the zero state behind the separator, the
 * state carried through it; or from a given state. */
#ifndef ENGINE_TRAIN_EVALUATE_H
#define ENGINE_TRAIN_EVALUATE_H

#include "engine/train/corpus.h"
#include "engine/train/run.h"
#include "engine/train/trainer.h"

#define TRAIN_EVALUATE_MAX 64 /* corpora */

/* About `bytes` of each corpus, in equal parts from the beginning of up to 64 of its documents, go
 * through the trainer's weights; initial: a state (params.h) or NULL for zero; bits [n]. ERR_NOMEM.
 */
int train_evaluate(struct trainer *t, const struct corpus *c, size_t n, uint64_t bytes,
                   const float *initial, double *bits, struct err *e)
    __attribute__((warn_unused_result));
/* The same, reported and logged (run.h). n is at most TRAIN_EVALUATE_MAX; 0: nothing is done. */
int train_run_evaluate(struct train_run *r, struct trainer *t, const struct corpus *c, size_t n,
                       uint64_t bytes, const float *initial, struct err *e)
    __attribute__((warn_unused_result));

#endif
