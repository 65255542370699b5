/* The engine's inner loops behind one table of functions, chosen by CPU level.
 *
 *     struct kern k;
 *     kern_init(&k, CPU_AUTO);
 *     k.vec_sigmoid(y, x, n);
 *
 * The same C source (kern_tmpl.c) is compiled for each level over its own vector width, so levels
 * differ in the last bits; within a level every function is a pure function of its arguments' values:
 * an element's bits do not depend on its position, on alignment, on how a range is cut into calls, or
 * on the number of columns multiplied together. That is what the engine's determinism rule rests on.
 *
 * Accuracy against the exact value: exp, sigmoid, tanh, softplus within 4 ulp (exp and sigmoid fall to
 * denormals and 0 as they should, NaN goes through); products as F32 sums of rounded terms.
 *
 * Threads: any; the table is read-only once filled. All pointers: any alignment. */
#ifndef ENGINE_KERN_H
#define ENGINE_KERN_H

#include "engine/kernels/cpu.h"
#include "engine/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>

/* A weight matrix W [rows, cols] of F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K, its columns whole
 * blocks: 16 rows interleaved, see panel.h, or rows one after another as in a file, of which products take F32 alone. */
struct mat {
    enum dtype type;
    size_t rows, cols;
    size_t row_bytes; /* of a row in a file */
    const void *data; /* [mat_data_bytes], not owned */
    bool panels;
};
#define MAT_PANEL_ROWS 16
size_t mat_data_bytes(const struct mat *m);
/* Blocks first, ..., first + n of a row, as in a file, to their places in a matrix in panels. */
void mat_put_blocks(const struct mat *m, size_t row, size_t first, const void *blocks, size_t n);

/* Right-hand sides of a product: n columns x_b [ldx], of which mat.cols hold values and the rest, up
 * to the next multiple of MAT_STEP, must be zero. */
#define MAT_STEP 32
static inline size_t mat_pad(size_t cols)
{
    return (cols + MAT_STEP - 1) / MAT_STEP * MAT_STEP;
}
struct mat_in {
    const float *x; /* [n, ldx] */
    size_t ldx;     /* floats, at least mat_pad(cols) */
    size_t n;
    /* NULL, or the columns as struct kern's make_ready put them for weights of type ready_for: a product with others
     * does not look at it. */
    void *ready;
    enum dtype ready_for;
};
static inline bool mat_in_ready(const struct mat_in *in, enum dtype t)
{
    return in->ready && in->ready_for == t;
}
/* Where results go: y[b][o] for column b and row o of the matrix. */
struct mat_out {
    float *const *y; /* [n] rows */
    bool add;        /* y += W x instead of y = W x */
};
/* Floats of scratch that mat_mul needs for matrices of up to cols columns, a thread. */
static inline size_t mat_scratch_floats(size_t cols)
{
    return 100 * mat_pad(cols) + 16;
}

/* Channels of one token between the low-rank products and the recurrence (rwkv7.md 1, steps 3 to 6).
 * All [n]. c = e^(-1/2). */
struct att_gates {
    float *w;  /* in: low-rank part; out: decay exp(-c sigmoid(w0 + w)) */
    float *a;  /* in: low-rank part; out: sigmoid(a0 + a) */
    float *v;  /* in and out: v + (v_first - v) sigmoid(v0 + v_lora); as it is if v0 is NULL */
    float *k;  /* in and out: k (1 + (a - 1) k_a) */
    float *kk; /* out: k k_k, of the k that came in */
    const float *w0, *a0, *v0, *k_k, *k_a, *v_lora, *v_first;
};

/* One token and head of the recurrence (steps 6 and 7). S [N, N] row = value index, column = key:
 *     kk /= max(|kk|, 1e-12);   S_ij <- S_ij w_j - (sum_m S_im kk_m) (kk_j a_j) + v_i k_j
 *     y_i = sum_j S_ij r_j
 * N = 32, 64 or 128. */
struct wkv_args {
    float *S, *y;
    const float *r, *w, *k, *v, *kk, *a;
};

/* Output of one head (steps 8 to 10): y <- (GroupNorm(y) + (sum_j r_j k_j r_k_j) v) g. All [N]. */
struct att_out {
    float *y;
    const float *ln_w, *ln_b, *r, *k, *r_k, *v, *g;
};

struct kern {
    enum cpu_level level;

    /* y_i = f(x_i); y may be x. */
    void (*vec_exp)(float *y, const float *x, size_t n);
    void (*vec_sigmoid)(float *y, const float *x, size_t n);
    void (*vec_tanh)(float *y, const float *x, size_t n);
    void (*vec_softplus)(float *y, const float *x, size_t n); /* log(1 + e^x) */
    void (*vec_relu2)(float *y, const float *x, size_t n);    /* max(x, 0)^2 */
    /* y_i = z_i + (prev_i - z_i) mu_i: the token shift. */
    void (*vec_mix)(float *y, const float *z, const float *prev, const float *mu, size_t n);
    /* y_i += sum over j of a_j x_ji, j in order, x [m, ld]. */
    void (*vec_add_rows)(float *y, const float *x, size_t ld, const float *a, size_t m, size_t n);
    bool (*vec_finite)(const float *x, size_t n); /* no infinity, no NaN */

    /* LayerNorm in two parts, so that threads may share the second: mean and 1/sqrt(var + eps), the
     * variance that of the population; then y_i = (x_i - mean) rstd w_i + b_i. */
    void (*norm_stats)(const float *x, size_t n, float eps, float *mean, float *rstd);
    void (*norm_apply)(float *y, const float *x, float mean, float rstd, const float *w,
                       const float *b, size_t n);

    /* Rows [lo, hi) of y = W x, W F32 in rows. An output is sum over k of W_ok x_k in an order fixed by the level and
     * cols alone: 16, 8 or 4 running sums over k, k + width, ..., then a fixed tree. */
    void (*mul_rows)(const struct mat *w, size_t lo, size_t hi, const struct mat_in *in,
                     const struct mat_out *out);
    /* The same for weights in panels. Plain types: summed in the order of k (BF16 at level AMX: in the tiles').
     * Quantised types: with x rounded to int8 in blocks of 32. See panel.h. */
    void (*mul_panels)(const struct mat *w, size_t lo, size_t hi, const struct mat_in *in,
                       const struct mat_out *out, float *scratch);
    /* What the columns of `in`, of `cols` channels, become before a product with weights of type t: channels lo..hi of
     * it, lo a multiple of 32 and hi too or cols, to memory [kern_ready_bytes], so that threads make it together and
     * not each its own. Not for weights that want 0 bytes. */
    void (*make_ready)(enum dtype t, const struct mat_in *in, size_t cols, size_t lo, size_t hi,
                       void *memory);

    void (*att_gates)(const struct att_gates *g, size_t n);
    void (*wkv_step)(const struct wkv_args *a, size_t head_size);
    void (*att_out)(const struct att_out *o, size_t head_size, float eps);
};

/* Bytes, aligned to 64, that make_ready wants for up to n columns; 0: these weights take columns as they are. */
size_t kern_ready_bytes(const struct kern *k, enum dtype t, size_t cols, size_t n);

/* Rows [lo, hi) of y = W x for weights of any type. scratch: mat_scratch_floats, the calling thread's
 * own. */
static inline void kern_mat_mul(const struct kern *k, const struct mat *w, size_t lo, size_t hi,
                                const struct mat_in *in, const struct mat_out *out, float *scratch)
{
    if (w->panels)
        k->mul_panels(w, lo, hi, in, out, scratch);
    else
        k->mul_rows(w, lo, hi, in, out);
}

/* Fills the table with the best level that this CPU runs and that is not above `most`. */
void kern_init(struct kern *k, enum cpu_level most);

#endif
