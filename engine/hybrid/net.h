/* Inside engine/hybrid and engine/train: what a hybrid is made of, its file, its sampling. */
#ifndef ENGINE_HYBRID_NET_H
#define ENGINE_HYBRID_NET_H

#include "engine/dit/sampler.h"
#include "engine/hybrid/chain.h"
#include "engine/hybrid/hybrid.h"

struct hybrid {
    struct hybrid_info info;
    struct dit_layout layout;
    struct dit_schedule schedule;        /* cosine, all of its timesteps */
    float *params;                       /* [hybrid_count] */
    float *scale;                        /* [L, G] of a group's deltas (chain.h); 0: it has none */
    float *context_mean, *context_scale; /* [X]: the network sees (row - mean) / scale */
};

void hybrid_fini(struct hybrid *h); /* a zeroed one is fine */
/* The layout and schedule for info.shape, info.rank, info.max_context and the network's sizes
 * in s, whose other members are set here. ERR_INVALID, ERR_NOMEM. */
int hybrid_init(struct hybrid *h, const struct dit_shape *s, struct err *e)
    __attribute__((warn_unused_result));
/* One safetensors file, whole or not at all, the transformer in F16. h must be complete. ERR_NUMERIC: a
 * weight that F16 cannot hold. */
int hybrid_write(const struct hybrid *h, const char *path, struct err *e)
    __attribute__((warn_unused_result));

/* The rows of a context so far, [at most max_context, X], as they are; their number. */
size_t hybrid_context_rows(const struct hybrid_context *c, float *out);
/* Rows [n, X] as the network sees them. */
void hybrid_normalise(const struct hybrid *h, float *rows, size_t n);

/* Sampling of coordinates [n, D] under one context: `steps` steps of DDIM at timesteps evenly spread
 * up to the last. */
struct hybrid_sampling {
    const struct dit_layout *l;
    struct dit_schedule steps;
    struct dit_solver solver;
    struct dit_work_f32 *work;
    float *in, *out, *context; /* [n D], [n D], [M, X] */
    double *v;                 /* [n D] */
};
int hybrid_sampling_init(struct hybrid_sampling *g, const struct hybrid *h, size_t steps,
                         const struct nn_f32 *op, struct err *e) __attribute__((warn_unused_result));
void hybrid_sampling_fini(struct hybrid_sampling *g); /* a zeroed one is fine */
/* From x [n D], noise, to the sample, or (not whole) to what the last step begins with, which with one
 * step is the noise itself. context [n, X], normalised. */
void hybrid_sampling_run(struct hybrid_sampling *g, const float *params, const float *context,
                         size_t n, double *x, bool whole);

#endif
