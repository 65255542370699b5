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

#define GELU_SLOPE ((real)1.5957691216057308) /* 2 sqrt(2 / pi) */
#define GELU_CUBE  ((real)0.044715)

/* (1 + tanh(z)) / 2 = sigmoid(2 z) = 1 - 1 / (1 + e^2z). Not nn_sigmoid: where it cuts its exponent off, GCC multiplies by its
 * value there in every lane, which is denormal, and each such product takes the processor 100 cycles. */
static inline real gelu_gate(real x)
{
    return 1 - 1 / (1 + nn_exp(GELU_SLOPE * (x + GELU_CUBE * x * x * x)));
}

static void gelu_forward(real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * gelu_gate(x[i]);
}

static void gelu_backward(real *d, real *out, const real *x, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real s = gelu_gate(x[i]), slope = GELU_SLOPE * (1 + 3 * GELU_CUBE * x[i] * x[i]);
        out[i] = x[i] * s;
        d[i] *= s * (1 + x[i] * (1 - s) * slope);
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
