/* Diffusers: trained diffusion transformers that make and edit recurrent states of one model.
 *
 *     struct diffuser *d;
 *     diffuser_open("diffuser.safetensors", &d, &e);
 *     struct diffuser_condition c = {.vector = v, .label = DIFFUSER_VECTOR};   one text's vector
 *     struct diffuser_job job = {.n = 1, .condition = &c, .states = state};
 *     diffuser_run(d, pool, &(struct diffuser_options)DIFFUSER_OPTIONS, &job, &e);
 *     diffuser_close(d);
 *
 * The vector of a text is what engine/train/bake.h says: the mean of the model's final hidden
 * states over separator and text. With a `start`, a job edits: SDEdit (noise is added up to
 * `strength`, then taken off under the condition), DDIM inversion (the noise is found under
 * `source` instead of drawn), inpainting (tokens marked in `keep` stay the start's own, bit for
 * bit).
 *
 * Every sample comes from its own seed and place alone: its bytes do not depend on how many are made together or by
 * how many threads. Another guidance of exactly 1 or not, or another build, may change the last bits; bf16 changes
 * some thousandths of a state.
 *
 * Memory of a run: a thread's work area (about 23 n_embd + 3 n_mlp floats for each of 2 n_token rows or, with bf16, of
 * 512 if these are more), and 40 bytes a coordinate of at most 16 samples a thread. Threads: a diffuser is read-only
 * once open and shared; a run uses its pool, one run at a time per pool. */
#ifndef ENGINE_DIT_H
#define ENGINE_DIT_H

#include "engine/dit/dataset.h"
#include "engine/dit/sampler.h"
#include "engine/kernels/pool.h"

struct diffuser;

struct diffuser_info {
    struct state_shape shape;  /* of the states it makes */
    char fingerprint[65];      /* of the model they are for */
    size_t n_token, token_dim; /* coordinates of a state: n_token x token_dim */
    size_t n_embd, n_head, n_block, n_mlp;
    size_t n_params, weight_bytes; /* of the transformer */
    size_t codec_bytes;
    bool per_token, shifts;
    size_t cond_dim;          /* of a condition's vector: the model's width */
    const char *const *label; /* [n_label] conditions it knows by name */
    size_t n_label;
    enum dit_schedule_kind schedule;
    enum dit_prediction prediction;
    uint64_t steps; /* trained */
};

/* ERR_IO, ERR_FORMAT (what is wrong; nothing of the size a file claims is allocated before it is
 * known to be there), ERR_NOMEM. */
int diffuser_open(const char *path, struct diffuser **out, struct err *e)
    __attribute__((warn_unused_result));
/* The same over bytes that stay alive and unchanged until this returns. */
int diffuser_open_memory(const void *bytes, size_t n, struct diffuser **out, struct err *e)
    __attribute__((warn_unused_result));
void diffuser_close(struct diffuser *d); /* NULL is fine */
const struct diffuser_info *diffuser_get_info(const struct diffuser *d);
/* The index of a label, or -1. */
int32_t diffuser_label(const struct diffuser *d, const char *name);
/* The token of a head's matrix, or of a layer's shift vector (0 att, 1 ffn); -1 if there is
 * none. */
int64_t diffuser_matrix_token(const struct diffuser_info *i, size_t layer, size_t head);
int64_t diffuser_shift_token(const struct diffuser_info *i, size_t layer, size_t which);

/* States [n, S] to coordinates [n, n_token, token_dim]. ERR_NOMEM. */
int diffuser_encode(const struct diffuser *d, const float *states, size_t n, float *coordinates,
                    struct err *e) __attribute__((warn_unused_result));

#define DIFFUSER_NONE   (-1)
#define DIFFUSER_VECTOR (-2)
struct diffuser_condition {
    int32_t label;       /* an index, DIFFUSER_NONE, or DIFFUSER_VECTOR */
    const float *vector; /* [cond_dim] */
};

struct diffuser_options {
    size_t steps; /* of denoising, 2 to DIT_TIMESTEPS */
    enum dit_scheduler scheduler;
    double eta;
    double guidance; /* 1: the condition alone; more: away from the negative one */
    double clip;     /* cut predicted coordinates to [-clip, clip]; 0: not */
    uint64_t seed;
    bool bf16; /* round operands of products with weights, where this CPU multiplies BF16 faster */
    struct diffuser_condition negative; /* what guidance leads away from; usually none */
};
#define DIFFUSER_OPTIONS                                                                           \
    {                                                                                              \
        .steps = 20, .scheduler = DIT_DDIM, .guidance = 1.5, .bf16 = true, .negative = {           \
            .label = DIFFUSER_NONE                                                                 \
        }                                                                                          \
    }

struct diffuser_job {
    size_t n;                                   /* states to make */
    const struct diffuser_condition *condition; /* [n] */
    uint32_t first;     /* the number of the first one in its seed's sequence */
    const float *start; /* [n, S] states to edit; NULL: from noise alone */
    double strength;    /* with start: (0, 1], how much of the way to noise */
    const struct diffuser_condition *source; /* [n] with start: invert under these; NULL: draw */
    const uint8_t *keep;                     /* with start: [n_token], 1: as in start; NULL: none */
    float *states;                           /* out: [n, S] */
    float *coordinates;                      /* out: [n, n_token, token_dim], or NULL */
    /* Called on the calling thread after each denoising step of each group of samples; false stops.
     * NULL: never stopped. */
    bool (*proceed)(void *ctx, size_t done, size_t total);
    void *ctx;
};

/* ERR_INVALID (an option out of its range, named in param), ERR_CANCELLED, ERR_NUMERIC (a result is
 * not finite), ERR_NOMEM. */
int diffuser_run(const struct diffuser *d, struct pool *pool, const struct diffuser_options *o,
                 const struct diffuser_job *job, struct err *e) __attribute__((warn_unused_result));

#endif
