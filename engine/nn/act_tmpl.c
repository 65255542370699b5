/* Elementwise activations, and biases. */

static void tanh_forward(real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = nn_tanh(x[i]);
}

static void tanh_backward(real *dx, const real *dout, const real *out, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        dx[i] = dout[i] * (1 - out[i] * out[i]);
}

static void sigmoid_forward(real *out, const real *x, const real *bias, size_t T, size_t C)
{
    if (!bias) {
        SIMD
        for (size_t i = 0; i < T * C; i++)
            out[i] = nn_sigmoid(x[i]);
        return;
    }
    for (size_t t = 0; t < T; t++) {
        SIMD
        for (size_t c = 0; c < C; c++)
            out[t * C + c] = nn_sigmoid(bias[c] + x[t * C + c]);
    }
}

static void sigmoid_backward(real *dx, real *dbias, const real *dout, const real *out, size_t T,
                             size_t C)
{
    if (!dbias) {
        SIMD
        for (size_t i = 0; i < T * C; i++)
            dx[i] = dout[i] * out[i] * (1 - out[i]);
        return;
    }
    for (size_t t = 0; t < T; t++) {
        SIMD
        for (size_t c = 0; c < C; c++) {
            real s = out[t * C + c], d = dout[t * C + c] * s * (1 - s);
            dx[t * C + c] = d;
            dbias[c] += d;
        }
    }
}

static void relu2_forward(real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real p = x[i] > 0 ? x[i] : 0;
        out[i] = p * p;
    }
}

static void relu2_backward(real *dx, const real *dout, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real p = x[i] > 0 ? x[i] : 0;
        dx[i] = 2 * p * dout[i];
    }
}

static void mul_forward(real *out, const real *x, const real *g, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * g[i];
}

static void mul_backward(real *dx, real *dg, const real *dout, const real *x, const real *g,
                         size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real d = dout[i];
        dx[i] = d * g[i];
        dg[i] = d * x[i];
    }
}

static void silu_forward(real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * nn_sigmoid(x[i]);
}

static void silu_backward(real *dx, const real *dout, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real s = nn_sigmoid(x[i]);
        dx[i] += dout[i] * s * (1 + x[i] * (1 - s));
    }
}

#define GELU_SLOPE ((real)0.7978845608028654) /* sqrt(2 / pi) */
#define GELU_CUBE  ((real)0.044715)

static void gelu_forward(real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real h = nn_tanh(GELU_SLOPE * (x[i] + GELU_CUBE * x[i] * x[i] * x[i]));
        out[i] = (real)0.5 * x[i] * (1 + h);
    }
}

static void gelu_backward(real *dx, const real *dout, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real q = x[i] * x[i], h = nn_tanh(GELU_SLOPE * (x[i] + GELU_CUBE * q * x[i]));
        real dh = (1 - h * h) * GELU_SLOPE * (1 + 3 * GELU_CUBE * q);
        dx[i] += dout[i] * (real)0.5 * (1 + h + x[i] * dh);
    }
}

static void bias_forward(real *out, const real *bias, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++) {
        SIMD
        for (size_t c = 0; c < C; c++)
            out[t * C + c] += bias[c];
    }
}

static void bias_backward(real *dbias, const real *dout, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++) {
        SIMD
        for (size_t c = 0; c < C; c++)
            dbias[c] += dout[t * C + c];
    }
}
