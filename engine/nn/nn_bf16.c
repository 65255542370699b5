/* linear and project (linear_tmpl.c) with BF16 operands. */
#include "engine/kernels/gemm_bf16.h"
#include "engine/nn/nn.h"

static void linear_forward(float *out, const float *x, const float *W, size_t T, size_t I, size_t O,
                           float beta)
{
    gemm_bf16(false, true, T, O, I, x, I, W, I, beta, out, O);
}

static void linear_backward(float *dx, float *dW, const float *dout, const float *x, const float *W,
                            size_t T, size_t I, size_t O)
{
    if (dx)
        gemm_bf16(false, false, T, I, O, dout, O, W, I, 1, dx, I);
    if (dW)
        gemm_bf16(true, false, O, I, T, dout, O, x, I, 1, dW, I);
}

static void project_forward(float *out, const float *x, const float *W, size_t T, size_t I,
                            size_t O)
{
    gemm_bf16(false, false, T, O, I, x, I, W, O, 0, out, O);
}

static void project_backward(float *dx, float *dW, const float *dout, const float *x,
                             const float *W, size_t T, size_t I, size_t O)
{
    if (dx)
        gemm_bf16(false, true, T, I, O, dout, O, W, O, 1, dx, I);
    if (dW)
        gemm_bf16(true, false, I, O, T, x, I, dout, O, 1, dW, O);
}

bool nn_bf16_products(struct nn_f32 *op)
{
    if (!gemm_bf16_supported())
        return false;
    op->linear_forward = linear_forward;
    op->linear_backward = linear_backward;
    op->project_forward = project_forward;
    op->project_backward = project_backward;
    return true;
}
