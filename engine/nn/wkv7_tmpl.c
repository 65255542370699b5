/* WKV-7, for each head (S is [N, N], row i = value index, column j = key index):
 *
 *     sa_i = sum_j S_ij kk_j                                  with the old S
 *     S_ij = S_ij w_j - sa_i b_j + v_i k_j,    b_j = kk_j a_j
 *     y_i  = sum_j S_ij r_j                                   with the new S
 *
 * r, w, k, v, kk, a, y, sa are [T, H, N]; w is the decay itself, in (0, 1). S [H, N, N] goes in as the
 * initial state and comes out as the final one. Kept for backward: sa, and in S_cache [T / chunk, H,
 * N, N] the state before every NN_WKV7_CHUNK-th step; backward recomputes the states inside a chunk.
 * dS comes in as the gradient of the final state and leaves as that of the initial one.
 *
 * Forward holds S transposed (vectors along i), so that no sum runs across a vector; backward needs
 * five sums over i and two over j, and holds S with vectors along j. */

#define WKV7_MAX_N 128

static void wkv7_transpose(real *dst, const real *src, size_t N)
{
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            dst[j * N + i] = src[i * N + j];
}

/* One step of one head: St is S transposed, vectors all [N]. */
static inline void wkv7_step(real *y, real *sa, real *St, const real *r, const real *w, const real *k,
                             const real *v, const real *kk, const real *b, size_t N)
{
    for (size_t i = 0; i < N; i += VEC) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, y0 = {0}, y1 = {0};
        for (size_t j = 0; j < N; j += 4) {
            s0 += vload(St + j * N + i) * kk[j];
            s1 += vload(St + (j + 1) * N + i) * kk[j + 1];
            s2 += vload(St + (j + 2) * N + i) * kk[j + 2];
            s3 += vload(St + (j + 3) * N + i) * kk[j + 3];
        }
        s0 = (s0 + s1) + (s2 + s3);
        vstore(sa + i, s0);
        vec vi = vload(v + i);
        for (size_t j = 0; j < N; j += 2) {
            vec x0 = vload(St + j * N + i) * w[j] - s0 * b[j] + vi * k[j];
            vec x1 = vload(St + (j + 1) * N + i) * w[j + 1] - s0 * b[j + 1] + vi * k[j + 1];
            vstore(St + j * N + i, x0);
            vstore(St + (j + 1) * N + i, x1);
            y0 += x0 * r[j];
            y1 += x1 * r[j + 1];
        }
        vstore(y + i, y0 + y1);
    }
}

static void wkv7_forward(real *y, real *sa, real *S_cache, real *S, const real *r, const real *w,
                         const real *k, const real *v, const real *kk, const real *a, size_t T,
                         size_t H, size_t N, real *scratch)
{
    real b[WKV7_MAX_N];
    for (size_t h = 0; h < H; h++) {
        real *St = scratch;
        wkv7_transpose(St, S + h * N * N, N);
        for (size_t t = 0; t < T; t++) {
            size_t o = (t * H + h) * N;
            if (t % NN_WKV7_CHUNK == 0)
                wkv7_transpose(S_cache + (t / NN_WKV7_CHUNK * H + h) * N * N, St, N);
            for (size_t j = 0; j < N; j++)
                b[j] = kk[o + j] * a[o + j];
            wkv7_step(y + o, sa + o, St, r + o, w + o, k + o, v + o, kk + o, b, N);
        }
        wkv7_transpose(S + h * N * N, St, N);
    }
}

/* next = the state after a step from prev, sa being known. */
static inline void wkv7_redo(real *next, const real *prev, const real *sa, const real *w,
                             const real *b, const real *v, const real *k, size_t N)
{
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j += VEC)
            vstore(next + i * N + j, vload(prev + i * N + j) * vload(w + j) - sa[i] * vload(b + j) +
                                         v[i] * vload(k + j));
}

/* The gradients of one step: dr dw dk dv dkk db [N] are written, dS [N, N] goes from after the step to
 * before it. next, prev: the states after and before. N is a constant where this is inlined. */
static inline __attribute__((always_inline)) void
wkv7_step_backward(real *dr, real *dw, real *dk, real *dv, real *dkk, real *db, real *dS,
                   const real *next, const real *prev, const real *dy, const real *sa, const real *r,
                   const real *w, const real *k, const real *v, const real *kk, const real *b,
                   const size_t N)
{
    vec gr[WKV7_MAX_N / VEC] = {{0}}, gw[WKV7_MAX_N / VEC] = {{0}}, gk[WKV7_MAX_N / VEC] = {{0}},
        gb[WKV7_MAX_N / VEC] = {{0}}, gkk[WKV7_MAX_N / VEC] = {{0}}, d[WKV7_MAX_N / VEC];
    const size_t n = N / VEC;
    for (size_t i = 0; i < N; i++) {
        const real *Sn = next + i * N, *Sp = prev + i * N;
        real *D = dS + i * N;
        vec pv = {0}, pb = {0};
        for (size_t q = 0; q < n; q++) {
            d[q] = vload(D + q * VEC) + dy[i] * vload(r + q * VEC); /* y_i = sum_j S_ij r_j */
            gr[q] += dy[i] * vload(Sn + q * VEC);
            gw[q] += d[q] * vload(Sp + q * VEC);
            gk[q] += d[q] * v[i];
            gb[q] -= d[q] * sa[i];
            pv += d[q] * vload(k + q * VEC);
            pb += d[q] * vload(b + q * VEC);
        }
        real dsa = -vsum(pb); /* S_ij = ... - sa_i b_j */
        dv[i] = vsum(pv);
        for (size_t q = 0; q < n; q++) {
            gkk[q] += dsa * vload(Sp + q * VEC); /* sa_i = sum_j S_ij kk_j */
            vstore(D + q * VEC, d[q] * vload(w + q * VEC) + dsa * vload(kk + q * VEC));
        }
    }
    for (size_t q = 0; q < n; q++) {
        vstore(dr + q * VEC, gr[q]);
        vstore(dw + q * VEC, gw[q]);
        vstore(dk + q * VEC, gk[q]);
        vstore(dkk + q * VEC, gkk[q]);
        vstore(db + q * VEC, gb[q]);
    }
}

/* Not inlined into each other, so that each head size has its own register allocation. */
#define WKV7_STEP_BACKWARD(name, N_)                                                               \
    static __attribute__((noinline)) void name(                                                    \
        real *dr, real *dw, real *dk, real *dv, real *dkk, real *db, real *dS, const real *next,   \
        const real *prev, const real *dy, const real *sa, const real *r, const real *w,            \
        const real *k, const real *v, const real *kk, const real *b, size_t N)                     \
    {                                                                                              \
        (void)N;                                                                                   \
        wkv7_step_backward(dr, dw, dk, dv, dkk, db, dS, next, prev, dy, sa, r, w, k, v, kk, b, N_); \
    }
WKV7_STEP_BACKWARD(wkv7_step_backward_32, 32)
WKV7_STEP_BACKWARD(wkv7_step_backward_64, 64)
WKV7_STEP_BACKWARD(wkv7_step_backward_any, N)

static void wkv7_backward(real *dr, real *dw, real *dk, real *dv, real *dkk, real *da, real *dS,
                          const real *dy, const real *sa, const real *S_cache, const real *r,
                          const real *w, const real *k, const real *v, const real *kk, const real *a,
                          size_t T, size_t H, size_t N, real *scratch)
{
    const size_t M = N * N;
    real *gr = scratch + (NN_WKV7_CHUNK + 1) * M, *gw = gr + N, *gk = gw + N, *gv = gk + N,
         *gkk = gv + N, *gb = gkk + N, *b = gb + N;
    void (*step)(real *, real *, real *, real *, real *, real *, real *, const real *, const real *,
                 const real *, const real *, const real *, const real *, const real *, const real *,
                 const real *, const real *, size_t) =
        N == 32 ? wkv7_step_backward_32 : N == 64 ? wkv7_step_backward_64 : wkv7_step_backward_any;
    for (size_t h = 0; h < H; h++)
        for (size_t end = T; end > 0;) {
            size_t start = (end - 1) / NN_WKV7_CHUNK * NN_WKV7_CHUNK;
            memcpy(scratch, S_cache + (start / NN_WKV7_CHUNK * H + h) * M, M * sizeof *scratch);
            for (size_t t = start; t < end; t++) {
                size_t o = (t * H + h) * N;
                for (size_t j = 0; j < N; j++)
                    b[j] = kk[o + j] * a[o + j];
                wkv7_redo(scratch + (t - start + 1) * M, scratch + (t - start) * M, sa + o, w + o, b,
                          v + o, k + o, N);
            }
            for (size_t t = end; t-- > start;) {
                size_t o = (t * H + h) * N;
                for (size_t j = 0; j < N; j++)
                    b[j] = kk[o + j] * a[o + j];
                step(gr, gw, gk, gv, gkk, gb, dS + h * M, scratch + (t - start + 1) * M,
                     scratch + (t - start) * M, dy + o, sa + o, r + o, w + o, k + o, v + o, kk + o, b,
                     N);
                SIMD
                for (size_t j = 0; j < N; j++) {
                    dr[o + j] += gr[j];
                    dw[o + j] += gw[j];
                    dk[o + j] += gk[j];
                    dv[o + j] += gv[j];
                    dkk[o + j] += gkk[j] + gb[j] * a[o + j]; /* b = kk a */
                    da[o + j] += gb[j] * kk[o + j];
                }
            }
            end = start;
        }
}
