/* Training of a diffuser from a recipe (dit_recipe.h): `dreamstated train dit`.
 *
 * Bakes the dataset if it does not exist, fits the codec on it, then trains the transformer on the
 * coordinates of its states: uniform timesteps, the recipe's prediction, Adam with a cosine, an
 * average of the weights (EMA). A sample is conditioned by a text (the mean of vectors of its own
 * document, its own text among them or not), a label, or nothing. A batch is cut by samples, thread
 * k taking the k-th part, and gradients are added in thread order, so the bytes of a result depend
 * on the dataset, the recipe and the number of threads.
 *
 * Writes into out: checkpoint.safetensors and codec.safetensors (everything needed to go on; a run
 * that was stopped or killed ends with the bytes of one that was not), diffuser.safetensors (the
 * averaged weights; dit.h opens it) and log.jsonl.
 *
 * Evaluation: mean squared error of the predicted coordinates of held-out
 * rows at t = 100, 300, 500, 700, 900 under the row's own text, another text of its document, its
 * corpus' label, and no condition. */
#ifndef ENGINE_TRAIN_DIT_H
#define ENGINE_TRAIN_DIT_H

#include "engine/dit/dataset.h"
#include "engine/kernels/pool.h"
#include "engine/train/dit_recipe.h"
#include "engine/train/run.h"

/* As train_base (base.h). ERR_CANCELLED: stopped while baking or fitting, nothing lost but that. */
int train_dit(const struct dit_recipe *r, const struct train_control *c, struct pool *pool,
              bool *done, struct err *e) __attribute__((warn_unused_result));

/* The rows of a dataset, before it is opened. */
struct dit_rows_info {
    struct state_shape shape;
    size_t n, n_label, text_bytes;
};
struct dit_need { /* bytes at most, about; disk: in `out`, while files are written anew */
    double memory, disk;
    size_t n_params, n_token;
};
/* What a training of the recipe takes. ERR_INVALID: sizes that cannot be; ERR_NOMEM. */
int train_dit_plan(const struct dit_recipe *r, const struct dit_rows_info *d, int threads,
                   struct dit_need *out, struct err *e) __attribute__((warn_unused_result));

#endif
