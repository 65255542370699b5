/* Inside engine/rwkv: the scratch of a session, and one block of rows as eval.c computes it. */
#ifndef ENGINE_RWKV_SESSION_H
#define ENGINE_RWKV_SESSION_H

#include "engine/kernels/effort.h"
#include "engine/rwkv/model.h"
#include "engine/rwkv/params.h"

/* A buffer of one float vector a row, and its rows as mat_mul wants them. */
struct rows_buf {
    float *data; /* [max_rows, ld], zero beyond the vector's length */
    size_t ld;
    float **row; /* [max_rows] */
    void *ready; /* the same as products take it (kern.h: make_ready), or NULL */
};

/* What reads the six mixes, but for the first half of the low-rank pair of values, which shares v's. */
static inline void rwkv__att_readers(const struct rwkv_layer *y, const struct mat *reader[N_MIX])
{
    reader[MIX_R] = &y->receptance;
    reader[MIX_W] = &y->down[LORA_W];
    reader[MIX_K] = &y->key;
    reader[MIX_V] = &y->value;
    reader[MIX_A] = &y->down[LORA_A];
    reader[MIX_G] = &y->down[LORA_G];
}

enum row_fault { FAULT_NONE, FAULT_BEFORE_ATT, FAULT_BEFORE_FFN, FAULT_AFTER_LAYERS };

/* One token of the block. Rows of a sequence stand together, in order. */
struct row {
    struct rwkv_seq *seq;
    size_t seq_index;
    uint32_t token;
    bool first, last; /* of its sequence in this block */
    float *logits;    /* where they go; NULL: not wanted */
    float *hidden;    /* where LN_out goes; NULL: not wanted */
    enum row_fault fault; /* the first place where it was not finite; written by part 0 alone */
    size_t fault_layer;
};

struct rwkv_session {
    const struct rwkv_model *m;
    struct pool *pool;
    size_t max_rows, bytes;
    void *memory; /* owned: everything below */

    struct rows_buf x;          /* [C] the residual stream */
    struct rows_buf z;          /* [C] LayerNorm of x: what the next token's shift mixes in */
    struct rows_buf in[N_MIX];  /* [C] inputs of the six projections; in[0] also of ffn.key */
    struct rows_buf r, k, v;    /* [C] */
    struct rows_buf kk, v_first; /* [C] */
    struct rows_buf lora[N_LORA]; /* [C] ends of the low-rank pairs: decay, a, v's mix, gate */
    struct rows_buf down[N_LORA]; /* [rank] */
    float *low;                   /* [max_rows, RWKV_LOW, RWKV_MAX_RANK]: A x of low-rank additions */
    struct rows_buf y;          /* [C] output of time mixing before its projection */
    struct rows_buf ffn;        /* [F] */
    float *scratch;             /* [threads, scratch_floats] */
    size_t scratch_floats;
    struct row *rows;           /* [max_rows] */
    float **logits;             /* [max_rows] of the rows that want them, in order */
    bool *logits_bad;           /* [threads, max_rows] the thread's share is not finite */

    struct effort effort; /* threads that blocks get */

    /* the present block; written before pool_run, read by all */
    size_t n, n_logits;
    int parts; /* threads at work on it */
    size_t going_on; /* rows that are not given up; written by part 0 alone */
};

#endif
