/* Weights in panels as the products take them, and the products themselves, one form a CPU level.
 *
 * A matrix Q8_0 or Q4_0 in memory stands in panels of 16 rows, so that a vector of 16 integer sums
 * belongs to 16 rows and no sum crosses lanes. With B = cols / 32 blocks a row:
 *     integers  [panels][B][8 or 4][16 rows][4 bytes]
 *     scales    [panels][B][16 rows] F16
 * Q8_0: byte i of group g is element 4g + i of the block. Q4_0: its low half is element 4g + i, its
 * high half element 16 + 4g + i, each 8 more than its value. Missing rows of the last panel are zero.
 *
 * Q4_K, Q5_K and Q6_K, by blocks of 256 columns, kept whole so that a panel is one stream:
 *     [panels][cols / 256] of
 *         d [16 rows] F16, then m [16 rows] F16 (not Q6_K)
 *         scales [8][16 rows], minima [8][16 rows]; Q6_K: scales [16][16 rows], 128 more each
 *         low four bits [8 blocks of 32][4][16 rows][4 bytes], as Q4_0's
 *         the bits above [8][16 rows][4 bytes], two such for Q6_K: of byte i of group g, element 4g + i has
 *         bit 2g (Q6_K: bits 4 (g % 2) and the next of the second or first, g / 2), 16 + 4g + i what is above
 * A weight is d scale q - m minimum, or d scale (q - 32). The scales' own packing is undone, so Q4_K and Q5_K
 * take 4.625 and 5.625 bits instead of 4.5 and 5.5.
 *
 * F32, F16: [panels][cols][16 rows]. BF16, as tiles take it (panel_bf16_amx.c), with S = cols / 32 steps, the last
 * padded with zeros: [panels][S][16 pairs][16 rows][2].
 *
 * A product of the quantised types takes columns quantised the same way: of each 32 numbers x
 *     d = max |x| / 127,   q_i = x_i 127 / max |x|, rounded to the nearest, halves to even
 * (max |x| up to 2^-100: zeros; not finite: d is NaN and so is the product), and is
 *     y_o = sum over blocks b, in order, of (sum over the block of w_i q_i) (scale_ob d_b)
 * where the inner sum is an exact integer, and its product with w's scale and then d is added by a fused
 * multiply-add (but at level C). So every form at every level but C gives the same bytes. Of the K types a
 * scale is the exact product of two; Q6_K has one for each 16; and behind each block its minimum times d
 * times the sum of the q_i is subtracted. */
#ifndef ENGINE_PANEL_H
#define ENGINE_PANEL_H

#include "engine/kernels/kern.h"

#include <stdint.h>

enum { PANEL_BLOCK = 32, PANEL_SUPER = 8 /* blocks of a K type's */ };

/* An integer sum begins at the bits of 1.5 2^23, to which an integer below 2^22 adds as it would to the
 * float: float and sum are then one number, s = 1.5 2^23 + i, and i scale = fma(s, scale, -1.5 2^23 scale)
 * with one rounding, as scale has 11 bits (18, K types). (Not at level C.) */
#define PANEL_MAGIC   0x4b400000
#define PANEL_MAGIC_F 0x1.8p23f

/* Up to PANEL_COLUMNS columns, quantised: they stay in the second cache while all rows pass by. */
enum { PANEL_COLUMNS = 128 };
enum { PANEL_PLAIN_COLUMNS = 64 }; /* the same of plain types */
struct panel_in {
    int8_t *q; /* [n / group, blocks, group, 32] */
    float *d;  /* [n / group, blocks, group] */
    int32_t
        *start; /* the same: where an integer sum begins, less offset times the sum of the q_i if
                       the weights have an offset */
    /* Of the K types alone, else NULL; groups of one column: */
    int32_t *half; /* [n, blocks, 2]: start of each half of a block */
    float *sum;    /* [n, blocks]: -d times the sum of the q_i */
    size_t n, blocks;
    size_t group; /* columns that lie together: 1, or a tile's 16 */
};

static inline size_t panel__group_bytes(enum dtype t) /* of the integers of 16 rows and a block */
{
    return t == DTYPE_Q8_0 ? 512 : 256;
}
static inline const uint8_t *panel__integers(const struct mat *m, size_t panel)
{
    return (const uint8_t *)m->data + panel * (m->cols / PANEL_BLOCK) * panel__group_bytes(m->type);
}
static inline const uint8_t *panel__scales(const struct mat *m, size_t panel)
{
    size_t panels = (m->rows + MAT_PANEL_ROWS - 1) / MAT_PANEL_ROWS;
    return panel__integers(m, panels) + panel * (m->cols / PANEL_BLOCK) * MAT_PANEL_ROWS * 2;
}

static inline bool panel__is_plain(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

/* The parts of 16 rows and 256 columns of a K type, as above: where each begins. */
struct panel_super {
    size_t scales, low, high, bytes;
};
static inline bool panel__is_k(enum dtype t)
{
    return t == DTYPE_Q4_K || t == DTYPE_Q5_K || t == DTYPE_Q6_K;
}
static inline struct panel_super panel__super(enum dtype t)
{
    const size_t scales = t == DTYPE_Q6_K ? 32 : 64, low = scales + 256, high = low + 2048;
    return (struct panel_super){scales, low, high,
                                high + (t == DTYPE_Q4_K   ? 0
                                        : t == DTYPE_Q5_K ? 512
                                                          : 1024)};
}

/* Of so many columns. */
static inline size_t panel__in_bytes(enum dtype type, size_t columns, size_t blocks)
{
    return (columns * blocks * (PANEL_BLOCK + (panel__is_k(type) ? 20 : 8)) + 63) / 64 * 64;
}
/* Lays `to` out for so many columns in memory [panel__in_bytes]. */
static inline void panel__carve(struct panel_in *to, enum dtype type, size_t columns, void *memory)
{
    const size_t all = columns * to->blocks;
    to->d = memory;
    to->start = (int32_t *)(void *)(to->d + all);
    to->half = panel__is_k(type) ? to->start + all : NULL;
    to->sum = panel__is_k(type) ? (float *)(void *)(to->start + 3 * all) : NULL;
    to->q = (int8_t *)(to->start + (to->half ? 4 : 1) * all);
}
/* n columns from col, a multiple of the group. */
static inline struct panel_in panel__columns(const struct panel_in *all, size_t col, size_t n)
{
    const size_t at = col * all->blocks;
    return (struct panel_in){.q = all->q + at * PANEL_BLOCK,
                             .d = all->d + at,
                             .start = all->start + at,
                             .half = all->half ? all->half + 2 * at : NULL,
                             .sum = all->sum ? all->sum + at : NULL,
                             .n = n,
                             .blocks = all->blocks,
                             .group = all->group};
}
/* Blocks lo..hi of all columns. */
typedef void panel_quantise(const struct mat_in *in, int32_t offset, size_t lo, size_t hi,
                            struct panel_in *to);
panel_quantise panel__quantise_c, panel__quantise_neon, panel__quantise_dotprod,
    panel__quantise_avx2, panel__quantise_vnni;

/* struct kern's make_ready and mul_panels. */
typedef void panel_ready(enum dtype type, const struct mat_in *in, size_t cols, size_t lo,
                         size_t hi, void *memory);
panel_ready panel__ready_c, panel__ready_neon, panel__ready_dotprod, panel__ready_avx2,
    panel__ready_vnni, panel__ready_amx, panel__ready_bf16_amx;

typedef void panel_mul(const struct mat *w, size_t lo, size_t hi, const struct mat_in *in,
                       const struct mat_out *out, float *scratch);
panel_mul panel__mul_c, panel__mul_neon, panel__mul_dotprod, panel__mul_avx2, panel__mul_avx512,
    panel__mul_vnni, panel__mul_amx, panel__mul_bf16_amx;

#endif
