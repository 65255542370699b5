/* The operations in double: the reference that gradients are checked with. */
#include "engine/nn/nn.h"

#define NN_REAL       double
#define NN_IS_F32     0
#define NN_VEC_BYTES  16
#define NN_TABLE      nn_f64
#define NN_TABLE_TYPE struct nn_f64
#include "engine/nn/nn_tmpl.c"
