/* The clock and the loops of `bench speed`. Every function measures once; the caller repeats them in
 * turn and takes medians. */
#ifndef DAEMON_BENCH_MEASURE_H
#define DAEMON_BENCH_MEASURE_H

#include "engine/rwkv/rwkv.h"

#include <sys/types.h>

/* Bytes/s read from memory by all threads of the pool together, the best of several patterns over
 * `bytes` of fresh memory. 0 without memory. */
double measure_bandwidth(struct pool *pool, size_t bytes);

struct measure_decode {
    size_t n_seqs, steps;
    /* Each sequence has vectors of its own: those of this model, of a rank; NULL: none has. */
    const struct rwkv_model *adjusted;
    size_t rank;
};
/* Tokens/s of n_seqs sequences fed one token a step, `steps` steps, logits of each. */
int measure_decode(struct rwkv_session *s, const struct rwkv_info *i, const struct measure_decode *how,
                   double *tokens_per_s, struct err *e);
/* Tokens/s of one prompt of n tokens, logits after the last. */
int measure_prefill(struct rwkv_session *s, const struct rwkv_info *i, size_t n, double *tokens_per_s,
                    struct err *e);
/* Tokens/s of training steps (forward, backward, AdamW) of a byte model of 4 layers of width 192, batch
 * 8 x 512, `steps` steps; with bf16, its products take operands rounded to BF16 (0 where this CPU has no
 * such products). */
int measure_training(struct pool *pool, size_t steps, bool bf16, double *tokens_per_s, struct err *e);

/* Another program, bound to no core: a child process that counts while it is let run. It rests at first,
 * and ends with the calling thread at the latest. Made before there are threads and much memory, as the child has a
 * copy of them. ERR_UNAVAILABLE. */
int measure_neighbour_new(pid_t *out, struct err *e);
void measure_neighbour_run(pid_t neighbour, bool run);
void measure_neighbour_free(pid_t neighbour); /* 0 is fine */

#endif
