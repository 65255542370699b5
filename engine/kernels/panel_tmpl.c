/* The products of panel.h, compiled by panel_c.c, panel_neon.c, panel_avx2.c and panel_vnni.c over their
 * vectors. Each defines first
 *     V, VW           a vector of VW floats, one a row of the panel
 *     v_*             its arithmetic; scales_v: VW scales from F16
 *     VI, VS, vi_*    four bytes and one integer sum a row; vi_dot adds four products w a to each sum
 *     START           where integer sums begin; vi_scaled: such a sum times the scale
 *     Q8_OFFSET       what vi_q8 adds to the weights of Q8_0 to make them fit for vi_dot
 *     TILE_ROWS       vectors of rows, and
 *     TILE_COLUMNS    columns multiplied together */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define SUBS   (MAT_PANEL_ROWS / VW) /* vectors a panel */

/* ---- columns ---------------------------------------------------------------------------------- */

#ifndef OWN_BLOCK
/* The bits of max |x| of 32 numbers: they are in the order of |x|, what is not finite above all. */
INLINE int32_t block_top(const float *x)
{
    int32_t bits[PANEL_BLOCK], top = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < PANEL_BLOCK; i++)
        top = (bits[i] & 0x7fffffff) > top ? (bits[i] & 0x7fffffff) : top;
    return top;
}
/* q_i = x_i scale to the nearest; returns their sum. */
INLINE int32_t block_round(const float *x, float scale, int8_t *q)
{
    int32_t sum = 0;
    for (int i = 0; i < PANEL_BLOCK; i++) {
        int32_t v = (int32_t)__builtin_rintf(x[i] * scale);
        sum += v;
        q[i] = (int8_t)v;
    }
    return sum;
}
#endif

/* 32 numbers; returns d. */
INLINE float quantise(const float *x, int8_t *q, int32_t *sum)
{
    int32_t top = block_top(x);
    float most;
    memcpy(&most, &top, sizeof most);
    if (top >= 0x7f800000) {
        memset(q, 0, PANEL_BLOCK);
        *sum = 0;
        return NAN;
    }
    *sum = block_round(x, most > 0x1p-100f ? 127 / most : 0, q);
    return most / 127;
}

void NAME(panel__quantise)(const struct mat_in *in, int32_t offset, struct panel_in *to)
{
    for (size_t c = 0; c < in->n; c++)
        for (size_t b = 0; b < to->blocks; b++) {
            size_t at = (c / to->group * to->blocks + b) * to->group + c % to->group;
            int32_t sum;
            to->d[at] =
                quantise(in->x + c * in->ldx + b * PANEL_BLOCK, to->q + at * PANEL_BLOCK, &sum);
            to->start[at] = START - offset * sum;
        }
}

/* ---- tiles ------------------------------------------------------------------------------------ */

/* Vectors of rows: consecutive ones lie `sub` bytes apart within a panel, and panels `stride`. */
struct panel_rows {
    const uint8_t *integers, *scales; /* of the first panel */
    size_t first;                     /* vector of rows within it */
};

INLINE const uint8_t *vector_at(const uint8_t *base, size_t v, size_t panel_bytes, size_t bytes)
{
    return base + v / SUBS * panel_bytes + v % SUBS * (VW * bytes);
}

INLINE void dots_q8(VS *s, const struct panel_rows *w, const struct panel_in *in, size_t b,
                    size_t col, const int R, const int C)
{
    UNROLL for (size_t g = 0; g < 8; g++)
    {
        VI v[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++) v[r] = vi_q8(vi_load(
            vector_at(w->integers + b * 512 + g * 64, w->first + (size_t)r, in->blocks * 512, 4)));
        UNROLL for (int c = 0; c < C; c++)
        {
            VI a = vi_four(in->q + ((col + (size_t)c) * in->blocks + b) * PANEL_BLOCK + 4 * g);
            UNROLL for (int r = 0; r < R; r++) s[r * C + c] = vi_dot(s[r * C + c], v[r], a);
        }
    }
}

INLINE void dots_q4(VS *s, const struct panel_rows *w, const struct panel_in *in, size_t b,
                    size_t col, const int R, const int C)
{
    UNROLL for (size_t g = 0; g < 4; g++)
    {
        VI lo[TILE_ROWS], hi[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++)
        {
            VI v = vi_load(vector_at(w->integers + b * 256 + g * 64, w->first + (size_t)r,
                                     in->blocks * 256, 4));
            lo[r] = vi_low(v);
            hi[r] = vi_high(v);
        }
        UNROLL for (int c = 0; c < C; c++)
        {
            const int8_t *q = in->q + ((col + (size_t)c) * in->blocks + b) * PANEL_BLOCK + 4 * g;
            VI a = vi_four(q), a16 = vi_four(q + 16);
            UNROLL for (int r = 0; r < R; r++) s[r * C + c] =
                vi_dot(vi_dot(s[r * C + c], lo[r], a), hi[r], a16);
        }
    }
}

/* acc [R][C]: R vectors of rows against C columns. */
INLINE void tile(V *acc, const struct panel_rows *w, const struct panel_in *in, size_t col,
                 const enum dtype type, const int R, const int C)
{
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = v_set1(0);
    for (size_t b = 0; b < in->blocks; b++) {
        VS s[TILE_ROWS * TILE_COLUMNS];
        UNROLL for (int i = 0; i < R * C; i++) s[i] =
            vi_set1(in->start[(col + (size_t)(i % C)) * in->blocks + b]);
        PREFETCH(w->integers + b * (type == DTYPE_Q8_0 ? 512 : 256));
        if (type == DTYPE_Q8_0)
            dots_q8(s, w, in, b, col, R, C);
        else
            dots_q4(s, w, in, b, col, R, C);
        UNROLL for (int r = 0; r < R; r++)
        {
            V scale = scales_v(vector_at(w->scales + b * MAT_PANEL_ROWS * 2, w->first + (size_t)r,
                                         in->blocks * MAT_PANEL_ROWS * 2, 2));
            V bias = v_mul(scale, v_set1(-PANEL_MAGIC_F));
            UNROLL for (int c = 0; c < C; c++)
            {
                V d = v_set1(in->d[(col + (size_t)c) * in->blocks + b]);
                acc[r * C + c] = v_fma(vi_scaled(s[r * C + c], scale, bias), d, acc[r * C + c]);
            }
        }
    }
}

/* Rows row, ..., row + VW of which those in lo..hi are wanted. */
static __attribute__((noinline)) void store_part(const float *sum, float *y, size_t row, size_t lo,
                                                 size_t hi, bool add)
{
    for (size_t r = 0; r < VW; r++)
        if (row + r >= lo && row + r < hi)
            y[row + r] = add ? y[row + r] + sum[r] : sum[r];
}

INLINE void tile_store(V sum, float *y, size_t row, size_t lo, size_t hi, bool add)
{
    float all[VW];
    if (row >= lo && row + VW <= hi) {
        v_store(y + row, add ? v_add(v_load(y + row), sum) : sum);
        return;
    }
    v_store(all, sum);
    store_part(all, y, row, lo, hi, add);
}

struct panel_job {
    const struct mat *m;
    size_t lo, hi;
    const struct panel_in *in;
    const struct mat_out *out;
};

INLINE void tile_run(const struct panel_job *j, size_t v, size_t col, const enum dtype type,
                     const int R, const int C)
{
    V acc[TILE_ROWS * TILE_COLUMNS];
    size_t panel = v / SUBS;
    struct panel_rows w = {panel__integers(j->m, panel), panel__scales(j->m, panel), v % SUBS};
    tile(acc, &w, j->in, col, type, R, C);
    UNROLL for (int c = 0; c < C; c++)
    {
        UNROLL for (int r = 0; r < R; r++)
            tile_store(acc[r * C + c], j->out->y[col + (size_t)c], (v + (size_t)r) * VW, j->lo,
                       j->hi, j->out->add);
    }
}

/* R vectors of rows against all columns. */
INLINE void rows_run(const struct panel_job *j, size_t v, const enum dtype type, const int R)
{
    size_t col = 0, n = j->in->n;
#if TILE_COLUMNS >= 6
    for (; col + 6 <= n && n - col != 8; col += 6)
        tile_run(j, v, col, type, R, 6);
#endif
#if TILE_COLUMNS >= 4
    for (; col + 4 <= n; col += 4)
        tile_run(j, v, col, type, R, 4);
#endif
    for (; col + 2 <= n; col += 2)
        tile_run(j, v, col, type, R, 2);
    if (col < n)
        tile_run(j, v, col, type, R, 1);
}

#define DEFINE_JOB(type)                                                                           \
    static void rows_##type(const struct panel_job *j, size_t v)                                   \
    {                                                                                              \
        rows_run(j, v, DTYPE_##type, TILE_ROWS);                                                   \
    }                                                                                              \
    static void row_##type(const struct panel_job *j, size_t v)                                    \
    {                                                                                              \
        rows_run(j, v, DTYPE_##type, 1);                                                           \
    }
DEFINE_JOB(Q8_0)
DEFINE_JOB(Q4_0)

void NAME(panel__mul)(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                      const struct mat_out *out, float *scratch)
{
    bool q8 = m->type == DTYPE_Q8_0;
    size_t blocks = m->cols / PANEL_BLOCK, end = (hi + VW - 1) / VW;
    struct panel_in q = {.blocks = blocks, .group = 1};
    panel__carve(&q, scratch);
    for (size_t col = 0; col < in->n && lo < hi; col += q.n) {
        q.n = in->n - col < PANEL_COLUMNS ? in->n - col : PANEL_COLUMNS;
        struct mat_in part = {in->x + col * in->ldx, in->ldx, q.n};
        struct mat_out to = {out->y + col, out->add};
        struct panel_job j = {m, lo, hi, &q, &to};
        NAME(panel__quantise)(&part, q8 ? Q8_OFFSET : 8, &q);
        for (size_t v = lo / VW; v < end;) {
            size_t n = end - v >= TILE_ROWS ? TILE_ROWS : 1;
            if (n == TILE_ROWS)
                (q8 ? rows_Q8_0 : rows_Q4_0)(&j, v);
            else
                (q8 ? row_Q8_0 : row_Q4_0)(&j, v);
            v += n;
        }
    }
}
