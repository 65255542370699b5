/* Running a diffuser for a generation or an edit: conditions become vectors, then states are sampled.
 *
 * Threads: THREAD_LANE; it yields between two denoising steps. */
#ifndef DAEMON_DIFFUSION_H
#define DAEMON_DIFFUSION_H

#include "daemon/diffusers.h"

/* What can be refused before it waits. prefix stands before a field's name in error.param. */
int diffusion_check(const struct diffusion *d, const char *prefix, struct err *e);

/* The mean over the texts of their vectors: out [n_embd]. The texts' ids are taken. As
 * errand_proceed, and those of service_embed. */
int diffusion_embed_take(const struct errand_run *r, struct token_list *texts, size_t n, float *out,
                         struct err *e);

struct diffusion_job {
    size_t n;                     /* states to make */
    uint32_t first;               /* number of the first one in the seed's sequence */
    const float *start;           /* [S], with n = 1: the state to edit; NULL: from noise */
    const struct edit_op *select; /* with d->masked: the blocks that may change */
    float *states;                /* out [n, S], or with take: [batch, S] */
    size_t batch;                 /* with take: so many are made at a time */
    /* NULL, or gets states [n, S] from number i of the n on, as they are made. */
    int (*take)(void *ctx, size_t i, size_t n, const float *states, struct err *e);
    /* NULL, or between two steps in place of errand_proceed: done of `total` steps of a batch, which begins at
     * number i. */
    int (*proceed)(void *ctx, size_t i, size_t done, size_t total, struct err *e);
    void *ctx;
};
/* Fills in what d used. ERR_CONDITION_NOT_FOUND, ERR_MODEL_MISMATCH, ERR_NOT_FINITE, those of
 * diffusers_use and of errand_proceed, of take and proceed, ERR_NOMEM. */
int diffusion_run(const struct errand_run *r, struct diffusion *d, const struct diffusion_job *job,
                  struct err *e);
/* What diffusion_run would refuse before it reads a text: the diffuser, which is filled in, and all
 * conditions with a name. */
int diffusion_look(const struct errand_run *r, struct diffusion *d, struct err *e);

#endif
