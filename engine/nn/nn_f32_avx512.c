/* The operations in float for AVX-512. */
#include "engine/nn/nn.h"

#if defined(__x86_64__)

#define NN_REAL       float
#define NN_IS_F32     1
#define NN_VEC_BYTES  64
#define NN_TABLE      nn_f32_avx512
#define NN_TABLE_TYPE struct nn_f32
extern const struct nn_f32 nn_f32_avx512;
#include "engine/nn/nn_tmpl.c"

#endif
