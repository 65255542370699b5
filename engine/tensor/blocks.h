/* GGUF's quantised blocks to and from F32; the layouts are in blocks.c. Internal to engine/tensor:
 * callers use dtype.h. */
#ifndef ENGINE_TENSOR_BLOCKS_H
#define ENGINE_TENSOR_BLOCKS_H

#include "engine/tensor/dtype.h"

/* n_blocks at src, any alignment, to dst [n_blocks * block length]. A type without blocks: nothing.
 */
void blocks_to_f32(enum dtype t, const uint8_t *src, float *dst, size_t n_blocks);
/* Q8_0 and Q4_0; others: false. A NaN counts as 0. */
bool blocks_from_f32(enum dtype t, const float *src, uint8_t *dst, size_t n_blocks);

#endif
