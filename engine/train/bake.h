/* Baking datasets of states: texts are read by a model, and the states they leave are kept.
 *
 * Every row's text, which ends with a line or sentence, is read from the zero state behind a
 * separator (the vocabulary's: newline for bytes, id 0 for World), and what is to follow the state begins
 * with the separator: taken and continued in mid-sentence a state would predict its own continuation
 * instead of carrying a manner. For the same reason the state's shift vectors, which are its last token
 * and no more, are set to zero, as in the zero state and in tuned ones: new text is then predicted better
 * than behind the state's own, or their mean (measured: the card of the bundled model). The vector of a
 * text, its condition, is the mean of the final hidden states over the same tokens; whoever asks for
 * states by a text must read it so.
 *
 * Threads: the model's pool works inside the call; one caller at a time. */
#ifndef ENGINE_TRAIN_BAKE_H
#define ENGINE_TRAIN_BAKE_H

#include "engine/dit/dataset.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tokenizer/tokenizer.h"

/* The next piece of a text [n] at or behind *at: whole lines or sentences of together at most
 * `most` bytes and at least half of that, without the white space around them. Returns its length,
 * *begin its first byte, *at where to go on; 0: no more. A stretch without an end of line or
 * sentence is passed over. */
size_t bake_piece(const char *text, size_t n, size_t most, size_t *at, size_t *begin);

/* The tokens of a text [n] as rows are read: ids [n + 1]; returns their number. */
size_t bake_tokens(const struct tokenizer *t, const char *text, size_t n, uint32_t *ids);

/* Sets the shift vectors of a state to zero: what follows begins anew. ERR_NOMEM. */
int bake_forget_last(const struct rwkv_info *info, float *state, struct err *e)
    __attribute__((warn_unused_result));

/* Rows without text are states that were tuned instead of read; their condition is zero, which stands for
 * none. */
struct bake {
    const struct rwkv_model *model;
    struct pool *pool;
    const struct tokenizer *tokenizer;
    const struct dataset_row *rows; /* [n] what to read, with their labels */
    size_t n;
    const char *const *label;
    size_t n_label;
    const char *path; /* of the dataset */
    /* Called after every call of the model (about 256 tokens); false stops. NULL: never. */
    bool (*proceed)(void *ctx, size_t done, size_t n);
    /* Makes the state of row i, which has no text, and of those of its document behind it; state holds the mean of its corpus' rows to train on
     * that have one. Called after all those. NULL: there are none. */
    int (*tune)(void *ctx, size_t i, float *state, struct err *e);
    void *ctx, *tune_ctx;
};

/* Writes the dataset, whole or not at all. Rows are read in order; one that was stopped or killed goes on
 * with the rows that are missing (path.part holds the others) and ends with the same bytes, which depend
 * on the rows, the model, its weights' type and the kernels alone. ERR_CANCELLED, ERR_IO, ERR_STORAGE_FULL, ERR_NUMERIC,
 * ERR_INVALID (nothing to read, a token that the model does not have), ERR_NOMEM. */
int bake_run(const struct bake *b, struct err *e) __attribute__((warn_unused_result));

#endif
