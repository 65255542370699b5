/* BF16 products by vdpbf16ps. Blocks of B (KC x NC) and A (MC x KC) are packed on the stack: B as panels of 32
 * columns, [p][32], to be read as vectors; A lies as its rows did, [o][p] or [p][o], since its words are
 * only broadcast. The inner loop holds a tile of 8 x 32 in 16 registers. */
#include "engine/kernels/gemm_bf16.h"

#if defined(__x86_64__)

#include "engine/kernels/bf16_x86.h"

#define MR 8
#define NR 32
#define KC 256
#define MC 96
#define NC 512
#define KP (KC / 2) /* pairs */

/* out [8][32] = A-tile times B-panel over `pairs`; si, sp: strides of A's words between rows and
 * pairs. */
BF16_CODE
static inline __attribute__((always_inline)) void tile(float *out, size_t ldo, float beta,
                                                       const uint32_t *a, const size_t si,
                                                       const size_t sp, const uint32_t *b,
                                                       size_t pairs)
{
    __m512 s[MR][2];
    for (int i = 0; i < MR; i++)
        s[i][0] = s[i][1] = _mm512_setzero_ps();
    for (size_t p = 0; p < pairs; p++) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + p * NR);
        __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + p * NR + 16);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[(size_t)i * si + p * sp]);
            s[i][0] = _mm512_dpbf16_ps(s[i][0], x, b0);
            s[i][1] = _mm512_dpbf16_ps(s[i][1], x, b1);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int q = 0; q < 2; q++) {
            float *o = out + (size_t)i * ldo + q * 16;
            if (beta != 0)
                s[i][q] = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_loadu_ps(o), s[i][q]);
            _mm512_storeu_ps(o, s[i][q]);
        }
}

BF16_CODE
static __attribute__((noinline)) void tile_rows(float *out, size_t ldo, float beta,
                                                const uint32_t *a, const uint32_t *b, size_t pairs)
{
    tile(out, ldo, beta, a, KP, 1, b, pairs);
}

BF16_CODE
static __attribute__((noinline)) void tile_cols(float *out, size_t ldo, float beta,
                                                const uint32_t *a, const uint32_t *b, size_t pairs)
{
    tile(out, ldo, beta, a, 1, MC, b, pairs);
}

/* A block of C [m, n], m <= MC, from packed operands. */
BF16_CODE
static void block(bool ta, size_t m, size_t n, size_t pairs, const uint32_t *a, const uint32_t *b,
                  float beta, float *c, size_t ldc)
{
    void (*run)(float *, size_t, float, const uint32_t *, const uint32_t *, size_t) =
        ta ? tile_cols : tile_rows;
    for (size_t j = 0; j < n; j += NR)
        for (size_t i = 0; i < m; i += MR) {
            const uint32_t *at = a + (ta ? i : i * KP), *bt = b + j * KP;
            float *ct = c + i * ldc + j;
            if (i + MR <= m && j + NR <= n) {
                run(ct, ldc, beta, at, bt, pairs);
                continue;
            }
            float edge[MR * NR];
            size_t rows = m - i < MR ? m - i : MR, cols = n - j < NR ? n - j : NR;
            run(edge, NR, 0, at, bt, pairs);
            for (size_t y = 0; y < rows; y++)
                for (size_t x = 0; x < cols; x++)
                    ct[y * ldc + x] = edge[y * NR + x] + (beta != 0 ? beta * ct[y * ldc + x] : 0);
        }
}

BF16_CODE
void gemm_bf16_avx512(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda,
                      const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    _Alignas(64) uint32_t bw[NC * KP];
    _Alignas(64) uint32_t aw[MC * KP];
    for (size_t k0 = 0; k0 < k; k0 += KC) {
        size_t kn = k - k0 < KC ? k - k0 : KC, pairs = (kn + 1) / 2;
        for (size_t n0 = 0; n0 < n; n0 += NC) {
            size_t nn = n - n0 < NC ? n - n0 : NC;
            for (size_t j = 0; j < nn; j += NR) {
                size_t cols = nn - j < NR ? nn - j : NR;
                if (tb)
                    bf16_pack_along_turned(bw + j * KP, NR, b + (n0 + j) * ldb + k0, ldb, cols, kn);
                else
                    bf16_pack_across(bw + j * KP, NR, b + k0 * ldb + n0 + j, ldb, cols, kn);
            }
            for (size_t m0 = 0; m0 < m; m0 += MC) {
                size_t mn = m - m0 < MC ? m - m0 : MC;
                if (ta)
                    bf16_pack_across(aw, MC, a + k0 * lda + m0, lda, mn, kn);
                else
                    bf16_pack_along(aw, KP, a + m0 * lda + k0, lda, mn, kn);
                block(ta, mn, nn, pairs, aw, bw, k0 ? 1 : beta, c + m0 * ldc + n0, ldc);
            }
        }
    }
}

#endif
