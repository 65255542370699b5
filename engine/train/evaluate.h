/* Held-out bits a byte of corpora: each document from the zero state behind the separator, the state
 * carried through it. */
#ifndef ENGINE_TRAIN_EVALUATE_H
#define ENGINE_TRAIN_EVALUATE_H

#include "engine/train/corpus.h"
#include "engine/train/trainer.h"

/* About `bytes` of each corpus, in equal parts from the beginning of up to 64 of its documents, go
 * through the trainer's weights; bits [n]. ERR_NOMEM. */
int train_evaluate(struct trainer *t, const struct corpus *c, size_t n, uint64_t bytes, double *bits,
                   struct err *e) __attribute__((warn_unused_result));

#endif
