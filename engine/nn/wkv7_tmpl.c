/* WKV-7, for each head (S is [N, N], row i = value index, column j = key index):
 *
 *     sa_i = sum_j S_ij kk_j                                  with the old S
 *     S_ij = S_ij w_j - sa_i b_j + v_i k_j,    b_j = kk_j a_j
 *     y_i  = sum_j S_ij r_j                                   with the new S
 *
 * r, w, k, v, kk, a, y, sa are [T, H, N]; w is the decay itself, in (0, 1). S [H, N, N] goes in as
 * the initial state and comes out as the final one. Kept for backward: sa, and in S_cache [T /
 * chunk, H, N, N] the state before every NN_WKV7_CHUNK-th step; backward recomputes the states
 * inside a chunk. dS comes in as the gradient of the final state and leaves as that of the initial
 * one.
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

/* Everything below is inlined into one function a head size (see WKV7_SIZES), where N is a
 * constant: then the small vectors stay in registers. */
#define WKV7_INLINE static inline __attribute__((always_inline))
#define WKV7_MAX_Q  (WKV7_MAX_N / VEC) /* vecs in a row */

/* One step of one head: St is S transposed, vectors all [N]. Q vecs of i go together. */
WKV7_INLINE void wkv7_step(real *y, real *sa, real *St, const real *r, const real *w, const real *k,
                           const real *v, const real *kk, const real *b, const size_t N,
                           const size_t Q)
{
    for (size_t i = 0; i < N; i += Q * VEC) {
        vec s0[4], s1[4], y0[4], y1[4], vi[4];
        for (size_t q = 0; q < Q; q++) {
            s0[q] = s1[q] = y0[q] = y1[q] = (vec){0};
            vi[q] = vload(v + i + q * VEC);
        }
        for (size_t j = 0; j < N; j += 2)
            for (size_t q = 0; q < Q; q++) {
                s0[q] += vload(St + j * N + i + q * VEC) * kk[j];
                s1[q] += vload(St + (j + 1) * N + i + q * VEC) * kk[j + 1];
            }
        for (size_t q = 0; q < Q; q++) {
            s0[q] += s1[q];
            vstore(sa + i + q * VEC, s0[q]);
        }
        for (size_t j = 0; j < N; j += 2) {
            real *S0 = St + j * N + i, *S1 = S0 + N;
            const vec w0 = vsplat(w[j]), b0 = vsplat(b[j]), k0 = vsplat(k[j]), r0 = vsplat(r[j]);
            const vec w1 = vsplat(w[j + 1]), b1 = vsplat(b[j + 1]), k1 = vsplat(k[j + 1]),
                      r1 = vsplat(r[j + 1]);
            for (size_t q = 0; q < Q; q++) {
                vec x0 = vload(S0 + q * VEC) * w0 - s0[q] * b0 + vi[q] * k0;
                vec x1 = vload(S1 + q * VEC) * w1 - s0[q] * b1 + vi[q] * k1;
                vstore(S0 + q * VEC, x0);
                vstore(S1 + q * VEC, x1);
                y0[q] += x0 * r0;
                y1[q] += x1 * r1;
            }
        }
        for (size_t q = 0; q < Q; q++)
            vstore(y + i + q * VEC, y0[q] + y1[q]);
    }
}

WKV7_INLINE void wkv7_head_forward(real *y, real *sa, real *S_cache, real *S, const real *r,
                                   const real *w, const real *k, const real *v, const real *kk,
                                   const real *a, size_t T, size_t H, size_t h, const size_t N,
                                   const size_t Q, real *scratch)
{
    real b[WKV7_MAX_N], *St = scratch;
    wkv7_transpose(St, S + h * N * N, N);
    for (size_t t = 0; t < T; t++) {
        size_t o = (t * H + h) * N;
        if (t % NN_WKV7_CHUNK == 0)
            wkv7_transpose(S_cache + (t / NN_WKV7_CHUNK * H + h) * N * N, St, N);
        for (size_t j = 0; j < N; j += VEC)
            vstore(b + j, vload(kk + o + j) * vload(a + o + j));
        wkv7_step(y + o, sa + o, St, r + o, w + o, k + o, v + o, kk + o, b, N, Q);
    }
    wkv7_transpose(S + h * N * N, St, N);
}

WKV7_INLINE void wkv7_row(vec *to, const real *x, const size_t N)
{
    for (size_t q = 0; q < N / VEC; q++)
        to[q] = vload(x + q * VEC);
}

/* next = the state after a step from prev, sa being known. */
WKV7_INLINE void wkv7_redo(real *next, const real *prev, const real *sa, const real *w,
                           const real *kk, const real *a, const real *v, const real *k,
                           const size_t N)
{
    vec wq[WKV7_MAX_Q], bq[WKV7_MAX_Q], kq[WKV7_MAX_Q];
    wkv7_row(wq, w, N);
    wkv7_row(kq, k, N);
    for (size_t q = 0; q < N / VEC; q++)
        bq[q] = vload(kk + q * VEC) * vload(a + q * VEC);
    for (size_t i = 0; i < N; i++)
        for (size_t q = 0; q < N / VEC; q++)
            vstore(next + i * N + q * VEC,
                   vload(prev + i * N + q * VEC) * wq[q] - sa[i] * bq[q] + v[i] * kq[q]);
}

/* What one step of the backward reads and sets: rows of [N]. */
struct wkv7_rows {
    const real *dy, *sa, *r, *w, *k, *v, *kk, *a;
    real *dr, *dw, *dk, *dv, *dkk, *da;
};

/* The gradients of one step; dS [N, N] goes from after the step to before it. next, prev: the
 * states after and before. */
WKV7_INLINE void wkv7_step_backward(const struct wkv7_rows *g, real *dS, const real *next,
                                    const real *prev, const size_t N)
{
    vec r[WKV7_MAX_Q], w[WKV7_MAX_Q], k[WKV7_MAX_Q], kk[WKV7_MAX_Q], b[WKV7_MAX_Q];
    vec gr[WKV7_MAX_Q], gw[WKV7_MAX_Q], gk[WKV7_MAX_Q], gb[WKV7_MAX_Q], gkk[WKV7_MAX_Q];
    const size_t n = N / VEC;
    wkv7_row(r, g->r, N);
    wkv7_row(w, g->w, N);
    wkv7_row(k, g->k, N);
    wkv7_row(kk, g->kk, N);
    for (size_t q = 0; q < n; q++) {
        b[q] = kk[q] * vload(g->a + q * VEC);
        gr[q] = gw[q] = gk[q] = gb[q] = gkk[q] = (vec){0};
    }
    for (size_t i = 0; i < N; i++) {
        const real *Sn = next + i * N, *Sp = prev + i * N;
        real *D = dS + i * N, dy = g->dy[i], v = g->v[i], sa = g->sa[i];
        vec pv = {0}, pb = {0}, d[WKV7_MAX_Q];
        for (size_t q = 0; q < n; q++) {
            d[q] = vload(D + q * VEC) + dy * r[q]; /* y_i = sum_j S_ij r_j */
            gr[q] += dy * vload(Sn + q * VEC);
            gw[q] += d[q] * vload(Sp + q * VEC);
            gk[q] += d[q] * v;
            gb[q] -= d[q] * sa;
            pv += d[q] * k[q];
            pb += d[q] * b[q];
        }
        real dsa = -vsum(pb); /* S_ij = ... - sa_i b_j */
        g->dv[i] = vsum(pv);
        for (size_t q = 0; q < n; q++) {
            gkk[q] += dsa * vload(Sp + q * VEC); /* sa_i = sum_j S_ij kk_j */
            vstore(D + q * VEC, d[q] * w[q] + dsa * kk[q]);
        }
    }
    for (size_t q = 0; q < n; q++) {
        vec a = vload(g->a + q * VEC);
        vstore(g->dr + q * VEC, gr[q]);
        vstore(g->dw + q * VEC, gw[q]);
        vstore(g->dk + q * VEC, gk[q]);
        vstore(g->dkk + q * VEC, gkk[q] + gb[q] * a); /* b = kk a */
        vstore(g->da + q * VEC, gb[q] * kk[q]);
    }
}

WKV7_INLINE void wkv7_head_backward(const struct wkv7_rows *all, real *dS, const real *S_cache,
                                    size_t T, size_t H, size_t h, const size_t N, real *scratch)
{
    const size_t M = N * N;
    for (size_t end = T; end > 0;) {
        size_t start = (end - 1) / NN_WKV7_CHUNK * NN_WKV7_CHUNK;
        memcpy(scratch, S_cache + (start / NN_WKV7_CHUNK * H + h) * M, M * sizeof *scratch);
        for (size_t t = start; t < end; t++) {
            size_t o = (t * H + h) * N;
            wkv7_redo(scratch + (t - start + 1) * M, scratch + (t - start) * M, all->sa + o,
                      all->w + o, all->kk + o, all->a + o, all->v + o, all->k + o, N);
        }
        for (size_t t = end; t-- > start;) {
            size_t o = (t * H + h) * N;
            const struct wkv7_rows g = {all->dy + o,  all->sa + o, all->r + o,  all->w + o,
                                        all->k + o,   all->v + o,  all->kk + o, all->a + o,
                                        all->dr + o,  all->dw + o, all->dk + o, all->dv + o,
                                        all->dkk + o, all->da + o};
            wkv7_step_backward(&g, dS + h * M, scratch + (t - start + 1) * M,
                               scratch + (t - start) * M, N);
        }
        end = start;
    }
}

#define WKV7_Q(n)      ((n) / VEC < 4 ? (n) / VEC : 4)
#define WKV7_SIZES(XX) XX(32) XX(64) XX(128)
#define XX(n)                                                                                      \
    static __attribute__((noinline)) void wkv7_forward_##n(                                        \
        real *y, real *sa, real *S_cache, real *S, const real *r, const real *w, const real *k,    \
        const real *v, const real *kk, const real *a, size_t T, size_t H, size_t h, real *scratch) \
    {                                                                                              \
        wkv7_head_forward(y, sa, S_cache, S, r, w, k, v, kk, a, T, H, h, n, WKV7_Q(n), scratch);   \
    }                                                                                              \
    static __attribute__((noinline)) void wkv7_backward_##n(const struct wkv7_rows *all, real *dS, \
                                                            const real *S_cache, size_t T,         \
                                                            size_t H, size_t h, real *scratch)     \
    {                                                                                              \
        wkv7_head_backward(all, dS, S_cache, T, H, h, n, scratch);                                 \
    }
WKV7_SIZES(XX)
#undef XX

static void wkv7_forward(real *y, real *sa, real *S_cache, real *S, const real *r, const real *w,
                         const real *k, const real *v, const real *kk, const real *a, size_t T,
                         size_t H, size_t N, real *scratch)
{
    for (size_t h = 0; h < H; h++)
        switch (N) {
#define XX(n)                                                                                      \
    case n:                                                                                        \
        wkv7_forward_##n(y, sa, S_cache, S, r, w, k, v, kk, a, T, H, h, scratch);                  \
        break;
            WKV7_SIZES(XX)
#undef XX
        default:
            wkv7_head_forward(y, sa, S_cache, S, r, w, k, v, kk, a, T, H, h, N, 1, scratch);
        }
}

static void wkv7_backward(real *dr, real *dw, real *dk, real *dv, real *dkk, real *da, real *dS,
                          const real *dy, const real *sa, const real *S_cache, const real *r,
                          const real *w, const real *k, const real *v, const real *kk,
                          const real *a, size_t T, size_t H, size_t N, real *scratch)
{
    const struct wkv7_rows all = {dy, sa, r, w, k, v, kk, a, dr, dw, dk, dv, dkk, da};
    for (size_t h = 0; h < H; h++)
        switch (N) {
#define XX(n)                                                                                      \
    case n:                                                                                        \
        wkv7_backward_##n(&all, dS, S_cache, T, H, h, scratch);                                    \
        break;
            WKV7_SIZES(XX)
#undef XX
        default:
            wkv7_head_backward(&all, dS, S_cache, T, H, h, N, scratch);
        }
}
