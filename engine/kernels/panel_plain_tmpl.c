/* Products of plain types in panels (panel.h), compiled by panel_avx512.c and, with those of blocks, by what includes
 * panel_tmpl.c, over their vectors. Each defines first
 *     V, VW           a vector of VW floats, one a row of the panel
 *     v_*             its arithmetic; scales_v: VW floats from F16
 *     pair_v          VW floats each from the even and the odd of VW pairs of BF16
 *     TILE_ROWS       vectors of rows, and
 *     PLAIN_COLUMNS   columns multiplied together
 * No sum crosses lanes, which weighs where rows are short. */
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define SUBS   (MAT_PANEL_ROWS / VW) /* vectors a panel */

enum { AHEAD = 1024 }; /* bytes that are asked for before they are read */

/* The rows that are wanted of a product, and where they go. */
struct panel_rows_out {
    size_t lo, hi;
    const struct mat_out *out;
};

INLINE const uint8_t *vector_at(const uint8_t *base, size_t v, size_t panel_bytes, size_t bytes)
{
    return base + v / SUBS * panel_bytes + v % SUBS * (VW * bytes);
}

/* Asks for what follows n bytes at p, which a tile reads now, in each panel of its rows: the first columns
 * find it in memory, the others in the cache. */
INLINE void ask_for(const uint8_t *p, size_t n, size_t apart, size_t col, const int R)
{
    for (size_t line = 0; col == 0 && line < n; line += 64)
        UNROLL for (int r = 0; r < R; r += SUBS)
            PREFETCH(vector_at(p + line + AHEAD, (size_t)r, apart, 0));
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

/* acc [R][C], of vectors v, ... of rows and columns col, ... */
INLINE void tiles_store(const V *acc, const struct panel_rows_out *to, size_t v, size_t col,
                        const int R, const int C)
{
    UNROLL for (int c = 0; c < C; c++)
    {
        UNROLL for (int r = 0; r < R; r++)
            tile_store(acc[r * C + c], to->out->y[col + (size_t)c], (v + (size_t)r) * VW, to->lo,
                       to->hi, to->out->add);
    }
}

struct plain_job {
    const struct mat *m;
    const struct mat_in *in;
    struct panel_rows_out to;
};

/* acc [R][C]: R vectors of rows of F32 or F16 against C columns. */
INLINE void tile_plain(V *acc, const struct plain_job *j, size_t v, size_t col,
                       const enum dtype type, const int R, const int C)
{
    const size_t cols = j->m->cols, bytes = type == DTYPE_F32 ? 4 : 2;
    const size_t step = MAT_PANEL_ROWS * bytes, apart = cols * step;
    const uint8_t *w = (const uint8_t *)j->m->data + v / SUBS * apart;
    const float *x = j->in->x + col * j->in->ldx;
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = v_set1(0);
    for (size_t k = 0; k < cols; k++, w += step) {
        V a[TILE_ROWS];
        ask_for(w, step, apart, col, R);
        UNROLL for (int r = 0; r < R; r++)
        {
            const uint8_t *at = vector_at(w, v % SUBS + (size_t)r, apart, bytes);
            a[r] = type == DTYPE_F32 ? v_load((const float *)(const void *)at) : scales_v(at);
        }
        UNROLL for (int c = 0; c < C; c++)
        {
            V b = v_set1(x[(size_t)c * j->in->ldx + k]);
            UNROLL for (int r = 0; r < R; r++) acc[r * C + c] = v_fma(a[r], b, acc[r * C + c]);
        }
    }
}

/* The same for BF16, whose elements stand in pairs; behind the last there are zeros. */
INLINE void tile_pairs(V *acc, const struct plain_job *j, size_t v, size_t col, const int R,
                       const int C)
{
    const size_t cols = j->m->cols, step = MAT_PANEL_ROWS * 4, apart = mat_pad(cols) / 2 * step;
    const uint8_t *w = (const uint8_t *)j->m->data + v / SUBS * apart;
    const float *x = j->in->x + col * j->in->ldx;
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = v_set1(0);
    for (size_t k = 0; k < cols; k += 2, w += step) {
        V even[TILE_ROWS], odd[TILE_ROWS];
        ask_for(w, step, apart, col, R);
        UNROLL for (int r = 0; r < R; r++)
            pair_v(vector_at(w, v % SUBS + (size_t)r, apart, 4), &even[r], &odd[r]);
        UNROLL for (int c = 0; c < C; c++)
        {
            const float *b = x + (size_t)c * j->in->ldx + k;
            V b0 = v_set1(b[0]), b1 = v_set1(b[1]);
            UNROLL for (int r = 0; r < R; r++) acc[r * C + c] =
                v_fma(odd[r], b1, v_fma(even[r], b0, acc[r * C + c]));
        }
    }
}

INLINE void plain_tile(const struct plain_job *j, size_t v, size_t col, const enum dtype type,
                       const int R, const int C)
{
    V acc[TILE_ROWS * PLAIN_COLUMNS];
    if (type == DTYPE_BF16)
        tile_pairs(acc, j, v, col, R, C);
    else
        tile_plain(acc, j, v, col, type, R, C);
    tiles_store(acc, &j->to, v, col, R, C);
}

/* R vectors of rows against all columns. */
INLINE void plain_run(const struct plain_job *j, size_t v, const enum dtype type, const int R)
{
    const size_t n = j->in->n;
    size_t col = 0;
    for (; col + PLAIN_COLUMNS <= n; col += PLAIN_COLUMNS)
        plain_tile(j, v, col, type, R, PLAIN_COLUMNS);
    for (; col + 4 <= n; col += 4)
        plain_tile(j, v, col, type, R, 4);
    for (; col + 2 <= n; col += 2)
        plain_tile(j, v, col, type, R, 2);
    if (col < n)
        plain_tile(j, v, col, type, R, 1);
}

/* TILE_ROWS vectors of rows, or one; returns how many. */
static size_t plain_rows(const struct plain_job *j, size_t v, bool many)
{
    const size_t n = many ? TILE_ROWS : 1;
    switch (j->m->type) {
    case DTYPE_F16:
        many ? plain_run(j, v, DTYPE_F16, TILE_ROWS) : plain_run(j, v, DTYPE_F16, 1);
        break;
    case DTYPE_BF16:
        many ? plain_run(j, v, DTYPE_BF16, TILE_ROWS) : plain_run(j, v, DTYPE_BF16, 1);
        break;
    default:
        many ? plain_run(j, v, DTYPE_F32, TILE_ROWS) : plain_run(j, v, DTYPE_F32, 1);
        break;
    }
    return n;
}

static void NAME(panel__mul_plain)(const struct mat *m, size_t lo, size_t hi,
                                   const struct mat_in *in, const struct mat_out *out)
{
    const size_t end = (hi + VW - 1) / VW;
    for (size_t col = 0, n; col < in->n && lo < hi; col += n) {
        n = in->n - col < PANEL_PLAIN_COLUMNS ? in->n - col : PANEL_PLAIN_COLUMNS;
        const struct mat_in part = {.x = in->x + col * in->ldx, .ldx = in->ldx, .n = n};
        const struct mat_out to = {out->y + col, out->add};
        const struct plain_job j = {m, &part, {lo, hi, &to}};
        for (size_t v = lo / VW; v < end;)
            v += plain_rows(&j, v, end - v >= TILE_ROWS);
    }
}
