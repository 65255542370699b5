/* What a hybrid learns from: pairs of a context and what follows it a little later, each with the
 * vectors that suit the context.
 *
 * A context ends where a line or sentence ends; its continuations, one behind the other, begin at the
 * first such place `gap` bytes behind it, each at a line or sentence, and are read from the zero state
 * behind the separator, so that what helps them is the manner of the text and not the moment. Kept of a
 * context: the rows of the model's final hidden states over separator and text (hybrid/pooling.h) and, if
 * the recipe has `states`, the model's state behind it, shift vectors zero (bake.h).
 *
 * Target: the delta of theta that gradient descent (hybrid_target.h) finds in two stages: corpus_steps
 * steps on windows of the whole corpus, once a corpus, then from there target_steps steps on windows of
 * the context. Texts held out begin at the vectors of the training's corpus of that name. From the
 * context alone, a few steps do not help its continuation; from the corpus' vectors they need not.
 *
 * Everything depends on the recipe's seed, the corpora and the model alone. Byte models only. */
#ifndef ENGINE_TRAIN_HYBRID_DATA_H
#define ENGINE_TRAIN_HYBRID_DATA_H

#include "engine/kernels/pool.h"
#include "engine/rwkv/rwkv.h"
#include "engine/train/hybrid_recipe.h"

struct hybrid_pairs {
    size_t n, n_train;       /* those held out come behind */
    size_t X, T, n_theta;    /* of a row; bytes of a continuation; numbers of theta */
    size_t M;                /* continuations a pair */
    char fingerprint[65];    /* of the model */
    int64_t *first;          /* [n + 1]: the first row of each pair */
    int64_t *corpus, *bytes; /* [n]: an index; the context's length */
    float *rows;             /* [first[n], X] */
    float *delta;            /* [n, n_theta] */
    uint8_t *text;           /* [n, M, T] */
    size_t S;                /* numbers of a state; 0: there are none */
    uint16_t *state;         /* [n, S] F16 */
};

/* ERR_IO, ERR_FORMAT, ERR_NOMEM. */
int hybrid_pairs_open(struct hybrid_pairs *p, const char *path, struct err *e)
    __attribute__((warn_unused_result));
void hybrid_pairs_close(struct hybrid_pairs *p); /* a zeroed one is fine */

struct hybrid_data {
    const struct hybrid_recipe *r;
    const struct rwkv_model *model;
    const struct rwkv_layout *l;
    const float *weights; /* [l->count] */
    struct pool *pool;
    /* Called between two steps: done of n pairs; false stops. */
    bool (*proceed)(void *ctx, size_t done, size_t n);
    void *ctx;
};
/* Makes r->dataset, whole or not at all; loss: mean nats a byte of the first continuations held
 * out, under the model's own vectors, their corpus' and their targets. ERR_CANCELLED, ERR_INVALID (a corpus too short
 * for its pairs), ERR_IO, ERR_NUMERIC, ERR_NOMEM. */
int hybrid_data_make(const struct hybrid_data *d, double loss[3], struct err *e)
    __attribute__((warn_unused_result));

#endif
