/* All operations for one element type and instruction set: included once by each nn_<type>_<isa>.c,
 * which defines NN_REAL, NN_IS_F32, NN_VEC_BYTES and NN_TABLE. */
#include "engine/kernels/gemm.h"
#include "engine/nn/nn.h"
#include "engine/nn/nn_real.h"

#if NN_IS_F32
#define GEMM gemm_f32
#else
#define GEMM gemm_f64
#endif

#include "engine/nn/embed_tmpl.c"
#include "engine/nn/norm_tmpl.c"
#include "engine/nn/linear_tmpl.c"
#include "engine/nn/attention_tmpl.c"
#include "engine/nn/act_tmpl.c"
#include "engine/nn/adaln_tmpl.c"
#include "engine/nn/timemix_tmpl.c"
#include "engine/nn/wkv7_tmpl.c"
#include "engine/nn/loss_tmpl.c"
#include "engine/nn/optim_tmpl.c"

#define XX(name, args) .name = name,
const NN_TABLE_TYPE NN_TABLE = {NN_OPS(XX)};
#undef XX
