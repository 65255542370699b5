/* The operations in float for AVX2 and FMA. */
#include "engine/nn/nn.h"

#if defined(__x86_64__)

#define NN_REAL       float
#define NN_IS_F32     1
#define NN_VEC_BYTES  32
#define NN_TABLE      nn_f32_avx2
#define NN_TABLE_TYPE struct nn_f32
extern const struct nn_f32 nn_f32_avx2;
#include "engine/nn/nn_tmpl.c"

#endif
