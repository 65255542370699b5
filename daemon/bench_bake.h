/* Inside the benches on states: texts read into states in memory, as engine/train/bake.h reads them into
 * datasets. One thread calls; the pool works inside. */
#ifndef DAEMON_BENCH_BAKE_H
#define DAEMON_BENCH_BAKE_H

#include "engine/rwkv/rwkv.h"
#include "engine/tokenizer/tokenizer.h"

#define BENCH_TEXT 256 /* bytes of a text at most */

struct bench_text {
    const char *text;
    size_t n;
};

struct bench_baker {
    const struct rwkv_model *model;
    struct pool *pool;
    const struct tokenizer *tokenizer;
};

/* Of n texts: the states without shift vectors [n, S], with their own [n, S], and the vectors, which are
 * the conditions [n, C]. The last two may be NULL. */
struct bench_baked {
    float *state, *own, *vector;
};

/* ERR_INVALID (a token that the model does not have), ERR_NUMERIC, ERR_NOMEM. */
int bench_bake(const struct bench_baker *b, const struct bench_text *t, size_t n,
               const struct bench_baked *to, struct err *e) __attribute__((warn_unused_result));

#endif
