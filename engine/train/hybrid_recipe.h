/* Recipes of `dreamstated train hybrid`: JSON, strict as recipe.h's.
 *
 *     { "model": "model.safetensors", "dataset": "build/pairs.safetensors", "out": "build/hybrid",
 *       "data": [{"name": "kjv", "path": "build/corpora/kjv.train"}],
 *       "eval": [{"name": "kjv", "path": "build/corpora/kjv.heldout"}],
 *       "steps": 1000 }
 *
 * The dataset (hybrid_data.h) is made first if it does not exist; an existing one is used as it is.
 * Corpora take equal parts of the pairs. Further keys, with their defaults:
 *     seed (1), threads (1)
 *     pairs (4000), eval_pairs (240); context_min (32) and context_max (8192) bytes of a context,
 *     spread evenly on a logarithmic scale; gap (32) bytes behind it; continuations (8), of
 *     continuation (64) bytes each; states (0): of the samples, the share that begins at the state
 *     the model has behind the context, shift vectors zero, instead of the zero state
 *     max_context (64): rows a context is pooled to, at most
 *     corpus_steps (200), corpus_lr (0.01), target_steps (4), target_bytes (256; at most 64
 *     continuations), target_lr (0.01): the targets' descent, see hybrid_data.h
 *     rank (0, at most 8): of low-rank additions to receptance, key and value, which the dataset's
 *     targets then have too
 *     n_embd (128), n_head (4), n_block (3), n_mlp (4 n_embd)
 *     products ("f32", or "bf16" as in recipe.h); sampling_steps (1), of which the last is differentiated; lambda (1), of the diffusion's term;
 *     alpha (0.73) at the start; context_dropout (0.1 of the samples see an empty context; 1: the
 *     control that can only learn constant changes)
 *     batch (16), lr (1e-3), lr_final (lr / 25), warmup (20, at most steps), beta1 (0.9), beta2 (0.99), eps (1e-8),
 *     weight_decay (0), clip (1), ema (0.99)
 *     eval_every (100), checkpoint_every (100), max_minutes (0) */
#ifndef ENGINE_TRAIN_HYBRID_RECIPE_H
#define ENGINE_TRAIN_HYBRID_RECIPE_H

#include "engine/train/recipe.h"

#define HYBRID_TARGET_WINDOWS 64 /* of a step on a context, at most */

struct hybrid_recipe {
    char model[RECIPE_PATH], dataset[RECIPE_PATH], out[RECIPE_PATH];
    struct recipe_corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    size_t n_data, n_eval;
    uint64_t seed, threads;
    uint64_t pairs, eval_pairs, context_min, context_max, gap, continuation, continuations,
        max_context;
    uint64_t corpus_steps, target_steps, target_bytes;
    double corpus_lr, target_lr;
    uint64_t n_embd, n_head, n_block, n_mlp, rank, sampling_steps;
    double lambda, alpha, context_dropout, states, ema;
    uint64_t batch;
    struct train_schedule schedule;
    struct adamw_options adamw;
    uint64_t eval_every, checkpoint_every;
    double max_minutes;
    char products[8]; /* as given */
    bool bf16;
};

/* ERR_IO, ERR_INVALID (which key, what is wrong), ERR_NOMEM. */
int hybrid_recipe_read(struct hybrid_recipe *r, const char *path, struct err *e)
    __attribute__((warn_unused_result));

/* The hybrid and its training from the text of an object that names no files, threads or corpora: whoever
 * calls sets model, dataset, out, threads, data and eval. Its keys in `others`, each between spaces, are the
 * caller's. ERR_INVALID, its param the key; ERR_NOMEM. */
int hybrid_recipe_read_text(struct hybrid_recipe *r, const char *json, const char *others,
                            struct err *e) __attribute__((warn_unused_result));

#endif
