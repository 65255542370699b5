/* GGUF's quantised blocks to and from F32; the layouts are in blocks.c. Internal to engine/tensor and the
 * kernels: others use dtype.h. */
#ifndef ENGINE_TENSOR_BLOCKS_H
#define ENGINE_TENSOR_BLOCKS_H

#include "engine/tensor/dtype.h"

/* Of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes. Groups 0..3 stand in the low
 * six bits of bytes g and g + 4; groups 4..7 in the nibbles of byte g + 4 under the two high bits of
 * bytes g - 4 and g. */
static inline void block_scales(const uint8_t s[12], uint8_t scale[8], uint8_t min[8])
{
    for (int g = 0; g < 4; g++) {
        scale[g] = s[g] & 63;
        min[g] = s[g + 4] & 63;
        scale[g + 4] = (uint8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        min[g + 4] = (uint8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

/* n_blocks at src, any alignment, to dst [n_blocks * block length]. A type without blocks: nothing.
 */
void blocks_to_f32(enum dtype t, const uint8_t *src, float *dst, size_t n_blocks);
/* Q8_0 and Q4_0; others: false. A NaN counts as 0. */
bool blocks_from_f32(enum dtype t, const float *src, uint8_t *dst, size_t n_blocks);

#endif
