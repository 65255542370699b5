/* The products of panel.h, compiled by panel_c.c, panel_neon.c, panel_avx2.c and panel_vnni.c over their
 * vectors. Each defines first what panel_plain_tmpl.c wants, and
 *     bytes_v         VW floats from bytes
 *     VI, VS, vi_*    four bytes and one integer sum a row; vi_dot adds four products w a to each sum;
 *                     vi_above: w and, above its four bits, those of h shifted left (right: negative) in a mask
 *     START           where integer sums begin; vi_scaled: such a sum times the scale
 *     Q8_OFFSET       what vi_q8 adds to the weights of Q8_0 to make them fit for vi_dot
 *     TILE_COLUMNS    columns multiplied together */
#include "engine/kernels/panel_plain_tmpl.c"

#include <math.h>
#include <string.h>

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
/* q_i = x_i scale to the nearest; sum: of each half. */
INLINE void block_round(const float *x, float scale, int8_t *q, int32_t sum[2])
{
    sum[0] = sum[1] = 0;
    for (int i = 0; i < PANEL_BLOCK; i++) {
        int32_t v = (int32_t)__builtin_rintf(x[i] * scale);
        sum[i / (PANEL_BLOCK / 2)] += v;
        q[i] = (int8_t)v;
    }
}
#endif

/* 32 numbers; returns d; sum: of each half's integers. */
INLINE float quantise(const float *x, int8_t *q, int32_t sum[2])
{
    int32_t top = block_top(x);
    float most;
    memcpy(&most, &top, sizeof most);
    if (top >= 0x7f800000) {
        memset(q, 0, PANEL_BLOCK);
        sum[0] = sum[1] = 0;
        return NAN;
    }
    block_round(x, most > 0x1p-100f ? 127 / most : 0, q, sum);
    return most / 127;
}

void NAME(panel__quantise)(const struct mat_in *in, int32_t offset, size_t lo, size_t hi,
                           struct panel_in *to)
{
    for (size_t c = 0; c < in->n; c++)
        for (size_t b = lo; b < hi; b++) {
            size_t at = (c / to->group * to->blocks + b) * to->group + c % to->group;
            int32_t sum[2];
            to->d[at] =
                quantise(in->x + c * in->ldx + b * PANEL_BLOCK, to->q + at * PANEL_BLOCK, sum);
            to->start[at] = START - offset * (sum[0] + sum[1]);
            if (!to->half)
                continue;
            to->half[2 * at] = START - offset * sum[0];
            to->half[2 * at + 1] = START - offset * sum[1];
            to->sum[at] = -to->d[at] * (float)(sum[0] + sum[1]);
        }
}

/* ---- tiles ------------------------------------------------------------------------------------ */

struct panel_job {
    const struct mat *m;
    const struct panel_in *in;
    struct panel_rows_out to;
};

/* Vectors of rows: consecutive ones lie `sub` bytes apart within a panel, and panels `stride`. */
struct panel_rows {
    const uint8_t *integers, *scales; /* of the first panel */
    size_t first;                     /* vector of rows within it */
};

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

/* The K types, see panel.h. Bits above the four of groups g, low and high half of a block, at h. */
INLINE VI k_above(VI w, const uint8_t *h, size_t g, const int half, const enum dtype type)
{
    if (type == DTYPE_Q4_K)
        return w;
    if (type == DTYPE_Q5_K)
        return vi_above(w, vi_load(h), 4 - (2 * (int)g + half), 0x10);
    return vi_above(w, vi_load(h), 4 - (4 * ((int)g % 2) + 2 * half), 0x30);
}

/* Adds to s the sums of one half of block k of the super block at p; panels lie `apart` bytes apart. */
INLINE void dots_k(VS *s, const uint8_t *p, size_t apart, size_t first, const int8_t *q, size_t ldq,
                   size_t k, const int half, const enum dtype type, const int R, const int C)
{
    const struct panel_super at = panel__super(type);
    const uint8_t *low = p + at.low + k * 256;
    const uint8_t *high = p + at.high + k * (type == DTYPE_Q5_K ? 64 : 128);
    UNROLL for (size_t g = 0; g < 4; g++)
    {
        VI v[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++)
        {
            VI w = vi_load(vector_at(low + g * 64, first + (size_t)r, apart, 4));
            v[r] = k_above(half ? vi_high(w) : vi_low(w),
                           vector_at(high + (type == DTYPE_Q6_K ? g / 2 * 64 : 0),
                                     first + (size_t)r, apart, 4),
                           g, half, type);
        }
        UNROLL for (int c = 0; c < C; c++)
        {
            VI a = vi_four(q + (size_t)c * ldq + 16 * half + 4 * (int)g);
            UNROLL for (int r = 0; r < R; r++) s[r * C + c] = vi_dot(s[r * C + c], v[r], a);
        }
    }
}

/* acc += sums scale d */
INLINE void add_k(V *acc, const VS *s, const V *scale, const float *d, size_t ldd, const int R,
                  const int C)
{
    UNROLL for (int r = 0; r < R; r++)
    {
        V bias = v_mul(scale[r], v_set1(-PANEL_MAGIC_F));
        UNROLL for (int c = 0; c < C; c++) acc[r * C + c] = v_fma(
            vi_scaled(s[r * C + c], scale[r], bias), v_set1(d[(size_t)c * ldd]), acc[r * C + c]);
    }
}

/* Block k of the super block at p, which is block b of the columns. d, m [R]: of the super block. */
INLINE void block_k(V *acc, const uint8_t *p, size_t apart, size_t first, const V *d, const V *m,
                    const struct panel_in *in, size_t col, size_t b, const enum dtype type,
                    const int R, const int C)
{
    const struct panel_super at = panel__super(type);
    const size_t k = b % PANEL_SUPER, x = col * in->blocks + b;
    const int8_t *q = in->q + x * PANEL_BLOCK;
    const uint8_t *scales = p + at.scales + k * (type == DTYPE_Q6_K ? 32 : 16);
    VS s[TILE_ROWS * TILE_COLUMNS];
    V scale[TILE_ROWS];
    UNROLL for (int half = 0; half < 2; half++)
    {
        if (type == DTYPE_Q6_K || half == 0) {
            UNROLL for (int i = 0; i < R * C; i++)
            {
                const size_t c = x + (size_t)(i % C) * in->blocks;
                s[i] = vi_set1(type == DTYPE_Q6_K ? in->half[2 * c + (size_t)half] : START);
            }
        }
        dots_k(s, p, apart, first, q, in->blocks * PANEL_BLOCK, k, half, type, R, C);
        if (type != DTYPE_Q6_K && half == 0)
            continue;
        UNROLL for (int r = 0; r < R; r++)
        {
            const uint8_t *at_scale = vector_at(scales + (type == DTYPE_Q6_K ? 16 * half : 0),
                                                first + (size_t)r, apart, 1);
            V own = bytes_v(at_scale);
            scale[r] = v_mul(d[r], type == DTYPE_Q6_K ? v_add(own, v_set1(-128)) : own);
        }
        add_k(acc, s, scale, in->d + x, in->blocks, R, C);
    }
    if (type == DTYPE_Q6_K)
        return;
    UNROLL for (int r = 0; r < R; r++)
    {
        V min = v_mul(m[r], bytes_v(vector_at(scales + 128, first + (size_t)r, apart, 1)));
        UNROLL for (int c = 0; c < C; c++) acc[r * C + c] =
            v_fma(min, v_set1(in->sum[x + (size_t)c * in->blocks]), acc[r * C + c]);
    }
}

INLINE void tile_k(V *acc, const struct panel_job *j, size_t v, size_t col, const enum dtype type,
                   const int R, const int C)
{
    const size_t bytes = panel__super(type).bytes, apart = j->in->blocks / PANEL_SUPER * bytes;
    const uint8_t *p = (const uint8_t *)j->m->data + v / SUBS * apart;
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = v_set1(0);
    for (size_t b = 0; b < j->in->blocks; p += bytes) {
        V d[TILE_ROWS], m[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++)
        {
            d[r] = scales_v(vector_at(p, v % SUBS + (size_t)r, apart, 2));
            m[r] = scales_v(vector_at(p + 32, v % SUBS + (size_t)r, apart, 2));
        }
        for (size_t end = b + PANEL_SUPER; b < end; b++) {
            ask_for(p + b % PANEL_SUPER * (bytes / PANEL_SUPER), bytes / PANEL_SUPER, apart, col,
                    R);
            block_k(acc, p, apart, v % SUBS, d, m, j->in, col, b, type, R, C);
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
        ask_for(w->integers + b * panel__group_bytes(type), panel__group_bytes(type),
                in->blocks * panel__group_bytes(type), col, R);
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

INLINE void block_tile(const struct panel_job *j, size_t v, size_t col, const enum dtype type,
                       const int R, const int C)
{
    V acc[TILE_ROWS * TILE_COLUMNS];
    size_t panel = v / SUBS;
    struct panel_rows w = {panel__integers(j->m, panel), panel__scales(j->m, panel), v % SUBS};
    if (panel__is_k(type))
        tile_k(acc, j, v, col, type, R, C);
    else
        tile(acc, &w, j->in, col, type, R, C);
    tiles_store(acc, &j->to, v, col, R, C);
}

/* R vectors of rows against all columns. */
INLINE void blocks_run(const struct panel_job *j, size_t v, const enum dtype type, const int R)
{
    size_t col = 0, n = j->in->n;
#if TILE_COLUMNS >= 6
    for (; col + 6 <= n && n - col != 8; col += 6)
        block_tile(j, v, col, type, R, 6);
#endif
#if TILE_COLUMNS >= 4
    for (; col + 4 <= n; col += 4)
        block_tile(j, v, col, type, R, 4);
#endif
    for (; col + 2 <= n; col += 2)
        block_tile(j, v, col, type, R, 2);
    if (col < n)
        block_tile(j, v, col, type, R, 1);
}

#define DEFINE_JOB(type)                                                                           \
    static void rows_##type(const struct panel_job *j, size_t v)                                   \
    {                                                                                              \
        blocks_run(j, v, DTYPE_##type, TILE_ROWS);                                                 \
    }                                                                                              \
    static void row_##type(const struct panel_job *j, size_t v)                                    \
    {                                                                                              \
        blocks_run(j, v, DTYPE_##type, 1);                                                         \
    }
DEFINE_JOB(Q8_0)
DEFINE_JOB(Q4_0)
DEFINE_JOB(Q4_K)
DEFINE_JOB(Q5_K)
DEFINE_JOB(Q6_K)

/* Of each type: its jobs, and what its weights are more than they mean. */
static const struct {
    void (*rows)(const struct panel_job *, size_t), (*row)(const struct panel_job *, size_t);
    int32_t offset;
} forms[DTYPE_COUNT] = {
    [DTYPE_Q8_0] = {rows_Q8_0, row_Q8_0, Q8_OFFSET}, [DTYPE_Q4_0] = {rows_Q4_0, row_Q4_0, 8},
    [DTYPE_Q4_K] = {rows_Q4_K, row_Q4_K, 0},         [DTYPE_Q5_K] = {rows_Q5_K, row_Q5_K, 0},
    [DTYPE_Q6_K] = {rows_Q6_K, row_Q6_K, 32},
};

void NAME(panel__ready)(enum dtype type, const struct mat_in *in, size_t cols, size_t lo, size_t hi,
                        void *memory)
{
    struct panel_in q = {.n = in->n, .blocks = cols / PANEL_BLOCK, .group = 1};
    panel__carve(&q, type, in->n, memory);
    NAME(panel__quantise)(in, forms[type].offset, lo / PANEL_BLOCK, hi / PANEL_BLOCK, &q);
}

void NAME(panel__mul)(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                      const struct mat_out *out, float *scratch)
{
    const size_t end = (hi + VW - 1) / VW;
    const bool ready = mat_in_ready(in, m->type);
    struct panel_in all = {.blocks = m->cols / PANEL_BLOCK, .group = 1};
    if (panel__is_plain(m->type)) {
        NAME(panel__mul_plain)(m, lo, hi, in, out);
        return;
    }
    panel__carve(&all, m->type, ready ? in->n : PANEL_COLUMNS, ready ? in->ready : scratch);
    for (size_t col = 0, n; col < in->n && lo < hi; col += n) {
        n = in->n - col < PANEL_COLUMNS ? in->n - col : PANEL_COLUMNS;
        const struct mat_in part = {.x = in->x + col * in->ldx, .ldx = in->ldx, .n = n};
        const struct mat_out to = {out->y + col, out->add};
        struct panel_in q = panel__columns(&all, ready ? col : 0, n);
        const struct panel_job j = {m, &q, {lo, hi, &to}};
        if (!ready)
            NAME(panel__quantise)(&part, forms[m->type].offset, 0, q.blocks, &q);
        for (size_t v = lo / VW; v < end;) {
            size_t rows = end - v >= TILE_ROWS ? TILE_ROWS : 1;
            (rows == TILE_ROWS ? forms[m->type].rows : forms[m->type].row)(&j, v);
            v += rows;
        }
    }
}
