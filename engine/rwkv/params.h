/* The parameters of an RWKV-7 model as one flat array: names, shapes and places.
 *
 * Training keeps weights, gradients and optimiser moments as flat arrays of `count` numbers, so
 * that each of zeroing, clipping, AdamW and saving is one loop. Names, shapes and order are those
 * of the reference trainer's state dict; blocks.0.att.v0/v1/v2, which nothing reads, are left out.
 * Each tensor starts on a 64-byte boundary (of floats); the gaps are zero and stay zero.
 *
 * Threads: read-only once made. */
#ifndef ENGINE_RWKV_PARAMS_H
#define ENGINE_RWKV_PARAMS_H

#include "daemon/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct tensor_file;

struct rwkv_shape {
    size_t n_layer, n_embd, head_size, n_ffn, n_vocab; /* L C N F V */
    size_t rank_w, rank_a, rank_v, rank_g;
};

/* How the optimiser treats a tensor (reference rules). */
enum rwkv_group {
    RWKV_GROUP_PLAIN, /* learning rate x1, no weight decay */
    RWKV_GROUP_W0,    /* learning rate x2, no weight decay: att.w0 */
    RWKV_GROUP_DECAY, /* x1, weight decay: every matrix of rank >= 2 named *.weight */
};

struct rwkv_param {
    char name[48];
    int n_dims;
    size_t shape[3];
    size_t offset, count; /* in the flat array */
    enum rwkv_group group;
};

/* id, name, dimensions as a string of letters (1 C H N F and w a v g for the ranks) */
/* clang-format off */
#define RWKV_LAYER_PARAMS(XX)                                                                      \
    XX(LN1_W, "ln1.weight", "C") XX(LN1_B, "ln1.bias", "C")                                        \
    XX(LN2_W, "ln2.weight", "C") XX(LN2_B, "ln2.bias", "C")                                        \
    XX(LN0_W, "ln0.weight", "C") XX(LN0_B, "ln0.bias", "C")                                        \
    XX(X_R, "att.x_r", "11C") XX(X_W, "att.x_w", "11C") XX(X_K, "att.x_k", "11C")                  \
    XX(X_V, "att.x_v", "11C") XX(X_A, "att.x_a", "11C") XX(X_G, "att.x_g", "11C")                  \
    XX(W1, "att.w1", "Cw") XX(W2, "att.w2", "wC") XX(W0, "att.w0", "11C")                          \
    XX(A1, "att.a1", "Ca") XX(A2, "att.a2", "aC") XX(A0, "att.a0", "11C")                          \
    XX(V1, "att.v1", "Cv") XX(V2, "att.v2", "vC") XX(V0, "att.v0", "11C")                          \
    XX(G1, "att.g1", "Cg") XX(G2, "att.g2", "gC")                                                  \
    XX(K_K, "att.k_k", "11C") XX(K_A, "att.k_a", "11C") XX(R_K, "att.r_k", "HN")                   \
    XX(REC, "att.receptance.weight", "CC") XX(KEY, "att.key.weight", "CC")                         \
    XX(VAL, "att.value.weight", "CC") XX(OUT, "att.output.weight", "CC")                           \
    XX(LNX_W, "att.ln_x.weight", "C") XX(LNX_B, "att.ln_x.bias", "C")                              \
    XX(FX_K, "ffn.x_k", "11C") XX(FKEY, "ffn.key.weight", "FC") XX(FVAL, "ffn.value.weight", "CF")
/* clang-format on */

enum rwkv_layer_param {
#define XX(id, name, dims) RWKV_P_##id,
    RWKV_LAYER_PARAMS(XX)
#undef XX
        RWKV_P_COUNT
};

struct rwkv_layout {
    struct rwkv_shape shape;
    size_t n_head;
    struct rwkv_param *param; /* [n], in the order of the file */
    size_t n;
    size_t count;                         /* numbers in the flat array, gaps included */
    size_t n_params;                      /* without the gaps */
    size_t emb, ln_out_w, ln_out_b, head; /* offsets */
    size_t (*layer)[RWKV_P_COUNT]; /* [L]: offsets; SIZE_MAX where a layer has no such tensor */
};

/* The reference trainer's LoRA ranks for a width. */
void rwkv_default_ranks(struct rwkv_shape *s);
/* ERR_INVALID for a shape that cannot be (head size not a multiple of 16 up to 128, ...),
 * ERR_NOMEM. */
int rwkv_layout_init(struct rwkv_layout *l, const struct rwkv_shape *s, struct err *e)
    __attribute__((warn_unused_result));
void rwkv_layout_fini(struct rwkv_layout *l); /* a zeroed one is fine */
const struct rwkv_param *rwkv_layout_find(const struct rwkv_layout *l, const char *name);

/* The shape of a model file in the reference's order (safetensors or .pth), from its tensors. */
int rwkv_shape_read(struct rwkv_shape *s, const struct tensor_file *f, struct err *e)
    __attribute__((warn_unused_result));
/* Whether the file has every parameter in its shape: to be asked before anything is allocated by
 * the shape, which a file could otherwise claim at will. ERR_FORMAT. */
int rwkv_params_check(const struct rwkv_layout *l, const struct tensor_file *f, struct err *e)
    __attribute__((warn_unused_result));
/* All parameters from the file into flat [count], checked as above. */
int rwkv_params_read(const struct rwkv_layout *l, float *flat, const struct tensor_file *f,
                     struct err *e) __attribute__((warn_unused_result));
/* Writes them as safetensors, F32 or BF16, whole or not at all. */
int rwkv_params_write(const struct rwkv_layout *l, const float *flat, const char *path, int bf16,
                      struct err *e) __attribute__((warn_unused_result));

/* The reference's initialisation (RWKV-LM train_temp, generate_init_weight included). ERR_NOMEM. */
int rwkv_params_init(const struct rwkv_layout *l, float *flat, uint64_t seed, struct err *e)
    __attribute__((warn_unused_result));

/* The vectors that shape a layer's recurrence, as one array: theta [L, RWKV_THETA, C], in this
 * order. Decay exp(-e^(-1/2) sigmoid(w0 + ...)), in-context rate sigmoid(a0 + ...), value residual
 * sigmoid(v0 + ...) (nothing reads layer 0's, which is 0), removal and replacement keys, bonus. */
enum rwkv_theta { RWKV_W0, RWKV_A0, RWKV_V0, RWKV_K_K, RWKV_K_A, RWKV_R_K, RWKV_THETA };

/* Theta of rank r > 0 also adds to receptance, key and value: W x becomes W x + B (A x). Behind the six
 * of a layer stand, for each of the three in this order, the rows of A [r, C] and then the columns of
 * B [C, r], as [r, C]: theta is [L, rwkv_theta_groups(r), C]. */
enum rwkv_low { RWKV_LOW_R, RWKV_LOW_K, RWKV_LOW_V, RWKV_LOW };
#define RWKV_MAX_RANK 8
static inline size_t rwkv_theta_groups(size_t rank)
{
    return RWKV_THETA + 2 * RWKV_LOW * rank;
}
/* The vector of a layer where A of q begins; B begins `rank` vectors behind it. */
static inline size_t rwkv_theta_low(size_t rank, enum rwkv_low q)
{
    return RWKV_THETA + 2 * rank * q;
}
/* A model's own: B is 0, so that it adds nothing, and A, which B's gradient comes through, is uniform of
 * variance 1 / C, the same numbers for every model and rank. Those of a layer, behind its six vectors. */
void rwkv_theta_own_low(float *theta, size_t layer, size_t C, size_t rank);

static inline size_t rwkv_layout_theta(const struct rwkv_layout *l, size_t rank)
{
    return l->shape.n_layer * rwkv_theta_groups(rank) * l->shape.n_embd;
}
/* Those of flat. */
void rwkv_params_theta(const struct rwkv_layout *l, const float *flat, size_t rank, float *theta);

/* Numbers of one sequence's state: per layer att shift [C], wkv [H, N, N], ffn shift [C] (rwkv.h).
 */
static inline size_t rwkv_layout_state(const struct rwkv_layout *l)
{
    return l->shape.n_layer * (2 * l->shape.n_embd + l->shape.n_embd * l->shape.head_size);
}

#endif
