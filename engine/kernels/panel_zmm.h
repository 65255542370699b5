/* The vectors of panel_plain_tmpl.c in AVX-512: sixteen rows at a time. For the files named *_avx512.c and *_vnni.c. */
#ifndef ENGINE_PANEL_ZMM_H
#define ENGINE_PANEL_ZMM_H

#include <immintrin.h>
#include <stdint.h>

#define VW            16
#define TILE_ROWS     2
#define PLAIN_COLUMNS 8
#define PREFETCH(p)   __builtin_prefetch(p)

typedef __m512 V;

static inline V v_set1(float x)
{
    return _mm512_set1_ps(x);
}
static inline V v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, V v)
{
    _mm512_storeu_ps(p, v);
}
static inline V v_add(V a, V b)
{
    return _mm512_add_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm512_mul_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline V scales_v(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void pair_v(const uint8_t *p, V *even, V *odd)
{
    __m512i w = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(-65536)));
}

#endif
