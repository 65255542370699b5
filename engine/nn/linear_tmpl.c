/* Products with weights. */

/* A few rows: the weights are read where they lie, once. BLAS would copy them first. */
#ifndef FEW_ROWS
#define FEW_ROWS 2
#endif
static void few_forward(real *out, const real *x, const real *W, size_t T, size_t I, size_t O,
                        real beta)
{
    for (size_t o = 0; o < O; o++)
        for (size_t t = 0; t < T; t++) {
            real sum = 0;
            SIMD_SUM(sum)
            for (size_t i = 0; i < I; i++)
                sum += x[t * I + i] * W[o * I + i];
            out[t * O + o] = beta == 0 ? sum : beta * out[t * O + o] + sum;
        }
}

static void linear_forward(real *out, const real *x, const real *W, size_t T, size_t I, size_t O,
                           real beta)
{
    if (T <= FEW_ROWS)
        few_forward(out, x, W, T, I, O, beta);
    else
        GEMM(false, true, T, O, I, 1, x, I, W, I, beta, out, O);
}

static void linear_backward(real *dx, real *dW, const real *dout, const real *x, const real *W,
                            size_t T, size_t I, size_t O, real beta)
{
    if (dx) /* out = x W^T */
        GEMM(false, false, T, I, O, 1, dout, O, W, I, beta, dx, I);
    if (dW)
        GEMM(true, false, O, I, T, 1, dout, O, x, I, 1, dW, I);
}

static void project_forward(real *out, const real *x, const real *W, size_t T, size_t I, size_t O)
{
    GEMM(false, false, T, O, I, 1, x, I, W, O, 0, out, O);
}

static void project_backward(real *dx, real *dW, const real *dout, const real *x, const real *W,
                             size_t T, size_t I, size_t O, real beta)
{
    if (dx) /* out = x W */
        GEMM(false, true, T, I, O, 1, dout, O, W, O, beta, dx, I);
    if (dW)
        GEMM(true, false, I, O, T, 1, x, I, dout, O, 1, dW, O);
}

/* One product a place, over rows that lie G apart. */
static void token_project_forward(real *out, const real *x, const real *W, size_t S, size_t G,
                                  size_t I, size_t O)
{
    for (size_t g = 0; g < G; g++)
        GEMM(false, false, S, O, I, 1, x + g * I, G * I, W + g * I * O, O, 0, out + g * O, G * O);
}

static void token_project_backward(real *dx, real *dW, const real *dout, const real *x,
                                   const real *W, size_t S, size_t G, size_t I, size_t O)
{
    for (size_t g = 0; g < G; g++) {
        if (dx)
            GEMM(false, true, S, I, O, 1, dout + g * O, G * O, W + g * I * O, O, 1, dx + g * I,
                 G * I);
        if (dW)
            GEMM(true, false, I, O, S, 1, x + g * I, G * I, dout + g * O, G * O, 1, dW + g * I * O,
                 O);
    }
}
