/* Blocks of B (KC x NC) and A (MC x KC) are rounded and copied to the stack as pairs along k, the
 * form that vdpbf16ps takes: word(o, p) = {x(o, 2p), x(o, 2p + 1)}. B lies as panels of 32 columns,
 * [p][32], to be read as vectors; A lies as its rows did, [o][p] or [p][o], since its words are
 * only broadcast. The inner loop holds a tile of 8 x 32 in 16 registers. */
#include "engine/kernels/gemm_bf16.h"

#if defined(__x86_64__)

#include "engine/kernels/cpu.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define MR 8
#define NR 32
#define KC 256
#define MC 96
#define NC 512
#define KP (KC / 2) /* pairs */

#define BF16_CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

bool gemm_bf16_supported(void)
{
    __builtin_cpu_init();
    return cpu_detect(CPU_AUTO) >= CPU_AVX512 && __builtin_cpu_supports("avx512bf16");
}

/* 16 words from 16 values of one k and the same of the next. */
BF16_CODE
static inline __m512i pair_rows(__m512 even, __m512 odd)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

static inline __mmask16 first(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

/* Words of `rows` rows of x, k running along a row: to[o * stride + p]. */
BF16_CODE
static void pack_along(uint32_t *to, size_t stride, const float *x, size_t ld, size_t rows,
                       size_t k)
{
    for (size_t o = 0; o < rows; o++)
        for (size_t i = 0; i < k; i += 32) {
            size_t left = k - i, low = left < 16 ? left : 16;
            __m512 a = _mm512_maskz_loadu_ps(first(low), x + o * ld + i);
            __m512 b = left > 16 ? _mm512_maskz_loadu_ps(first(left - 16), x + o * ld + i + 16)
                                 : _mm512_setzero_ps();
            _mm512_mask_storeu_epi32(to + o * stride + i / 2, first((left + 1) / 2),
                                     (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
}

/* Words of n columns of x, k running across rows: to[p * stride + o]; n is padded with zeros to a
 * multiple of 16. */
BF16_CODE
static void pack_across(uint32_t *to, size_t stride, const float *x, size_t ld, size_t n, size_t k)
{
    for (size_t p = 0; p < (k + 1) / 2; p++) {
        const float *even = x + 2 * p * ld;
        for (size_t o = 0; o < n; o += 16) {
            __mmask16 m = first(n - o);
            __m512 a = _mm512_maskz_loadu_ps(m, even + o);
            __m512 b =
                2 * p + 1 < k ? _mm512_maskz_loadu_ps(m, even + ld + o) : _mm512_setzero_ps();
            _mm512_storeu_si512(to + p * stride + o, pair_rows(a, b));
        }
    }
}

/* to[j * stride + i] = from[i * 16 + j] for a 16 x 16 block of words. */
BF16_CODE
static inline void transpose16(uint32_t *to, size_t stride, const __m512i *from)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(from[i], from[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(from[i], from[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* b[i + q]: column q of each 128-bit lane, rows i to i + 3 */
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int q = 0; q < 4; q++) {
        __m512i lo = _mm512_shuffle_i32x4(b[q], b[q + 4], 0x88),
                hi = _mm512_shuffle_i32x4(b[q + 8], b[q + 12], 0x88);
        __m512i lo2 = _mm512_shuffle_i32x4(b[q], b[q + 4], 0xdd),
                hi2 = _mm512_shuffle_i32x4(b[q + 8], b[q + 12], 0xdd);
        _mm512_storeu_si512(to + (size_t)q * stride, _mm512_shuffle_i32x4(lo, hi, 0x88));
        _mm512_storeu_si512(to + (size_t)(q + 8) * stride, _mm512_shuffle_i32x4(lo, hi, 0xdd));
        _mm512_storeu_si512(to + (size_t)(q + 4) * stride, _mm512_shuffle_i32x4(lo2, hi2, 0x88));
        _mm512_storeu_si512(to + (size_t)(q + 12) * stride, _mm512_shuffle_i32x4(lo2, hi2, 0xdd));
    }
}

/* A panel of up to 32 rows of x with k along them, turned to [p][NR]; missing rows are zero. */
BF16_CODE
static void pack_turned(uint32_t *to, const float *x, size_t ld, size_t rows, size_t k)
{
    for (size_t o = 0; o < NR; o += 16)
        for (size_t i = 0; i < k; i += 32) {
            __m512i block[16];
            size_t left = k - i, low = left < 16 ? left : 16, high = left > 16 ? left - 16 : 0;
            for (size_t q = 0; q < 16; q++) {
                bool there = o + q < rows;
                const float *row = there ? x + (o + q) * ld + i : x;
                __m512 a = _mm512_maskz_loadu_ps(there ? first(low) : 0, row);
                __m512 b = high ? _mm512_maskz_loadu_ps(there ? first(high) : 0, row + 16)
                                : _mm512_setzero_ps();
                block[q] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            }
            transpose16(to + i / 2 * NR + o, NR, block);
        }
}

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
void gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda,
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
                    pack_turned(bw + j * KP, b + (n0 + j) * ldb + k0, ldb, cols, kn);
                else
                    pack_across(bw + j * KP, NR, b + k0 * ldb + n0 + j, ldb, cols, kn);
            }
            for (size_t m0 = 0; m0 < m; m0 += MC) {
                size_t mn = m - m0 < MC ? m - m0 : MC;
                if (ta)
                    pack_across(aw, MC, a + k0 * lda + m0, lda, mn, kn);
                else
                    pack_along(aw, KP, a + m0 * lda + k0, lda, mn, kn);
                block(ta, mn, nn, pairs, aw, bw, k0 ? 1 : beta, c + m0 * ldc + n0, ldc);
            }
        }
    }
}

#else

#include "engine/kernels/gemm.h"

bool gemm_bf16_supported(void)
{
    return false;
}

/* Never asked for, then; the product without rounding. */
void gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda,
               const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    gemm_f32(ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
}

#endif
