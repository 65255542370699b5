/* The products with weights (linear_tmpl.c) with BF16 operands: included by each nn_bf16_<isa>.c, which defines
 * NN_GEMM and NN_BF16_SET. */
#include "engine/nn/nn_internal.h"

#define NN_REAL      float
#define NN_IS_F32    1
#define NN_VEC_BYTES 64
#include "engine/nn/nn_real.h"

#define FEW_ROWS 0 /* a row's numbers are the same beside any others */
#define GEMM(ta, tb, m, n, k, alpha, ...) NN_GEMM(ta, tb, m, n, k, __VA_ARGS__)
#include "engine/nn/linear_tmpl.c"

void NN_BF16_SET(struct nn_f32 *op)
{
    op->linear_forward = linear_forward;
    op->linear_backward = linear_backward;
    op->project_forward = project_forward;
    op->project_backward = project_backward;
    op->token_project_forward = token_project_forward;
    op->token_project_backward = token_project_backward;
}
