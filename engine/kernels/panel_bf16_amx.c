/* Products of BF16 panels with AMX. Each number x is the sum of three BF16: the nearest to x, the nearest to
 * the rest, and the rest, which together have F32's 24 bits; so each product w x is exact and what is
 * rounded is the sums, as in F32 products. A row of a tile is one part of one column: [16 parts, 32] times
 * a panel's [16 pairs, 16 rows, 2] is added to [16 parts, 16 rows], and in the end y = (rest + middle) +
 * nearest. A sum depends on its own row of A alone, so that a column's bytes are the same in any company.
 * What is below 2^-126 counts as zero here.
 *
 * 1 to 5 columns fit one tile: then four panels are read side by side. More are taken 16 at a time, three
 * tiles, against two panels. */
#include "engine/kernels/panel.h"

#if defined(__x86_64__)

#include "engine/kernels/tile_x86.h"

#include <immintrin.h>
#include <string.h>

enum { PARTS = 3, TILE = 16, STEP = 32, STEP_BYTES = PARTS * TILE * STEP * 2, PANEL_STEP = 1024 };

struct job {
    const struct mat *m;
    size_t lo, hi, steps;
    const struct mat_out *out;
};

/* 32 numbers of which `left` are there, to three rows `apart` bytes apart. */
__attribute__((target("avx512bf16"))) static inline void split(const float *x, uint8_t *to,
                                                               size_t apart)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    for (int part = 0; part < PARTS; part++, to += apart) {
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        _mm512_storeu_si512(to, both);
        __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
        __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
        a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(low, 16)));
        b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16)));
    }
}

/* Steps lo..hi of n <= 16 columns to [steps][48 rows][32]: row = part * n + column. */
static void split_columns(const struct mat_in *in, size_t col, size_t n, size_t lo, size_t hi,
                          uint8_t *to)
{
    for (size_t c = 0; c < n; c++)
        for (size_t s = lo; s < hi; s++)
            split(in->x + (col + c) * in->ldx + s * STEP, to + s * STEP_BYTES + c * STEP * 2,
                  n * STEP * 2);
}

static const uint8_t *panel_at(const struct job *j, size_t panel)
{
    size_t last = (j->m->rows - 1) / MAT_PANEL_ROWS;
    return (const uint8_t *)j->m->data + (panel < last ? panel : last) * j->steps * PANEL_STEP;
}

/* Sums of four panels from `panel` with the one tile at a, to s [4][16 parts][16 rows]. */
static void four_panels(const struct job *j, size_t panel, const uint8_t *a, float *s)
{
    const uint8_t *w[4];
    for (size_t i = 0; i < 4; i++)
        w[i] = panel_at(j, panel + i);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (size_t k = 0; k < j->steps; k++, a += STEP_BYTES) {
        for (size_t line = 0; line < PANEL_STEP; line += 64) /* few columns wait for memory */
            for (size_t i = 0; i < 4; i++)
                __builtin_prefetch(w[i] + (k + 1) * PANEL_STEP + line);
        TILE_LOAD(4, a, 64);
        TILE_LOAD(6, w[0] + k * PANEL_STEP, 64);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD(7, w[1] + k * PANEL_STEP, 64);
        TILE_DOT_BF16(1, 4, 7);
        TILE_LOAD(6, w[2] + k * PANEL_STEP, 64);
        TILE_DOT_BF16(2, 4, 6);
        TILE_LOAD(7, w[3] + k * PANEL_STEP, 64);
        TILE_DOT_BF16(3, 4, 7);
    }
    TILE_STORE(0, s, 64);
    TILE_STORE(1, s + 256, 64);
    TILE_STORE(2, s + 512, 64);
    TILE_STORE(3, s + 768, 64);
}

/* Sums of two panels with the three tiles at a, to s [2][48 parts][16 rows]. */
static void two_panels(const struct job *j, size_t panel, const uint8_t *a, float *s)
{
    const uint8_t *w0 = panel_at(j, panel), *w1 = panel_at(j, panel + 1);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    for (size_t k = 0; k < j->steps; k++, a += STEP_BYTES) {
        TILE_LOAD(7, w0 + k * PANEL_STEP, 64);
        TILE_LOAD(6, a, 64);
        TILE_DOT_BF16(0, 6, 7);
        TILE_LOAD(6, a + 1024, 64);
        TILE_DOT_BF16(1, 6, 7);
        TILE_LOAD(6, a + 2048, 64);
        TILE_DOT_BF16(2, 6, 7);
        TILE_LOAD(7, w1 + k * PANEL_STEP, 64);
        TILE_DOT_BF16(5, 6, 7);
        TILE_LOAD(6, a + 1024, 64);
        TILE_DOT_BF16(4, 6, 7);
        TILE_LOAD(6, a, 64);
        TILE_DOT_BF16(3, 6, 7);
    }
    TILE_STORE(0, s, 64);
    TILE_STORE(1, s + 256, 64);
    TILE_STORE(2, s + 512, 64);
    TILE_STORE(3, s + 768, 64);
    TILE_STORE(4, s + 1024, 64);
    TILE_STORE(5, s + 1280, 64);
}

/* s [3 n parts][16 rows] of a panel to the results of n columns. */
static void store(const struct job *j, const float *s, size_t col, size_t n, size_t panel)
{
    size_t row = panel * MAT_PANEL_ROWS;
    if (row >= j->hi)
        return;
    unsigned from = j->lo > row ? (unsigned)(j->lo - row) : 0;
    unsigned to = j->hi - row < 16 ? (unsigned)(j->hi - row) : 16;
    __mmask16 wanted = (__mmask16)((1u << to) - (1u << from));
    for (size_t c = 0; c < n; c++) {
        float *o = j->out->y[col + c] + row;
        __m512 v =
            _mm512_add_ps(_mm512_loadu_ps(s + (2 * n + c) * 16), _mm512_loadu_ps(s + (n + c) * 16));
        v = _mm512_add_ps(v, _mm512_loadu_ps(s + c * 16));
        if (j->out->add)
            v = _mm512_add_ps(_mm512_maskz_loadu_ps(wanted, o), v);
        _mm512_mask_storeu_ps(o, wanted, v);
    }
}

/* Up to 16 columns, split at a, against four panels if their parts fit one tile, else two. */
static void mul_group(const struct job *j, const uint8_t *a, size_t col, size_t n, size_t panel,
                      size_t panels)
{
    _Alignas(64) float s[2 * PARTS * TILE * 16];
    if (panels == 4) {
        four_panels(j, panel, a, s);
        for (size_t i = 0; i < 4; i++)
            store(j, s + i * 256, col, n, panel + i);
    } else {
        two_panels(j, panel, a, s);
        for (size_t i = 0; i < 2; i++)
            store(j, s + i * 768, col, n, panel + i);
    }
}

/* In groups of 16 columns. */
void panel__ready_bf16_amx(enum dtype type, const struct mat_in *in, size_t cols, size_t lo,
                           size_t hi, void *memory)
{
    const size_t steps = mat_pad(cols) / STEP;
    (void)type;
    for (size_t c = 0; c < in->n; c += TILE)
        split_columns(in, c, in->n - c < TILE ? in->n - c : TILE, lo / STEP, (hi + STEP - 1) / STEP,
                      (uint8_t *)memory + c / TILE * steps * STEP_BYTES);
}

void panel__mul_bf16_amx(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                         const struct mat_out *out, float *scratch)
{
    struct job j = {.m = m, .lo = lo, .hi = hi, .steps = mat_pad(m->cols) / STEP, .out = out};
    const bool ready = mat_in_ready(in, DTYPE_BF16);
    uint8_t *a = ready ? in->ready : (void *)(((uintptr_t)scratch + 63) / 64 * 64);
    size_t most = in->n < TILE ? in->n : TILE, group = most * PARTS <= TILE ? 4 : 2;
    if (lo >= hi)
        return;
    for (size_t col = 0, n; col < in->n; col += n) {
        n = in->n - col < PANEL_PLAIN_COLUMNS ? in->n - col : PANEL_PLAIN_COLUMNS;
        for (size_t c = 0; c < n && !ready; c += TILE)
            split_columns(in, col + c, n - c < TILE ? n - c : TILE, 0, j.steps,
                          a + c / TILE * j.steps * STEP_BYTES);
        tiles_configure(PARTS * most < TILE ? PARTS * most : TILE, 64, TILE);
        for (size_t p = lo / MAT_PANEL_ROWS; p * MAT_PANEL_ROWS < hi; p += group)
            for (size_t c = 0; c < n; c += TILE)
                mul_group(&j, a + c / TILE * j.steps * STEP_BYTES, col + c,
                          n - c < TILE ? n - c : TILE, p, group);
        TILE_RELEASE();
        if (ready)
            a += n / TILE * j.steps * STEP_BYTES;
    }
}

#endif
