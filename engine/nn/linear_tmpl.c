/* Products with weights. */

#if NN_IS_F32
#define GEMM gemm_f32
#else
#define GEMM gemm_f64
#endif

static void linear_forward(real *out, const real *x, const real *W, size_t T, size_t I, size_t O,
                           real beta)
{
    GEMM(false, true, T, O, I, 1, x, I, W, I, beta, out, O);
}

static void linear_backward(real *dx, real *dW, const real *dout, const real *x, const real *W,
                            size_t T, size_t I, size_t O)
{
    if (dx) /* out = x W^T */
        GEMM(false, false, T, I, O, 1, dout, O, W, I, 1, dx, I);
    if (dW)
        GEMM(true, false, O, I, T, 1, dout, O, x, I, 1, dW, I);
}

static void project_forward(real *out, const real *x, const real *W, size_t T, size_t I, size_t O)
{
    GEMM(false, false, T, O, I, 1, x, I, W, O, 0, out, O);
}

static void project_backward(real *dx, real *dW, const real *dout, const real *x, const real *W,
                             size_t T, size_t I, size_t O)
{
    if (dx) /* out = x W */
        GEMM(false, true, T, I, O, 1, dout, O, W, O, 1, dx, I);
    if (dW)
        GEMM(true, false, I, O, T, 1, x, I, dout, O, 1, dW, O);
}
