/* The operations in float for the baseline CPU. */
#include "engine/nn/nn.h"

#define NN_REAL       float
#define NN_IS_F32     1
#define NN_VEC_BYTES  16
#define NN_TABLE      nn_f32_c
#define NN_TABLE_TYPE struct nn_f32
extern const struct nn_f32 nn_f32_c;
#include "engine/nn/nn_tmpl.c"
