/* The codec between recurrent states and the tokens of a diffusion transformer.
 *
 * A token is one (layer, head) matrix: its element-wise mean over the dataset is taken off, it is
 * projected on the head's K principal components, and the K numbers are divided by their common RMS
 * (scaled, not whitened: whitening fills the low directions with noise). With shifts each layer's
 * two shift vectors are tokens too, projected likewise; without, decoding gives them their means.
 *
 *     z = B (A (X - mean) D^T) / scale        X [N, N], A, D [p, N], B [K, p p]
 *
 * basis p = N: A and D are the identity and B has K N^2 numbers, 1 MB a head at N = 64. p < N: A
 * and D hold the p leading eigenvectors of X X^T and X^T X (a two-sided basis), and B has K p^2.
 * Bases are kept to F16 precision, as the file stores them.
 *
 * Share of the variance of held-out rows that K = 64 loses, and bytes of the file, bases of
 *     N = 32 (bundled model, 24 heads)     p = 32 .138 3.4 MB   24 .155 2.1 MB   16 .193 1.1 MB
 *     N = 64 (4 x 192, trained for five minutes, 12 heads)
 *                                          p = 64 .098 6.7 MB   32 .108 2.1 MB   24 .120 1.4 MB
 *                                          16 .147 0.8 MB
 * p = 0 stands for N up to 32 and for 24 beyond: with K = 64 and N = 64 that is 96 KB a head and
 * 128 C bytes a shift vector, 4 % of a 0.1 B model in BF16 (144 heads), 2 % of one of 7 B (2,048).
 *
 * Tokens are in the order of layers: the heads of layer 0, ...; then with shifts att and ffn shift
 * of layer 0, .... Threads: read-only once made. */
#ifndef ENGINE_DIT_CODEC_H
#define ENGINE_DIT_CODEC_H

#include "engine/dit/dataset.h"
#include "engine/manifold/points.h"
#include "engine/tensor/tensor.h"

struct dit_codec_options {
    size_t components; /* K: 1 to p^2, and to C with shifts */
    size_t basis;      /* p: 1 to N; 0: see above */
    bool shifts;
    size_t max_rows; /* of the dataset to fit on, spread over it; 0: all */
};

struct dit_codec {
    struct state_shape shape;
    size_t K, p, n_head, n_matrix; /* H, L H */
    size_t n_token;                /* n_matrix, + 2 L with shifts */
    bool shifts;
    float *mean;         /* [S] */
    float *scale;        /* [n_token] */
    float *left, *right; /* A, D: [n_matrix, p, N]; NULL with p = N */
    float *basis;        /* B: [n_matrix, K, p p] */
    float *shift_basis;  /* [2 L, K, C]; NULL without shifts */
};

/* What a fit of states of this shape has: all but the arrays. ERR_INVALID: sizes that cannot be. */
int dit_codec_plan(struct dit_codec *c, const struct state_shape *shape,
                   const struct dit_codec_options *o, struct err *e)
    __attribute__((warn_unused_result));
/* Fits on the rows of a dataset that are not held out. ERR_INVALID (options, too few rows),
 * ERR_NOMEM, ERR_CANCELLED. */
int dit_codec_fit(struct dit_codec *c, const struct dataset *d, const struct dit_codec_options *o,
                  const struct manifold_run *run, struct err *e)
    __attribute__((warn_unused_result));
void dit_codec_fini(struct dit_codec *c); /* a zeroed one is fine */

/* States [n, S] to coordinates z [n, n_token, K]. ERR_NOMEM. */
int dit_codec_encode(const struct dit_codec *c, const float *states, size_t n, float *z,
                     struct err *e) __attribute__((warn_unused_result));
/* How many states to encode at a time: at most 64, and together at most 64 MB unless one is
 * larger. */
size_t dit_codec_block(const struct dit_codec *c);
/* Coordinates of one state z [n_token, K] to state [S]. ERR_NOMEM. */
int dit_codec_decode(const struct dit_codec *c, const float *z, float *state, struct err *e)
    __attribute__((warn_unused_result));
/* The share of the variance of rows (held out or not; about 1,000, spread) that encoding and
 * decoding loses: of all matrices together, and of the shift vectors. ERR_INVALID (no such rows),
 * ERR_NOMEM. */
int dit_codec_error(const struct dit_codec *c, const struct dataset *d, bool heldout,
                    double *matrices, double *shifts, struct err *e)
    __attribute__((warn_unused_result));
/* Bytes of its tensors in a file; of a plan too. */
size_t dit_codec_bytes(const struct dit_codec *c);

#define DIT_CODEC_TENSORS 6
/* The tensors for a writer, named codec.*: fills t, whose F16 data live in *half (free it). Returns
 * their number. ERR_NOMEM. */
int dit_codec_tensors(const struct dit_codec *c, struct tensor t[DIT_CODEC_TENSORS], void **half,
                      struct err *e) __attribute__((warn_unused_result));
/* From a file with states of this shape. ERR_FORMAT, ERR_NOMEM. */
int dit_codec_read(struct dit_codec *c, const struct state_shape *shape,
                   const struct tensor_file *f, struct err *e) __attribute__((warn_unused_result));

/* Inside engine/dit: sizes and memory from shape, K, p and shifts, all zero. ERR_INVALID,
 * ERR_NOMEM. */
int dit_codec__make(struct dit_codec *c, struct err *e) __attribute__((warn_unused_result));

#endif
