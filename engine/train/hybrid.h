/* Training of a hybrid from a recipe (hybrid_recipe.h): `dreamstated train hybrid`.
 *
 * Makes the dataset of pairs if it does not exist (hybrid_data.h), then trains the parameter
 * transformer and alpha, the model staying as it is: the cross entropy of the continuation through
 * the adjusted recurrence, and lambda times the denoising error on the targets (chain.h).
 *
 * Writes into out: checkpoint.safetensors (a run that was stopped or killed ends with the bytes of
 * one that was not), hybrid.safetensors (the averaged weights; hybrid.h opens it) and log.jsonl: both
 * losses and the gradient's norm of every step; held out, bits a byte of continuations with the
 * model's own vectors (plain), under their context, under one of another corpus (wrong), under an
 * empty one (none), of a dataset with states also from the state with the model's own vectors (state)
 * and under the context (both), the diffusion's error, and alpha of every layer and group. */
#ifndef ENGINE_TRAIN_HYBRID_H
#define ENGINE_TRAIN_HYBRID_H

#include "engine/kernels/pool.h"
#include "engine/train/hybrid_recipe.h"
#include "engine/train/run.h"

/* As train_base (base.h). ERR_CANCELLED: stopped while the dataset was made, nothing lost but that. */
int train_hybrid(const struct hybrid_recipe *r, const struct train_control *c, struct pool *pool,
                 bool *done, struct err *e) __attribute__((warn_unused_result));

struct
    hybrid_need { /* bytes at most, about; disk: of the dataset and in `out`, while files are written
                      * anew */
    double memory, disk;
    size_t n_params;
};
/* What a training of the recipe takes, without its corpora. ERR_IO, ERR_FORMAT (the model's file),
 * ERR_INVALID (sizes that cannot be), ERR_NOMEM. */
int train_hybrid_plan(const struct hybrid_recipe *r, int threads, struct hybrid_need *out,
                      struct err *e) __attribute__((warn_unused_result));

#endif
