/* Multi-head attention without a mask, for each sample and head:
 *
 *     P = softmax(q k^T / sqrt(N)) by rows,    out = P v
 *
 * Backward:
 *     dv = P^T dout,  dP = dout v^T,  dS = P (dP - sum of P dP by rows),
 *     dq = dS k / sqrt(N),  dk = dS^T q / sqrt(N) */

/* One head of one sample: q [n, N], k and v [m, N], columns of wider arrays. */
struct head {
    const real *q, *k, *v;
    size_t n, m, N;
    size_t ldq, ldk, ldo; /* between rows of q, of k and v, of out */
};

/* Eight at a time, which do not wait for each other. */
static real row_top(const real *p, size_t m)
{
    real top[8];
    size_t u = 0;
    for (size_t k = 0; k < 8; k++)
        top[k] = p[0];
    for (; u + 8 <= m; u += 8) {
        SIMD
        for (size_t k = 0; k < 8; k++)
            top[k] = p[u + k] > top[k] ? p[u + k] : top[k];
    }
    for (; u < m; u++)
        top[0] = p[u] > top[0] ? p[u] : top[0];
    for (size_t k = 1; k < 8; k++)
        top[0] = top[k] > top[0] ? top[k] : top[0];
    return top[0];
}

static void attention_softmax(real *p, size_t n, size_t m)
{
    for (size_t t = 0; t < n; t++, p += m) {
        real top = row_top(p, m), sum = 0;
        SIMD_SUM(sum)
        for (size_t u = 0; u < m; u++) {
            p[u] = nn_exp(p[u] - top);
            sum += p[u];
        }
        real inv = 1 / sum;
        SIMD
        for (size_t u = 0; u < m; u++)
            p[u] *= inv;
    }
}

static void head_forward(const struct head *h, real *p, real *out)
{
    const size_t n = h->n, m = h->m, N = h->N;
    GEMM(false, true, n, m, N, 1 / NN_SQRT((real)N), h->q, h->ldq, h->k, h->ldk, 0, p, m);
    attention_softmax(p, n, m);
    GEMM(false, false, n, N, m, 1, p, m, h->v, h->ldk, 0, out, h->ldo);
}

/* dq, dk, dv lie as q, k, v do; scratch [n, m]. */
static void head_backward(const struct head *h, const real *p, const real *d, real *const dqkv[3],
                          real *ds)
{
    const size_t n = h->n, m = h->m, N = h->N;
    const real scale = 1 / NN_SQRT((real)N);
    GEMM(true, false, m, N, n, 1, p, m, d, h->ldo, 1, dqkv[2], h->ldk);
    GEMM(false, true, n, m, N, 1, d, h->ldo, h->v, h->ldk, 0, ds, m);
    for (size_t t = 0; t < n; t++) {
        const real *pt = p + t * m;
        real *dst = ds + t * m, dot = 0;
        SIMD_SUM(dot)
        for (size_t u = 0; u < m; u++)
            dot += pt[u] * dst[u];
        SIMD
        for (size_t u = 0; u < m; u++)
            dst[u] = pt[u] * (dst[u] - dot);
    }
    GEMM(false, false, n, N, m, scale, ds, m, h->k, h->ldk, 1, dqkv[0], h->ldq);
    GEMM(true, false, m, N, n, scale, ds, m, h->q, h->ldq, 1, dqkv[1], h->ldk);
}

/* Row t of qkv holds q, k and v of all heads. */
static void attention_forward(real *out, real *probs, const real *qkv, size_t S, size_t n, size_t H,
                              size_t N)
{
    const size_t C = H * N, ld = 3 * C;
    for (size_t i = 0; i < S * H; i++) {
        const real *q = qkv + i / H * n * ld + i % H * N;
        const struct head h = {q, q + C, q + 2 * C, n, n, N, ld, ld, C};
        head_forward(&h, probs + i * n * n, out + i / H * n * C + i % H * N);
    }
}

static void attention_backward(real *dqkv, const real *dout, const real *probs, const real *qkv,
                               size_t S, size_t n, size_t H, size_t N, real *scratch)
{
    const size_t C = H * N, ld = 3 * C;
    for (size_t i = 0; i < S * H; i++) {
        const size_t at = i / H * n * ld + i % H * N;
        const real *q = qkv + at;
        const struct head h = {q, q + C, q + 2 * C, n, n, N, ld, ld, C};
        real *const d[3] = {dqkv + at, dqkv + at + C, dqkv + at + 2 * C};
        head_backward(&h, probs + i * n * n, dout + i / H * n * C + i % H * N, d, scratch);
    }
}

/* Row t of kv holds k and v of all heads; a sample uses its first m[s] rows, and one without any
 * gets 0. */
static void cross_forward(real *out, real *probs, const real *q, const real *kv, const size_t *m,
                          size_t S, size_t n, size_t M, size_t H, size_t N)
{
    const size_t C = H * N;
    memset(out, 0, S * n * C * sizeof *out);
    for (size_t i = 0; i < S * H; i++) {
        const size_t s = i / H, at = s * n * C + i % H * N;
        const real *k = kv + s * M * 2 * C + i % H * N;
        const struct head h = {q + at, k, k + C, n, m[s], N, C, 2 * C, C};
        if (m[s])
            head_forward(&h, probs + i * n * M, out + at);
    }
}

static void cross_backward(real *dq, real *dkv, const real *dout, const real *probs, const real *q,
                           const real *kv, const size_t *m, size_t S, size_t n, size_t M, size_t H,
                           size_t N, real *scratch)
{
    const size_t C = H * N;
    for (size_t i = 0; i < S * H; i++) {
        const size_t s = i / H, at = s * n * C + i % H * N, at_k = s * M * 2 * C + i % H * N;
        const real *k = kv + at_k;
        const struct head h = {q + at, k, k + C, n, m[s], N, C, 2 * C, C};
        real *const d[3] = {dq + at, dkv + at_k, dkv + at_k + C};
        if (m[s])
            head_backward(&h, probs + i * n * M, dout + at, d, scratch);
    }
}
