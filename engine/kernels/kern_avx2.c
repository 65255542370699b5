/* AVX2, FMA and F16C: eight-wide. See kern_tmpl.c for what is to be defined here. */
#include "engine/kernels/kern_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define VW           8
#define TILE_COLUMNS 2
#define NAME(f)      f##_avx2

typedef __m256 V;

static inline V v_set1(float x)
{
    return _mm256_set1_ps(x);
}
static inline V v_load(const void *p)
{
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, V v)
{
    _mm256_storeu_ps(p, v);
}
static inline __m256i part_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline V v_load_part(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, part_mask(n));
}
static inline void v_store_part(float *p, V v, size_t n)
{
    _mm256_maskstore_ps(p, part_mask(n), v);
}
static inline V v_add(V a, V b)
{
    return _mm256_add_ps(a, b);
}
static inline V v_sub(V a, V b)
{
    return _mm256_sub_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm256_mul_ps(a, b);
}
static inline V v_div(V a, V b)
{
    return _mm256_div_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm256_fmadd_ps(a, b, c);
}
/* a < b ? x : y */
static inline V v_select_lt(V a, V b, V x, V y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
/* Of a constant and x; NaN if x is. */
static inline V v_min(V c, V x)
{
    return _mm256_min_ps(c, x);
}
static inline V v_max(V c, V x)
{
    return _mm256_max_ps(c, x);
}
static inline V v_abs(V x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}
static inline V v_copysign(V magnitude, V sign)
{
    __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
static inline V v_round(V x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x * 2^n for integral n in [-150, 128], in two steps so that it ends in denormals or infinity. */
static inline V v_scale(V x, V n)
{
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}
/* Lanes l and l + 4, then the tree ((0 + 1) + (2 + 3)); v_sum4 of four vectors has the same order. */
static inline __m128 halves(V a)
{
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
static inline float v_sum(V a)
{
    __m128 h = halves(a);
    h = _mm_hadd_ps(h, h);
    return _mm_cvtss_f32(_mm_hadd_ps(h, h));
}
static inline void v_sum4(float *out, const V *a, size_t step)
{
    __m128 lo = _mm_hadd_ps(halves(a[0]), halves(a[step]));
    __m128 hi = _mm_hadd_ps(halves(a[2 * step]), halves(a[3 * step]));
    _mm_storeu_ps(out, _mm_hadd_ps(lo, hi));
}

#include "engine/kernels/kern_tmpl.c"

#endif
