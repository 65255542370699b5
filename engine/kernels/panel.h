/* Weights in panels as the products take them, and the products themselves, one form a CPU level.
 *
 * A matrix Q8_0 or Q4_0 in memory stands in panels of 16 rows, so that a vector of 16 integer sums
 * belongs to 16 rows and no sum crosses lanes. With B = cols / 32 blocks a row:
 *     integers  [panels][B][8 or 4][16 rows][4 bytes]
 *     scales    [panels][B][16 rows] F16
 * Q8_0: byte i of group g is element 4g + i of the block. Q4_0: its low half is element 4g + i, its
 * high half element 16 + 4g + i, each 8 more than its value. Missing rows of the last panel are zero.
 *
 * BF16, where there are tiles (panel_bf16_amx.c), with S = cols / 32 steps, the last padded with zeros:
 *     [panels][S][16 pairs][16 rows][2]
 *
 * A product of the quantised types takes columns quantised the same way: of each 32 numbers x
 *     d = max |x| / 127,   q_i = x_i 127 / max |x|, rounded to the nearest, halves to even
 * (max |x| up to 2^-100: zeros; not finite: d is NaN and so is the product), and is
 *     y_o = sum over blocks b, in order, of (sum over the block of w_i q_i) (scale_ob d_b)
 * where the inner sum is an exact integer, and its product with w's scale and then d is added by a fused
 * multiply-add (but at level C). So every form at every level but C gives the same bytes. */
#ifndef ENGINE_PANEL_H
#define ENGINE_PANEL_H

#include "engine/kernels/kern.h"

#include <stdint.h>

enum { PANEL_BLOCK = 32 };

/* An integer sum begins at the bits of 1.5 2^23, to which an integer below 2^22 adds as it would to the
 * float: float and sum are then one number, s = 1.5 2^23 + i, and i scale = fma(s, scale, -1.5 2^23 scale)
 * with one rounding, as scale has 11 bits. (Not at level C.) */
#define PANEL_MAGIC   0x4b400000
#define PANEL_MAGIC_F 0x1.8p23f

/* Up to PANEL_COLUMNS columns, quantised: they stay in the second cache while all rows pass by. */
enum { PANEL_COLUMNS = 128 };
enum { PANEL_BF16_COLUMNS = 64 };
struct panel_in {
    int8_t *q; /* [n / group, blocks, group, 32] */
    float *d;  /* [n / group, blocks, group] */
    int32_t
        *start; /* the same: where an integer sum begins, less offset times the sum of the q_i if
                       the weights have an offset */
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

/* Lays `to` out in scratch. */
static inline void panel__carve(struct panel_in *to, float *scratch)
{
    to->d = scratch;
    to->start = (int32_t *)(void *)(to->d + PANEL_COLUMNS * to->blocks);
    to->q = (int8_t *)(to->start + PANEL_COLUMNS * to->blocks);
}
typedef void panel_quantise(const struct mat_in *in, int32_t offset, struct panel_in *to);
panel_quantise panel__quantise_c, panel__quantise_neon, panel__quantise_dotprod,
    panel__quantise_avx2, panel__quantise_vnni;

typedef void panel_mul(const struct mat *w, size_t lo, size_t hi, const struct mat_in *in,
                       const struct mat_out *out, float *scratch);
panel_mul panel__mul_c, panel__mul_neon, panel__mul_dotprod, panel__mul_avx2, panel__mul_vnni,
    panel__mul_amx, panel__mul_bf16_amx;

#endif
