/* What a condition does to the rows of its sample: LayerNorm scaled and shifted by it, and the gate
 * of a residual branch.
 *
 * Backward of the norm, with g = dout (1 + scale):  dx = rstd (g - mean(g) - xhat mean(g xhat)). */

static void adaln_forward(real *out, real *mean, real *rstd, const real *x, const real *shift,
                          const real *scale, size_t S, size_t n, size_t C, size_t ld, real eps)
{
    for (size_t i = 0; i < S * n; i++) {
        const real *xi = x + i * C, *w = scale + i / n * ld, *b = shift + i / n * ld;
        real *o = out + i * C;
        real m = 0, v = 0;
        SIMD_SUM(m)
        for (size_t c = 0; c < C; c++)
            m += xi[c];
        m /= (real)C;
        SIMD_SUM(v)
        for (size_t c = 0; c < C; c++)
            v += (xi[c] - m) * (xi[c] - m);
        real s = 1 / NN_SQRT(v / (real)C + eps);
        SIMD
        for (size_t c = 0; c < C; c++)
            o[c] = (xi[c] - m) * s * (1 + w[c]) + b[c];
        mean[i] = m;
        rstd[i] = s;
    }
}

static void adaln_backward(real *dx, real *dshift, real *dscale, const real *dout, const real *x,
                           const real *mean, const real *rstd, const real *scale, size_t S,
                           size_t n, size_t C, size_t ld)
{
    for (size_t i = 0; i < S * n; i++) {
        const real *xi = x + i * C, *d = dout + i * C, *w = scale + i / n * ld;
        real *dw = dscale + i / n * ld, *db = dshift + i / n * ld, *dxi = dx + i * C;
        real m = mean[i], s = rstd[i], g0 = 0, g1 = 0;
        SIMD_SUM(g0, g1)
        for (size_t c = 0; c < C; c++) {
            real xhat = (xi[c] - m) * s, g = d[c] * (1 + w[c]);
            g0 += g;
            g1 += g * xhat;
        }
        g0 /= (real)C;
        g1 /= (real)C;
        SIMD
        for (size_t c = 0; c < C; c++) {
            real xhat = (xi[c] - m) * s;
            dxi[c] += s * (d[c] * (1 + w[c]) - g0 - xhat * g1);
            dw[c] += d[c] * xhat;
            db[c] += d[c];
        }
    }
}

static void gate_forward(real *out, const real *y, const real *gate, size_t S, size_t n, size_t C,
                         size_t ld)
{
    for (size_t i = 0; i < S * n; i++) {
        const real *yi = y + i * C, *g = gate + i / n * ld;
        SIMD
        for (size_t c = 0; c < C; c++)
            out[i * C + c] += g[c] * yi[c];
    }
}

static void gate_backward(real *dy, real *dgate, const real *dout, const real *y, const real *gate,
                          size_t S, size_t n, size_t C, size_t ld)
{
    for (size_t i = 0; i < S * n; i++) {
        const real *yi = y + i * C, *d = dout + i * C, *g = gate + i / n * ld;
        real *dyi = dy + i * C, *dg = dgate + i / n * ld;
        SIMD
        for (size_t c = 0; c < C; c++) {
            dyi[c] += d[c] * g[c];
            dg[c] += d[c] * yi[c];
        }
    }
}
