/* AVX-512 F, BW, DQ, VL: sixteen-wide. See kern_tmpl.c for what is to be defined here. */
#include "engine/kernels/kern_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define VW           16
#define TILE_COLUMNS 4
#define NAME(f)      f##_avx512

typedef __m512 V;

static inline V v_set1(float x)
{
    return _mm512_set1_ps(x);
}
static inline V v_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, V v)
{
    _mm512_storeu_ps(p, v);
}
static inline __mmask16 part_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}
static inline V v_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(part_mask(n), p);
}
static inline void v_store_part(float *p, V v, size_t n)
{
    _mm512_mask_storeu_ps(p, part_mask(n), v);
}
static inline V v_add(V a, V b)
{
    return _mm512_add_ps(a, b);
}
static inline V v_sub(V a, V b)
{
    return _mm512_sub_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm512_mul_ps(a, b);
}
static inline V v_div(V a, V b)
{
    return _mm512_div_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* a < b ? x : y */
static inline V v_select_lt(V a, V b, V x, V y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* Of a constant and x; NaN if x is. */
static inline V v_min(V c, V x)
{
    return _mm512_min_ps(c, x);
}
static inline V v_max(V c, V x)
{
    return _mm512_max_ps(c, x);
}
static inline V v_abs(V x)
{
    return _mm512_abs_ps(x);
}
static inline V v_copysign(V magnitude, V sign)
{
    __m512 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
}
static inline V v_round(V x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline V v_scale(V x, V n)
{
    return _mm512_scalef_ps(x, n);
}
/* Lanes l and l + 8, then l and l + 4, then the tree ((0 + 1) + (2 + 3)); the same in v_sum4. */
static inline __m128 quarters(V a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
static inline float v_sum(V a)
{
    __m128 h = quarters(a);
    h = _mm_hadd_ps(h, h);
    return _mm_cvtss_f32(_mm_hadd_ps(h, h));
}
static inline void v_sum4(float *out, const V *a, size_t step)
{
    __m128 lo = _mm_hadd_ps(quarters(a[0]), quarters(a[step]));
    __m128 hi = _mm_hadd_ps(quarters(a[2 * step]), quarters(a[3 * step]));
    _mm_storeu_ps(out, _mm_hadd_ps(lo, hi));
}

#include "engine/kernels/kern_tmpl.c"

#endif
