/* Hybrids: a parameter transformer that reads a context of any length and gives one model the
 * vectors of its recurrence for it.
 *
 *     struct hybrid *h;
 *     hybrid_open("hybrid.safetensors", &h, &e);
 *     struct hybrid_context *c = hybrid_context_new(h, model, &e);
 *     hybrid_context_feed(c, session, tokens, n, &e);           any number of times
 *     hybrid_adjust(h, c, &(struct hybrid_options)HYBRID_OPTIONS, theta, &norms, &e);
 *     struct rwkv_seq q = {..., .theta = theta, .rank = rank};  as long as one likes
 *
 * A context is read once, in memory that does not depend on its length, and theta [L, G, C] (rwkv.h),
 * of the hybrid's rank, can be kept and shared. At strength 0 theta is the model's own, bit for bit. What
 * keeps a result sane whatever the weights say: see chain.h.
 *
 * The same context, options and build give the same bytes. Threads: a hybrid is read-only once open
 * and shared; a context belongs to one thread at a time. */
#ifndef ENGINE_HYBRID_H
#define ENGINE_HYBRID_H

#include "engine/dit/dataset.h"
#include "engine/rwkv/rwkv.h"

struct hybrid;
struct hybrid_context;

struct hybrid_info {
    struct state_shape shape; /* of the model */
    char fingerprint[65];     /* of the model it is for */
    size_t rank;              /* of theta's low-rank additions (rwkv.h); 0: it has none */
    size_t max_context;       /* rows that a context is pooled to, at most */
    size_t sampling_steps;    /* that it was trained with */
    size_t n_embd, n_head, n_block, n_mlp;
    size_t n_params, weight_bytes;
    uint64_t steps; /* trained */
};

/* ERR_IO, ERR_FORMAT (what is wrong; nothing of the size a file claims is allocated before it is
 * known to be there), ERR_NOMEM. */
int hybrid_open(const char *path, struct hybrid **out, struct err *e)
    __attribute__((warn_unused_result));
/* The same over bytes that stay alive and unchanged until this returns. */
int hybrid_open_memory(const void *bytes, size_t n, struct hybrid **out, struct err *e)
    __attribute__((warn_unused_result));
void hybrid_close(struct hybrid *h); /* NULL is fine */
const struct hybrid_info *hybrid_get_info(const struct hybrid *h);
/* A layer's vectors, which are the groups of alpha: G, 6 + 6 rank (params.h). */
size_t hybrid_get_groups(const struct hybrid *h);
/* What a group is called: "w0", "r_k", "receptance.a.0", "value.b.7". */
void hybrid_group_name(size_t group, size_t rank, char name[24]);
/* Alpha of a layer's group: how much of the model's own vector stays. */
double hybrid_alpha(const struct hybrid *h, size_t layer, size_t group);

/* An empty context for a model, which must be the hybrid's (ERR_INVALID); both must outlive it. NULL
 * on failure. */
struct hybrid_context *hybrid_context_new(const struct hybrid *h, const struct rwkv_model *m,
                                          struct err *e) __attribute__((warn_unused_result));
void hybrid_context_free(struct hybrid_context *c); /* NULL is fine */
/* Reads n more tokens behind those read before. As rwkv_eval; after an error the context is lost. */
int hybrid_context_feed(struct hybrid_context *c, struct rwkv_session *s, const uint32_t *tokens,
                        size_t n, struct err *e) __attribute__((warn_unused_result));
/* The same where the caller has read them, from the zero state on: their final hidden states [n, C]
 * (rwkv_seq.hidden). */
void hybrid_context_add(struct hybrid_context *c, const float *hidden, size_t n);

/* The model's state behind all that was read (rwkv.h), as its own vectors make it. */
const float *hybrid_context_state(const struct hybrid_context *c);

struct hybrid_options {
    double strength; /* 0 to 4: 0 is the model itself, 1 as trained */
    uint32_t steps;  /* of sampling, 1 to 100; 0: as trained */
    uint64_t seed;
};
#define HYBRID_OPTIONS                                                                             \
    {                                                                                              \
        .strength = 1                                                                              \
    }

/* What was done to the vectors, over all layers: |change| / |own| of each of the six (one that is 0 in
 * the model: |change|), |B A| of what is added to receptance, key and value, and the largest coordinate
 * before it was bounded. */
struct hybrid_norms {
    double change[6], low[3], coordinate;
};

/* theta [L, G, C]. ERR_INVALID (an option out of its range, named in param), ERR_NUMERIC, ERR_NOMEM. */
int hybrid_adjust(const struct hybrid *h, const struct hybrid_context *c,
                  const struct hybrid_options *o, float *theta, struct hybrid_norms *norms,
                  struct err *e) __attribute__((warn_unused_result));
/* theta [L, G, C] of a rank and strength 1 becomes that of a strength from 0 (the model's own, bit for
 * bit) to 1 (as it is). ERR_NOMEM. */
int hybrid_weaken(const struct rwkv_model *m, size_t rank, float *theta, double strength,
                  struct err *e) __attribute__((warn_unused_result));

#endif
