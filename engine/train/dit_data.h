/* The dataset of a recipe (dit_recipe.h): which pieces of which texts, and their labels. Threads:
 * one. */
#ifndef ENGINE_TRAIN_DIT_DATA_H
#define ENGINE_TRAIN_DIT_DATA_H

#include "engine/kernels/pool.h"
#include "engine/train/dit_recipe.h"

/* Reads the recipe's corpora and model, chooses pieces and bakes them into r->dataset. proceed as
 * in bake.h. ERR_IO, ERR_FORMAT, ERR_INVALID, ERR_CANCELLED, ERR_NOMEM and what baking says. */
int dit_data_bake(const struct dit_recipe *r, struct pool *pool,
                  bool (*proceed)(void *ctx, size_t done, size_t n), void *ctx, struct err *e)
    __attribute__((warn_unused_result));

#endif
