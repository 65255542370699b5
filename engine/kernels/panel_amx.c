/* Products of panels with AMX: tiles of 16 columns by 16 rows. Fewer columns go to panel_vnni.c, whose
 * bytes are the same.
 *
 * A tile takes one block of 32 at a time, as each has its scale: A = 16 columns' integers [16, 32], B = the
 * panel's [8 groups, 16 rows, 4], C = sums [16 columns, 16 rows], which pass through memory to the
 * vectors that scale and add them. */
#include "engine/kernels/panel.h"

#if defined(__x86_64__)

#include "engine/kernels/tile_x86.h"

#include <immintrin.h>
#include <string.h>

enum { TILE = 16, FEWEST = 9 }; /* columns a tile; fewer than FEWEST are not worth one */
enum { AHEAD = 4 };             /* blocks whose sums are on their way through memory */

/* Asks for what follows this block: the first columns find it in memory, the others in the cache. */
static inline void ask_for(const uint8_t *integers, size_t col)
{
    for (size_t line = 0; col == 0 && line < 512; line += 64)
        __builtin_prefetch(integers + line + 1024);
}

/* Sums of block b into s [n][16]. */
#define BLOCK_SUMS(c, a, w, b)                                                                     \
    do {                                                                                           \
        TILE_LOAD(c, magic, 64);                                                                   \
        TILE_LOAD(a, q + (b)*TILE * PANEL_BLOCK, PANEL_BLOCK);                                     \
        TILE_LOAD(w, integers + (b)*512, 64);                                                      \
        ask_for(integers + (b)*512, col);                                                          \
        TILE_DOT_INT8(c, a, w);                                                                    \
        TILE_STORE(c, s[(b) % AHEAD], 64);                                                         \
    } while (0)

struct job {
    const struct panel_in *in;
    const uint8_t *scales;
    const int32_t *magic; /* [16][16] */
    int32_t (*s)[TILE * 16];
};

static inline __attribute__((always_inline)) void add_block(__m512 *acc, const struct job *j,
                                                            size_t b, size_t col, const int n)
{
    const float *d = j->in->d + col * j->in->blocks + b * TILE;
    __m512 scale = _mm512_cvtph_ps(
        _mm256_loadu_si256((const __m256i *)(const void *)(j->scales + b * MAT_PANEL_ROWS * 2)));
    __m512 bias = _mm512_mul_ps(scale, _mm512_set1_ps(-PANEL_MAGIC_F));
#pragma GCC unroll 16
    for (int c = 0; c < n; c++) {
        __m512 v = _mm512_fmadd_ps(_mm512_loadu_ps(j->s[b % AHEAD] + c * 16), scale, bias);
        acc[c] = _mm512_fmadd_ps(v, _mm512_set1_ps(d[c]), acc[c]);
    }
}

/* y [16 columns from col][16 rows] of one panel. */
static void tile_mul(float (*y)[16], const uint8_t *integers, const struct job *j, size_t col)
{
    const struct panel_in *in = j->in;
    const int8_t *q = in->q + col * in->blocks * PANEL_BLOCK;
    const int32_t *magic = j->magic;
    int32_t(*s)[TILE * 16] = j->s;
    __m512 acc[TILE];
#pragma GCC unroll 16
    for (int c = 0; c < TILE; c++)
        acc[c] = _mm512_setzero_ps();
    for (size_t b = 0; b < in->blocks; b += AHEAD) {
        BLOCK_SUMS(0, 4, 6, b);
        if (b + 1 < in->blocks)
            BLOCK_SUMS(1, 5, 7, b + 1);
        if (b + 2 < in->blocks)
            BLOCK_SUMS(2, 4, 6, b + 2);
        if (b + 3 < in->blocks)
            BLOCK_SUMS(3, 5, 7, b + 3);
        for (size_t i = b; i < b + AHEAD && i < in->blocks; i++)
            add_block(acc, j, i, col, TILE);
    }
#pragma GCC unroll 16
    for (int c = 0; c < TILE; c++)
        _mm512_storeu_ps(y[c], acc[c]);
}

static void store(float (*y)[16], const struct mat_out *out, size_t col, size_t n, size_t row,
                  size_t lo, size_t hi)
{
    unsigned from = lo > row ? (unsigned)(lo - row) : 0,
             to = hi - row < 16 ? (unsigned)(hi - row) : 16;
    __mmask16 wanted = (__mmask16)((1u << to) - (1u << from));
    for (size_t c = 0; c < n; c++) {
        float *o = out->y[col + c] + row;
        __m512 v = _mm512_loadu_ps(y[c]);
        if (out->add)
            v = _mm512_add_ps(_mm512_maskz_loadu_ps(wanted, o), v);
        _mm512_mask_storeu_ps(o, wanted, v);
    }
}

/* Q4_0's integers as Q8_0's. */
static const uint8_t *unpack(const struct mat *m, size_t panel, uint8_t *to)
{
    const uint8_t *from = panel__integers(m, panel);
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
    if (m->type == DTYPE_Q8_0)
        return from;
    for (size_t b = 0; b < m->cols / PANEL_BLOCK; b++)
        for (size_t g = 0; g < 4; g++) {
            __m512i v = _mm512_loadu_si512(from + b * 256 + g * 64);
            __m512i lo = _mm512_and_si512(v, low),
                    hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            _mm512_storeu_si512(to + b * 512 + g * 64, _mm512_sub_epi8(lo, eight));
            _mm512_storeu_si512(to + b * 512 + 256 + g * 64, _mm512_sub_epi8(hi, eight));
        }
    return to;
}

/* Up to PANEL_COLUMNS columns; the last of a tile's 16 may be any memory: integers never trap. */
static void mul_columns(const struct mat *m, size_t lo, size_t hi, struct panel_in *q,
                        const struct mat_out *out, uint8_t *room)
{
    _Alignas(64) int32_t magic[TILE * 16], s[AHEAD][TILE * 16];
    _Alignas(64) float y[TILE][16];
    for (int i = 0; i < TILE * 16; i++)
        magic[i] = PANEL_MAGIC;
    for (size_t panel = lo / MAT_PANEL_ROWS; panel * MAT_PANEL_ROWS < hi; panel++) {
        const uint8_t *integers = unpack(m, panel, room);
        struct job j = {q, panel__scales(m, panel), magic, s};
        for (size_t col = 0; col < q->n; col += TILE) {
            size_t n = q->n - col < TILE ? q->n - col : TILE;
            tile_mul(y, integers, &j, col);
            store(y, out, col, n, panel * MAT_PANEL_ROWS, lo, hi);
        }
    }
}

/* Of n columns, those that tiles take; the rest is panel_vnni.c's. */
static size_t tiled(enum dtype type, size_t n)
{
    const bool any = type == DTYPE_Q8_0 || type == DTYPE_Q4_0;
    return !any ? 0 : n % TILE < FEWEST ? n / TILE * TILE : n;
}

/* Their bytes when they are ready, before those of the rest. */
static size_t tiled_bytes(enum dtype type, size_t n, size_t blocks)
{
    return panel__in_bytes(type, (n + TILE - 1) / TILE * TILE, blocks);
}

static struct mat_in rest_of(const struct mat_in *in, size_t n)
{
    return (struct mat_in){.x = in->x + n * in->ldx, .ldx = in->ldx, .n = in->n - n};
}

void panel__ready_amx(enum dtype type, const struct mat_in *in, size_t cols, size_t lo, size_t hi,
                      void *memory)
{
    const size_t n = tiled(type, in->n), blocks = cols / PANEL_BLOCK;
    const struct mat_in part = {.x = in->x, .ldx = in->ldx, .n = n}, rest = rest_of(in, n);
    struct panel_in q = {.n = n, .blocks = blocks, .group = TILE};
    if (type == DTYPE_BF16) {
        panel__ready_bf16_amx(type, in, cols, lo, hi, memory);
        return;
    }
    panel__carve(&q, type, (n + TILE - 1) / TILE * TILE, memory);
    panel__quantise_vnni(&part, 0, lo / PANEL_BLOCK, hi / PANEL_BLOCK, &q);
    panel__ready_vnni(type, &rest, cols, lo, hi, (char *)memory + tiled_bytes(type, n, blocks));
}

void panel__mul_amx(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                    const struct mat_out *out, float *scratch)
{
    if (m->type == DTYPE_BF16) {
        panel__mul_bf16_amx(m, lo, hi, in, out, scratch);
        return;
    }
    const bool ready = mat_in_ready(in, m->type);
    const size_t n = tiled(m->type, in->n), blocks = m->cols / PANEL_BLOCK;
    struct panel_in all = {.blocks = blocks, .group = TILE};
    panel__carve(&all, m->type, ready ? (n + TILE - 1) / TILE * TILE : PANEL_COLUMNS,
                 ready ? in->ready : scratch);
    if (n && lo < hi)
        tiles_configure(TILE, PANEL_BLOCK, 8);
    for (size_t col = 0, some; col < n && lo < hi; col += some) {
        some = n - col < PANEL_COLUMNS ? n - col : PANEL_COLUMNS;
        const struct mat_in part = {.x = in->x + col * in->ldx, .ldx = in->ldx, .n = some};
        const struct mat_out to = {out->y + col, out->add};
        struct panel_in q = panel__columns(&all, ready ? col : 0, some);
        if (!ready)
            panel__quantise_vnni(&part, 0, 0, blocks, &q);
        mul_columns(m, lo, hi, &q, &to,
                    (uint8_t *)scratch + panel__in_bytes(m->type, PANEL_COLUMNS, blocks));
    }
    if (n && lo < hi)
        TILE_RELEASE();
    if (n < in->n) {
        struct mat_in rest = rest_of(in, n);
        const struct mat_out to = {out->y + n, out->add};
        if (ready) {
            rest.ready = (char *)in->ready + tiled_bytes(m->type, n, blocks);
            rest.ready_for = m->type;
        }
        panel__mul_vnni(m, lo, hi, &rest, &to, scratch);
    }
}

#endif
