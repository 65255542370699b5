/* The parameters of a Diffusion Transformer as one flat array: names, shapes and places, as
 * engine/rwkv/params.h does it.
 *
 * Tokens are what a codec makes of a state: n_token vectors of token_dim numbers. With per_token
 * each has input and output matrices of its own, else all share one pair (then it is the plain DiT
 * of Peebles and Xie 2023), stored [in, out]; biases are always a token's own, and so are its
 * position embedding.
 *
 * With a context, each block attends to its rows between self-attention and MLP: x += proj
 * attention(norm(x), context), as PixArt-alpha does (Chen et al. 2023), proj being 0 at first.
 *
 * Threads: read-only once made. */
#ifndef ENGINE_DIT_PARAMS_H
#define ENGINE_DIT_PARAMS_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tensor;
struct tensor_file;

#define DIT_FREQ 256 /* numbers of a timestep's sinusoid */

struct dit_shape {
    size_t n_token, token_dim; /* n D */
    size_t n_embd, n_head;     /* C H */
    size_t n_block, n_mlp;     /* L F */
    size_t cond_dim;           /* of a condition's vector; 0: none */
    size_t n_label;            /* named conditions beside the vectors; may be 0 */
    size_t context_dim;        /* X, of the rows that the tokens attend to; 0: no such attention */
    size_t max_context;        /* M, rows of one sample */
    bool per_token;
};

struct dit_param {
    char name[48];
    int n_dims;
    size_t shape[3];
    size_t offset, count; /* in the flat array */
};

/* id, name, dimensions as a string of letters (3, 6: multiples of C; 2 the same; P: places with a
 * matrix of their own; K: DIT_FREQ; Q: n_label + 1) */
/* clang-format off */
#define DIT_GLOBAL_PARAMS(XX)                                                                      \
    XX(X_W, "x_proj.weight", "PDC") XX(X_B, "x_proj.bias", "nC")                                   \
    XX(T0_W, "t_embed.0.weight", "CK") XX(T0_B, "t_embed.0.bias", "C")                             \
    XX(T2_W, "t_embed.2.weight", "CC") XX(T2_B, "t_embed.2.bias", "C")                             \
    XX(Y0_W, "cond_embed.0.weight", "CY") XX(Y0_B, "cond_embed.0.bias", "C")                       \
    XX(Y2_W, "cond_embed.2.weight", "CC") XX(Y2_B, "cond_embed.2.bias", "C")                       \
    XX(LABEL, "label_embed.weight", "QC")                                                          \
    XX(FMOD_W, "final.adaln.weight", "2C") XX(FMOD_B, "final.adaln.bias", "2")                     \
    XX(OUT_W, "final.out.weight", "PCD") XX(OUT_B, "final.out.bias", "nD")
#define DIT_BLOCK_PARAMS(XX)                                                                       \
    DIT_BLOCK_PLAIN(XX) DIT_BLOCK_CROSS(XX)
#define DIT_BLOCK_PLAIN(XX)                                                                        \
    XX(MOD_W, "adaln.weight", "6C") XX(MOD_B, "adaln.bias", "6")                                   \
    XX(QKV_W, "qkv.weight", "3C") XX(QKV_B, "qkv.bias", "3")                                       \
    XX(PROJ_W, "proj.weight", "CC") XX(PROJ_B, "proj.bias", "C")                                   \
    XX(FC1_W, "fc1.weight", "FC") XX(FC1_B, "fc1.bias", "F")                                       \
    XX(FC2_W, "fc2.weight", "CF") XX(FC2_B, "fc2.bias", "C")
/* Only with a context. */
#define DIT_BLOCK_CROSS(XX)                                                                        \
    XX(CN_W, "cross.norm.weight", "C") XX(CN_B, "cross.norm.bias", "C")                            \
    XX(CQ_W, "cross.q.weight", "CC") XX(CQ_B, "cross.q.bias", "C")                                 \
    XX(CKV_W, "cross.kv.weight", "2X") XX(CKV_B, "cross.kv.bias", "2")                             \
    XX(CPROJ_W, "cross.proj.weight", "CC") XX(CPROJ_B, "cross.proj.bias", "C")
/* clang-format on */

enum dit_global_param {
#define XX(id, name, dims) DIT_P_##id,
    DIT_GLOBAL_PARAMS(XX)
#undef XX
        DIT_P_GLOBALS
};
enum dit_block_param {
#define XX(id, name, dims) DIT_B_##id,
    DIT_BLOCK_PARAMS(XX)
#undef XX
        DIT_B_COUNT
};

struct dit_layout {
    struct dit_shape shape;
    struct dit_param *param; /* [n], in the order of the file */
    size_t n;
    size_t count;                 /* numbers in the flat array, gaps included */
    size_t n_params;              /* without the gaps */
    size_t global[DIT_P_GLOBALS]; /* offsets; SIZE_MAX: this shape has no such tensor */
    size_t (*block)[DIT_B_COUNT]; /* [L] */
};

/* ERR_INVALID for a shape that cannot be (the size at fault is named), ERR_NOMEM. */
int dit_layout_init(struct dit_layout *l, const struct dit_shape *s, struct err *e)
    __attribute__((warn_unused_result));
void dit_layout_fini(struct dit_layout *l); /* a zeroed one is fine */

/* DiT's initialisation: matrices Xavier-uniform, biases 0, embeddings N(0, 0.02), everything that
 * gates or ends a branch 0, so that the network starts as a constant. */
void dit_params_init(const struct dit_layout *l, float *flat, uint64_t seed);

/* Fills t [l->n] with the tensors of flat for a writer. */
void dit_params_tensors(const struct dit_layout *l, const float *flat, struct tensor *t);
/* Whether a file has every parameter in its shape, to be asked before anything is allocated by the
 * shape, which a file could otherwise claim at will. ERR_FORMAT. */
int dit_params_check(const struct dit_layout *l, const struct tensor_file *f, struct err *e)
    __attribute__((warn_unused_result));
/* From a file that was checked into flat [count]. */
void dit_params_read(const struct dit_layout *l, float *flat, const struct tensor_file *f);

#endif
