/* Recipes of `dreamstated train dit`: JSON, strict as recipe.h's.
 *
 *     { "model": "model.safetensors", "dataset": "build/states.safetensors", "out": "build/dit",
 *       "data": [{"name": "kjv", "path": "build/corpora/kjv.train",
 *                 "styles": "build/corpora/kjv.train.styles"}],
 *       "eval": [{"name": "kjv", "path": "build/corpora/kjv.heldout"}],
 *       "steps": 8000, "batch": 64 }
 *
 * A dataset that does not exist is baked first, from the texts of `data` (to train on) and `eval`
 * (held out) as corpus.h reads them; `styles` names a file with one line a document, its fine style
 * (empty: none). An existing one is used as it is. Further keys, with their defaults:
 *     vocab (none; a byte model), seed (1), threads (1)
 *     segments (8000) and eval_segments (600), in equal parts of the corpora and spread over each;
 *     segment_bytes (256); style_segments (24): a style with fewer rows has no label
 *     tuned (0) states are tuned by gradient on the training texts of each corpus (tune.h), in tuned_steps
 *     (100) on half of them, and stand for a tenth of its rows, with the label CORPUS/tuned and no text
 *     components (64 a head), basis (0: see codec.h), shifts (false): shift vectors
 *     have tokens of their own instead of the conditional mean
 *     n_embd (128), n_head (4), n_block (4), n_mlp (4 n_embd), per_token (true)
 *     schedule ("cosine"), prediction ("v"), condition_dropout (0.1)
 *     label_share (0.3 of the samples are conditioned by a label, half of them by the fine style,
 *     the others by text), texts (4: a text condition is the mean of 1, 2 or up to so many vectors
 *     of its document)
 *     batch (64), lr (2e-3), lr_final (lr / 100), warmup (100, at most steps), beta1 (0.9), beta2 (0.99), eps
 *     (1e-8), weight_decay (0), clip (1), ema (0.998)
 *     products ("f32" or "bf16"), eval_every (500), checkpoint_every (500), max_minutes (0) */
#ifndef ENGINE_TRAIN_DIT_RECIPE_H
#define ENGINE_TRAIN_DIT_RECIPE_H

#include "engine/dit/sampler.h"
#include "engine/train/recipe.h"

struct dit_corpus {
    char name[32], path[RECIPE_PATH], styles[RECIPE_PATH];
};

struct dit_recipe {
    char model[RECIPE_PATH], vocab[RECIPE_PATH], dataset[RECIPE_PATH], out[RECIPE_PATH];
    struct dit_corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    size_t n_data, n_eval;
    uint64_t seed, threads;
    uint64_t segments, eval_segments, segment_bytes, style_segments;
    uint64_t tuned, tuned_steps; /* a corpus; each */
    uint64_t components, basis;
    uint64_t n_embd, n_head, n_block, n_mlp;
    bool shifts, per_token, bf16;
    char schedule_name[16], prediction_name[8], products[8]; /* as given */
    enum dit_schedule_kind noise;
    enum dit_prediction prediction;
    double condition_dropout, label_share, ema;
    uint64_t texts, batch;
    struct train_schedule schedule;
    struct adamw_options adamw;
    uint64_t eval_every, checkpoint_every;
    double max_minutes;
};

/* ERR_IO, ERR_INVALID (which key, what is wrong), ERR_NOMEM. */
int dit_recipe_read(struct dit_recipe *r, const char *path, struct err *e)
    __attribute__((warn_unused_result));

/* The diffuser and its training from the text of an object that names no files, threads or texts to
 * bake: whoever calls sets dataset, out and threads. Its keys in `others`, each between spaces, are the
 * caller's. ERR_INVALID, its param the key; ERR_NOMEM. */
int dit_recipe_read_text(struct dit_recipe *r, const char *json, const char *others, struct err *e)
    __attribute__((warn_unused_result));

#endif
