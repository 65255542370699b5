/* Training recipes: JSON files, strict (an unknown key or a value out of range is refused by name).
 *
 *     { "seed": 1, "threads": 2, "out": "build/tiny",
 *       "model": {"n_layer": 4, "n_embd": 192, "head_size": 32},
 *       "data": [{"name": "kjv", "path": "build/corpora/kjv.train", "weight": 1}],
 *       "eval": [{"name": "kjv", "path": "build/corpora/kjv.heldout"}],
 *       "sequence": 512, "batch": 8, "steps": 20000, "lr": 1.6e-3 }
 *
 * For state tuning `model` is the path of a model file. Further keys, with their defaults:
 *     model.n_ffn (4 n_embd), model.n_vocab (256), model.rank_w, .rank_a, .rank_v, .rank_g (the
 *     reference's for the width); data.weight (1); init_from (a model file to start from; none)
 *     carry (0), document_start (0.1), jump (0): see corpus.h
 *     lr_final (lr / 25), warmup (10 steps), beta1 (0.9), beta2 (0.99), eps (1e-18),
 *     weight_decay (0), clip (1)
 *     products ("f32", or "bf16": operands of matrix products are rounded, sums stay F32, where the
 *     CPU can; about 1.4 times as fast)
 *     eval_every (500 steps), eval_bytes (16384 of each corpus), checkpoint_every (500 steps),
 *     max_minutes (of one run of the command; 0: no limit)
 * Paths are taken from the folder the command runs in. */
#ifndef ENGINE_TRAIN_RECIPE_H
#define ENGINE_TRAIN_RECIPE_H

#include "engine/train/corpus.h"
#include "engine/train/trainer.h"

#define RECIPE_MAX_CORPORA 64
#define RECIPE_PATH        1024

struct recipe_corpus {
    char name[32], path[RECIPE_PATH];
    double weight;
};

struct recipe {
    struct rwkv_shape shape;     /* of `model` given as an object; n_layer 0 otherwise */
    char model[RECIPE_PATH];     /* `model` given as a path; or "" */
    char init_from[RECIPE_PATH]; /* or "" */
    char out[RECIPE_PATH];       /* folder of checkpoint, log and result */
    struct recipe_corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    size_t n_data, n_eval;
    uint64_t seed, threads, sequence, batch;
    struct train_schedule schedule;
    struct adamw_options adamw;
    char products[8]; /* as given */
    bool bf16;
    double carry, document_start, jump;
    uint64_t eval_every, eval_bytes, checkpoint_every; /* steps, bytes, steps */
    double max_minutes;                                /* of one run of the command; 0: no limit */
};

/* ERR_IO, ERR_INVALID (which key, what is wrong), ERR_NOMEM. */
int recipe_read(struct recipe *r, const char *path, struct err *e)
    __attribute__((warn_unused_result));

/* Opens the files of a list into c [n]; on an error those opened are the caller's to close too. */
int recipe_open_corpora(struct corpus *c, const struct recipe_corpus *from, size_t n, struct err *e)
    __attribute__((warn_unused_result));

#endif
