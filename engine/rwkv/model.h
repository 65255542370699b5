/* Inside engine/rwkv: what a loaded model is made of. */
#ifndef ENGINE_RWKV_MODEL_H
#define ENGINE_RWKV_MODEL_H

#include "engine/kernels/kern.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tensor/tensor.h"

/* The six token-shift mixes, in the order of GGUF's fused tensor. */
enum { MIX_R, MIX_W, MIX_K, MIX_V, MIX_A, MIX_G, N_MIX };
/* The low-rank pairs; the same letters. */
enum { LORA_W, LORA_A, LORA_V, LORA_G, N_LORA };

struct rwkv_layer {
    const float *ln1_w, *ln1_b, *ln2_w, *ln2_b, *ln_x_w, *ln_x_b; /* [C] */
    const float *mix[N_MIX], *ffn_mix;                            /* [C] */
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k;                  /* [C]; v0 NULL in layer 0 */
    struct mat receptance, key, value, output;                    /* [C, C] */
    struct mat down[N_LORA]; /* [D, C]: x @ w1 as a product with rows; of v nothing in layer 0 */
    struct mat up[N_LORA];   /* [C, D] */
    struct mat ffn_key;      /* [F, C] */
    struct mat ffn_value;    /* [C, F] */
};

struct rwkv_model {
    struct rwkv_info info;
    struct kern kern;
    struct mat emb;  /* [V, C], any dtype: rows are converted when looked up */
    struct mat head; /* [V, C] */
    const float *ln0_w, *ln0_b, *ln_out_w, *ln_out_b; /* [C] */
    struct rwkv_layer *layers;                        /* [L], owned */
    struct tensor_file *file; /* owned: the embedding stands in it */
    float *vectors;           /* owned: all the [C] above */
    uint8_t *mapping;         /* owned: the other matrices, read-only once loaded */
    size_t mapping_bytes, weights_bytes;
    size_t weights;           /* multiply-adds of one token: all but the embedding */
};

/* One canonical tensor (BlinkDL's name and shape) and where its values stand in the file. */
struct rwkv_source {
    char name[48];
    const struct tensor *t;
    size_t first;      /* element of t where it begins: GGUF keeps the mixes in one tensor */
    size_t rows, cols; /* canonical shape; rows 0: a vector [cols] */
    bool transposed;   /* the file holds [cols, rows] */
};

static inline size_t rwkv__source_count(const struct rwkv_source *s)
{
    return s->rows ? s->rows * s->cols : s->cols;
}

/* SHA-256 over name, shape and SHA-256 of the F32 values of each source of f, in order; hex into
 * fingerprint. Bytes that were hashed are released (tensor_file_release). ERR_NOMEM. */
int rwkv__fingerprint(const struct tensor_file *f, const struct rwkv_source *sources, size_t n,
                      struct pool *pool, char fingerprint[65], struct err *e);

/* n elements of t from `first` (whole blocks) as F32. */
void rwkv__read_f32(const struct tensor *t, size_t first, float *dst, size_t n);

#endif
