/* Inside `bench speed`: how fast a diffusion transformer over states trains and samples, through the same
 * calls as `train dit` and the service.
 *
 * A data set of random states of the shape is written to a folder of its own and trained on for some steps;
 * the diffuser that leaves makes states. The folder is removed. */
#ifndef DAEMON_BENCH_DIT_H
#define DAEMON_BENCH_DIT_H

#include "engine/dit/dataset.h"
#include "engine/kernels/pool.h"

struct bench_dit {
    struct state_shape shape; /* of the states */
    size_t rows, steps;       /* of the data set; of training, in batches of `batch` states */
    size_t n_embd, n_head, batch;
};

struct bench_dit_speed {
    double sgemm; /* GFLOP/s of OpenBLAS just before: 2048^3, each thread its own rows, the best of five */
    size_t n_params, n_token;
    struct bench_dit_products {
        double samples_per_s; /* of training, all threads: forward, backward, AdamW, average */
        double gflops;  /* multiply-adds of the blocks' products, counted twice, forward and backward */
        double one_ms;  /* a state in 20 steps with guidance, one thread */
        double each_ms; /* the same, of 16 made together by all threads */
    } with[2];          /* F32 products; BF16 ones, 0 where this CPU has none */
};

/* ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. */
int measure_dit(const struct bench_dit *b, struct pool *one, struct pool *pool,
                struct bench_dit_speed *out, struct err *e) __attribute__((warn_unused_result));

#endif
