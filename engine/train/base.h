/* Pre-training of a language model from a recipe: `dreamstated train base`.
 *
 * Begins at the reference's initial weights (or init_from), or goes on from
 * out/checkpoint.safetensors if that exists: the result has the same bytes as an uninterrupted run
 * with as many threads. Writes into out: checkpoint.safetensors (everything needed to go on),
 * model.safetensors (weights, BF16, reference names and order) and log.jsonl. Both files are
 * renewed every checkpoint_every steps and when the run ends or is stopped; the learning rate
 * follows the recipe's steps whatever the stops. */
#ifndef ENGINE_TRAIN_BASE_H
#define ENGINE_TRAIN_BASE_H

#include "engine/kernels/pool.h"
#include "engine/train/recipe.h"
#include "engine/train/run.h"

/* With as many threads as `pool` has. *done says whether all steps of the recipe are done. ERR_IO,
 * ERR_FORMAT, ERR_INVALID, ERR_NUMERIC (loss or gradient not finite, with the step), ERR_NOMEM. */
int train_base(const struct recipe *r, const struct train_control *c, struct pool *pool, bool *done,
               struct err *e) __attribute__((warn_unused_result));

#endif
