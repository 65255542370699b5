/* LayerNorm and GroupNorm: xhat = (x - mean) * rstd per group of N, out = xhat * weight + bias.
 *
 * Backward, with g = dout * weight:  dx = rstd * (g - mean(g) - xhat * mean(g * xhat)). */

static void norm_forward(real *out, real *mean, real *rstd, const real *x, const real *weight,
                         const real *bias, size_t T, size_t H, size_t N, real eps)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *xi = x + i * N, *w = weight + i % H * N, *b = bias + i % H * N;
        real *o = out + i * N;
        real m = 0, v = 0;
        SIMD_SUM(m)
        for (size_t n = 0; n < N; n++)
            m += xi[n];
        m /= (real)N;
        SIMD_SUM(v)
        for (size_t n = 0; n < N; n++)
            v += (xi[n] - m) * (xi[n] - m);
        real s = 1 / NN_SQRT(v / (real)N + eps);
        SIMD
        for (size_t n = 0; n < N; n++)
            o[n] = (xi[n] - m) * s * w[n] + b[n];
        mean[i] = m;
        rstd[i] = s;
    }
}

static void norm_backward(real *dx, real *dweight, real *dbias, const real *dout, const real *x,
                          const real *mean, const real *rstd, const real *weight, size_t T,
                          size_t H, size_t N)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *xi = x + i * N, *d = dout + i * N, *w = weight + i % H * N;
        real *dw = dweight + i % H * N, *db = dbias + i % H * N, *dxi = dx + i * N;
        real m = mean[i], s = rstd[i], g0 = 0, g1 = 0;
        SIMD_SUM(g0, g1)
        for (size_t n = 0; n < N; n++) {
            real xhat = (xi[n] - m) * s, g = d[n] * w[n];
            g0 += g;
            g1 += g * xhat;
        }
        g0 /= (real)N;
        g1 /= (real)N;
        SIMD
        for (size_t n = 0; n < N; n++) {
            real xhat = (xi[n] - m) * s;
            dxi[n] += s * (d[n] * w[n] - g0 - xhat * g1);
            dw[n] += d[n] * xhat;
            db[n] += d[n];
        }
    }
}
