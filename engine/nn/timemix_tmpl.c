/* The elementwise parts of RWKV-7's time mixing. Equations in nn_ops.h; the reference is RWKV-LM's
 * train_temp (Peng et al. 2025, arXiv 2503.14456). */

static void shift_forward(real *out, const real *z, const real *z0, const real *mu, size_t T,
                          size_t C)
{
    for (size_t t = 0; t < T; t++) {
        const real *cur = z + t * C, *prev = t ? cur - C : z0;
        SIMD
        for (size_t c = 0; c < C; c++)
            out[t * C + c] = cur[c] + (prev[c] - cur[c]) * mu[c];
    }
}

static void shift_backward(real *dz, real *dz0, real *dmu, const real *dout, const real *z,
                           const real *z0, const real *mu, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++) {
        const real *cur = z + t * C, *prev = t ? cur - C : z0, *d = dout + t * C;
        real *dcur = dz + t * C, *dprev = t ? dcur - C : dz0;
        SIMD
        for (size_t c = 0; c < C; c++) {
            real dm = d[c] * mu[c];
            dcur[c] += d[c] - dm;
            dprev[c] += dm;
            dmu[c] += d[c] * (prev[c] - cur[c]);
        }
    }
}

#define DECAY_RATE ((real)-0.60653065971263342360) /* -e^(-1/2) */

static void decay_forward(real *out, const real *s, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = nn_exp(DECAY_RATE * s[i]);
}

static void decay_backward(real *ds, const real *dout, const real *out, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        ds[i] = DECAY_RATE * dout[i] * out[i];
}

static void vres_forward(real *out, const real *v, const real *v_first, const real *s, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++)
        out[i] = v[i] + (v_first[i] - v[i]) * s[i];
}

static void vres_backward(real *dv, real *dv_first, real *ds, const real *dout, const real *v,
                          const real *v_first, const real *s, size_t n)
{
    SIMD
    for (size_t i = 0; i < n; i++) {
        real d = dout[i], df = d * s[i];
        dv[i] = d - df;
        dv_first[i] += df;
        ds[i] = d * (v_first[i] - v[i]);
    }
}

static void kk_forward(real *out, real *rnorm, const real *k, const real *k_k, size_t T, size_t H,
                       size_t N)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *ki = k + i * N, *m = k_k + i % H * N;
        real *o = out + i * N;
        real ss = 0;
        SIMD_SUM(ss)
        for (size_t n = 0; n < N; n++)
            ss += ki[n] * m[n] * (ki[n] * m[n]);
        real norm = NN_SQRT(ss);
        real inv = 1 / (norm > (real)1e-12 ? norm : (real)1e-12);
        SIMD
        for (size_t n = 0; n < N; n++)
            o[n] = ki[n] * m[n] * inv;
        rnorm[i] = inv;
    }
}

/* du = (dout - out * (out . dout)) / |u|; where |u| was clamped the norm is a constant. */
static void kk_backward(real *dk, real *dk_k, const real *dout, const real *out, const real *rnorm,
                        const real *k, const real *k_k, size_t T, size_t H, size_t N)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *d = dout + i * N, *o = out + i * N, *ki = k + i * N, *m = k_k + i % H * N;
        real *dki = dk + i * N, *dm = dk_k + i % H * N;
        real inv = rnorm[i], dot = 0;
        SIMD_SUM(dot)
        for (size_t n = 0; n < N; n++)
            dot += o[n] * d[n];
        dot = inv < (real)0.99e12 ? dot : 0;
        SIMD
        for (size_t n = 0; n < N; n++) {
            real du = (d[n] - o[n] * dot) * inv;
            dki[n] += du * m[n];
            dm[n] += du * ki[n];
        }
    }
}

static void kmod_forward(real *out, const real *k, const real *a, const real *k_a, size_t T,
                         size_t C)
{
    for (size_t t = 0; t < T; t++) {
        const real *kt = k + t * C, *at = a + t * C;
        SIMD
        for (size_t c = 0; c < C; c++)
            out[t * C + c] = kt[c] * (1 + (at[c] - 1) * k_a[c]);
    }
}

static void kmod_backward(real *dk, real *da, real *dk_a, const real *dout, const real *k,
                          const real *a, const real *k_a, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++) {
        const real *kt = k + t * C, *at = a + t * C, *d = dout + t * C;
        real *dkt = dk + t * C, *dat = da + t * C;
        SIMD
        for (size_t c = 0; c < C; c++) {
            real dkc = d[c] * kt[c];
            dkt[c] = d[c] * (1 + (at[c] - 1) * k_a[c]);
            dat[c] += dkc * k_a[c];
            dk_a[c] += dkc * (at[c] - 1);
        }
    }
}

static void bonus_forward(real *y, const real *r, const real *k, const real *v, const real *r_k,
                          size_t T, size_t H, size_t N)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *ri = r + i * N, *ki = k + i * N, *vi = v + i * N, *m = r_k + i % H * N;
        real *yi = y + i * N;
        real dot = 0;
        SIMD_SUM(dot)
        for (size_t n = 0; n < N; n++)
            dot += ri[n] * ki[n] * m[n];
        SIMD
        for (size_t n = 0; n < N; n++)
            yi[n] += dot * vi[n];
    }
}

static void bonus_backward(real *dr, real *dk, real *dv, real *dr_k, const real *dy, const real *r,
                           const real *k, const real *v, const real *r_k, size_t T, size_t H,
                           size_t N)
{
    for (size_t i = 0; i < T * H; i++) {
        const real *ri = r + i * N, *ki = k + i * N, *vi = v + i * N, *m = r_k + i % H * N;
        const real *d = dy + i * N;
        real *dri = dr + i * N, *dki = dk + i * N, *dvi = dv + i * N, *dm = dr_k + i % H * N;
        real dot = 0, ddot = 0;
        SIMD_SUM(dot, ddot)
        for (size_t n = 0; n < N; n++) {
            dot += ri[n] * ki[n] * m[n];
            ddot += d[n] * vi[n];
        }
        SIMD
        for (size_t n = 0; n < N; n++) {
            dvi[n] += dot * d[n];
            dri[n] += ddot * ki[n] * m[n];
            dki[n] += ddot * ri[n] * m[n];
            dm[n] += ddot * ri[n] * ki[n];
        }
    }
}
