/* Multi-head attention without a mask, for each sample and head:
 *
 *     P = softmax(q k^T / sqrt(N)) by rows,    out = P v
 *
 * q, k, v [n, N] are columns of one array: row t of qkv holds q, k and v of all heads. Backward:
 *     dv = P^T dout,  dP = dout v^T,  dS = P (dP - sum of P dP by rows),
 *     dq = dS k / sqrt(N),  dk = dS^T q / sqrt(N) */

static void attention_softmax(real *p, size_t n)
{
    for (size_t t = 0; t < n; t++, p += n) {
        real top = p[0], sum = 0;
        for (size_t u = 1; u < n; u++)
            top = p[u] > top ? p[u] : top;
        SIMD_SUM(sum)
        for (size_t u = 0; u < n; u++) {
            p[u] = nn_exp(p[u] - top);
            sum += p[u];
        }
        real inv = 1 / sum;
        SIMD
        for (size_t u = 0; u < n; u++)
            p[u] *= inv;
    }
}

static void attention_forward(real *out, real *probs, const real *qkv, size_t S, size_t n, size_t H,
                              size_t N)
{
    const size_t C = H * N, ld = 3 * C;
    const real scale = 1 / NN_SQRT((real)N);
    for (size_t i = 0; i < S * H; i++) {
        const real *q = qkv + i / H * n * ld + i % H * N, *k = q + C, *v = k + C;
        real *p = probs + i * n * n;
        GEMM(false, true, n, n, N, scale, q, ld, k, ld, 0, p, n);
        attention_softmax(p, n);
        GEMM(false, false, n, N, n, 1, p, n, v, ld, 0, out + i / H * n * C + i % H * N, C);
    }
}

static void attention_backward(real *dqkv, const real *dout, const real *probs, const real *qkv,
                               size_t S, size_t n, size_t H, size_t N, real *scratch)
{
    const size_t C = H * N, ld = 3 * C;
    const real scale = 1 / NN_SQRT((real)N);
    for (size_t i = 0; i < S * H; i++) {
        const size_t at = i / H * n * ld + i % H * N;
        const real *q = qkv + at, *k = q + C, *v = k + C, *p = probs + i * n * n;
        const real *d = dout + i / H * n * C + i % H * N;
        real *dq = dqkv + at, *dk = dq + C, *dv = dk + C, *ds = scratch;
        GEMM(true, false, n, N, n, 1, p, n, d, C, 1, dv, ld);
        GEMM(false, true, n, n, N, 1, d, C, v, ld, 0, ds, n);
        for (size_t t = 0; t < n; t++) {
            const real *pt = p + t * n;
            real *dst = ds + t * n, dot = 0;
            SIMD_SUM(dot)
            for (size_t u = 0; u < n; u++)
                dot += pt[u] * dst[u];
            SIMD
            for (size_t u = 0; u < n; u++)
                dst[u] = pt[u] * (dst[u] - dot);
        }
        GEMM(false, false, n, N, n, scale, ds, n, k, ld, 1, dq, ld);
        GEMM(true, false, n, N, n, scale, ds, n, q, ld, 1, dk, ld);
    }
}
