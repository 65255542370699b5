/* RWKV-7 ("x070") language models: load a file, step batches of sequences.
 *
 *     struct rwkv_model *m;
 *     rwkv_open("model.safetensors", &(struct rwkv_options){.weights_type = -1}, pool, &m, &e);
 *     struct rwkv_session *s = rwkv_session_new(m, pool, 64, &e);
 *     float *state = rwkv_state_new(m);                        all zero: before the first token
 *     struct rwkv_seq q = {.tokens = ids, .n_tokens = n, .state = state, .logits = logits};
 *     rwkv_eval(s, &q, 1, &e);                                 state and logits are now after ids[n-1]
 *
 * One call evaluates any number of sequences of any lengths together, reading each weight once a
 * block of rows: decoding is n sequences of one token, prefill one of many; both mix freely.
 *
 * Determinism: each output element is summed by one thread in an order fixed by the weight's shape
 * and type. For one build, kernel set and weights type the bytes of state, logits and hidden depend on the
 * sequence's tokens alone: not on the batch, the split into calls, or the number of threads.
 *
 * The arithmetic is that of RWKV-LM's train_temp/rwkv_v7_demo.py (Peng et al. 2025, arXiv
 * 2503.14456), state, decay and norms in F32. Weights are held as the file stores them or as asked.
 *
 * Threads: a model is read-only after rwkv_open and shared freely; a session belongs to one thread at
 * a time and uses its pool. Ownership: the caller frees what it made; sessions before their model. */
#ifndef ENGINE_RWKV_H
#define ENGINE_RWKV_H

#include "daemon/base/err.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/pool.h"
#include "engine/tensor/dtype.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rwkv_info {
    size_t n_layer;                     /* L */
    size_t n_embd;                      /* C */
    size_t head_size;                   /* N: 32, 64 or 128 */
    size_t n_head;                      /* H = C / N */
    size_t n_ffn;                       /* F */
    size_t n_vocab;                     /* V */
    size_t rank_w, rank_a, rank_v, rank_g; /* of the LoRA pairs */
    uint64_t n_params;
    size_t file_weight_bytes;           /* of the weights as the file stores them */
    size_t weight_bytes;                /* read for one token: all but the embedding table */
    enum dtype weights_type;            /* of the large matrices in memory */
    bool has_time_state;                /* the file also holds blocks.*.att.time_state */
    char fingerprint[65];               /* SHA-256 over the canonical tensors, hex; see design */
};

struct rwkv_options {
    int weights_type;   /* an enum dtype: F32, F16, BF16, Q8_0 or Q4_0; -1: as the file has it (these,
                           Q4_K, Q5_K and Q6_K; any other is held as F32) */
    enum cpu_level cpu; /* the SIMD level to stay at or below; 0 (CPU_AUTO): see cpu.h */
};

struct kern;
struct tensor_file;
struct rwkv_model;
struct rwkv_session;

/* Reads a .pth, .safetensors (BlinkDL or Ai00 order) or .gguf model, with `pool` for the conversion.
 * ERR_IO, ERR_FORMAT (which tensor, found, wanted), ERR_UNSUPPORTED, ERR_NOMEM. */
int rwkv_open(const char *path, const struct rwkv_options *o, struct pool *pool,
              struct rwkv_model **out, struct err *e) __attribute__((warn_unused_result));
void rwkv_close(struct rwkv_model *m); /* NULL is fine */
const struct rwkv_info *rwkv_get_info(const struct rwkv_model *m);
const struct kern *rwkv_get_kern(const struct rwkv_model *m); /* of its level; the model's own */
/* The file it was read from, open as long as the model. */
const struct tensor_file *rwkv_get_file(const struct rwkv_model *m);

/* The state of one sequence: rwkv_state_floats F32 numbers, layer by layer
 *     att_shift [C]   wkv [H, N (value), N (key)]   ffn_shift [C]
 * shift vectors are LayerNorm outputs of the previous token. All zero before the first token. */
size_t rwkv_state_floats(const struct rwkv_info *i);
float *rwkv_state_new(const struct rwkv_info *i); /* zeroed, 64-byte aligned; free(); NULL: no memory */
static inline float *rwkv_state_att_shift(const struct rwkv_info *i, float *state, size_t layer)
{
    return state + layer * (2 * i->n_embd + i->n_embd * i->head_size);
}
static inline float *rwkv_state_wkv(const struct rwkv_info *i, float *state, size_t layer)
{
    return rwkv_state_att_shift(i, state, layer) + i->n_embd;
}
static inline float *rwkv_state_ffn_shift(const struct rwkv_info *i, float *state, size_t layer)
{
    return rwkv_state_wkv(i, state, layer) + i->n_embd * i->head_size;
}

/* Scratch for calls of up to max_rows tokens computed together (longer calls are cut into such blocks,
 * which changes no byte of the result). `pool` must outlive it. NULL: no memory. */
struct rwkv_session *rwkv_session_new(const struct rwkv_model *m, struct pool *pool, size_t max_rows,
                                      struct err *e) __attribute__((warn_unused_result));
void rwkv_session_free(struct rwkv_session *s);
size_t rwkv_session_bytes(const struct rwkv_session *s);
/* Threads of the pool that the last block was given, 1 before the first: fewer than it has while other programs hold
 * cores. */
int rwkv_session_parts(const struct rwkv_session *s);

/* The vectors theta [L, 6 + 6 rank, C] of the recurrence in the order w0, a0, v0, k_k, k_a, r_k (params.h:
 * RWKV_THETA; layer 0's v0 is 0 and never read), as the model has them, and with a rank, up to 8, low-rank
 * additions to receptance, key and value (params.h), which are 0 in every model. */
size_t rwkv_theta_floats(const struct rwkv_info *i, size_t rank);
void rwkv_get_theta(const struct rwkv_model *m, size_t rank, float *theta);

struct rwkv_seq {
    const uint32_t *tokens; /* [n_tokens], each below n_vocab */
    size_t n_tokens;        /* at least 1 */
    float *state;           /* in and out; distinct for each sequence of a call */
    const float *theta;     /* [L, 6 + 6 rank, C] these vectors instead of the model's, which give the
                               same bytes where they are the same numbers; read only; NULL: the model's */
    size_t rank;            /* of theta's low-rank additions, F32 whatever the weights' type */
    float *logits;          /* out: [V] after the last token, or [n_tokens, V] with all_logits; or NULL */
    bool all_logits;
    float *hidden;          /* out: [n_tokens, C] LN_out after each token, what the head multiplies; or
                               NULL. Asking for it changes no byte of anything else */
    const atomic_bool *cancel; /* read once a layer; NULL: none. Once it is true, a sequence that stands
                               behind all others that go on may be given up */
    bool given_up;          /* out: it was: its state, logits and hidden are undefined */
    bool not_finite;        /* out: its state or logits are no longer finite numbers (ERR_NUMERIC) */
};

/* Feeds every sequence its tokens. On ERR_INVALID (a token outside the vocabulary) nothing was
 * changed. On ERR_NUMERIC (a state or logits not finite: the first sequence is named) those with
 * not_finite are undefined, the others are whole: they share no arithmetic. */
int rwkv_eval(struct rwkv_session *s, struct rwkv_seq *seqs, size_t n_seqs, struct err *e)
    __attribute__((warn_unused_result));

#endif
