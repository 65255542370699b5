/* Operands of BF16 products, rounded (nearest even) and packed as pairs along k, the form that vdpbf16ps and
 * tdpbf16ps take: word(o, p) = {x(o, 2p), x(o, 2p + 1)} for o, a row of A or a column of B. Pairs are
 * padded with zeros to a multiple of 16. For CPUs with AVX512-BF16. */
#ifndef ENGINE_BF16_X86_H
#define ENGINE_BF16_X86_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BF16_CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

/* Pairs of k numbers, padded. */
static inline size_t bf16_pairs(size_t k)
{
    return (k + 31) / 32 * 16;
}

/* The first n of 16 lanes. */
static inline __mmask16 bf16_lanes(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

/* 16 words from 16 values of one k and the same of the next. */
BF16_CODE
static inline __m512i bf16_pair_rows(__m512 even, __m512 odd)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* 16 pairs of x, which has k numbers. */
BF16_CODE
static inline __m512i bf16_pairs_along(const float *x, size_t k)
{
    __m512 a = _mm512_maskz_loadu_ps(bf16_lanes(k), x);
    __m512 b = k > 16 ? _mm512_maskz_loadu_ps(bf16_lanes(k - 16), x + 16) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}

/* 16 words at x, of n columns, and the row behind it, of k rows. */
BF16_CODE
static inline __m512i bf16_pairs_across(const float *x, size_t ld, size_t n, size_t k)
{
    __m512 a = _mm512_maskz_loadu_ps(k > 0 ? bf16_lanes(n) : 0, x);
    __m512 b = k > 1 ? _mm512_maskz_loadu_ps(bf16_lanes(n), x + ld) : _mm512_setzero_ps();
    return bf16_pair_rows(a, b);
}

/* to[j * stride + i] = from[i * 16 + j] for a 16 x 16 block of words. */
BF16_CODE
static inline void bf16_transpose(uint32_t *to, size_t stride, const __m512i *from)
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

/* to[o * stride + p] of `rows` rows of x, k running along a row. */
BF16_CODE
static inline void bf16_pack_along(uint32_t *to, size_t stride, const float *x, size_t ld,
                                   size_t rows, size_t k)
{
    for (size_t o = 0; o < rows; o++)
        for (size_t i = 0; i < k; i += 32)
            _mm512_storeu_si512(to + o * stride + i / 2, bf16_pairs_along(x + o * ld + i, k - i));
}

/* to[p * stride + o] of n columns of x, k running across rows; n is padded with zeros to a multiple of 16. */
BF16_CODE
static inline void bf16_pack_across(uint32_t *to, size_t stride, const float *x, size_t ld,
                                    size_t n, size_t k)
{
    for (size_t p = 0; p < bf16_pairs(k); p++) {
        size_t left = 2 * p < k ? k - 2 * p : 0;
        for (size_t o = 0; o < n; o += 16)
            _mm512_storeu_si512(to + p * stride + o,
                                bf16_pairs_across(left ? x + 2 * p * ld + o : x, ld, n - o, left));
    }
}

/* to[p * stride + o] of `rows` rows of x, k running along them; rows are padded with zeros to a multiple of 16. */
BF16_CODE
static inline void bf16_pack_along_turned(uint32_t *to, size_t stride, const float *x, size_t ld,
                                          size_t rows, size_t k)
{
    for (size_t o = 0; o < rows; o += 16)
        for (size_t i = 0; i < k; i += 32) {
            __m512i block[16];
            for (size_t q = 0; q < 16; q++)
                block[q] = o + q < rows ? bf16_pairs_along(x + (o + q) * ld + i, k - i)
                                        : _mm512_setzero_si512();
            bf16_transpose(to + i / 2 * stride + o, stride, block);
        }
}

/* to[o * stride + p] of n columns of x, k running across rows; n is padded with zeros to a multiple of 16. */
BF16_CODE
static inline void bf16_pack_across_turned(uint32_t *to, size_t stride, const float *x, size_t ld,
                                           size_t n, size_t k)
{
    for (size_t o = 0; o < n; o += 16)
        for (size_t i = 0; i < k; i += 32) {
            __m512i block[16];
            for (size_t q = 0; q < 16; q++) {
                size_t left = i + 2 * q < k ? k - i - 2 * q : 0;
                block[q] = bf16_pairs_across(left ? x + (i + 2 * q) * ld + o : x, ld, n - o, left);
            }
            bf16_transpose(to + o * stride + i / 2, stride, block);
        }
}

#endif
