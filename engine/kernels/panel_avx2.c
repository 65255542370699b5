/* Products of panels with AVX2: eight rows at a time. See panel_tmpl.c. */
#include "engine/kernels/panel.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define VW            8
#define TILE_ROWS     2
#define TILE_COLUMNS  2
#define PLAIN_COLUMNS 6
#define START         PANEL_MAGIC
#define Q8_OFFSET     0
#define NAME(f)       f##_avx2
#define PREFETCH(p)   __builtin_prefetch(p)

typedef __m256 V;
typedef __m256i VI;
typedef __m256i VS;

static inline V v_set1(float x)
{
    return _mm256_set1_ps(x);
}
static inline V v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, V v)
{
    _mm256_storeu_ps(p, v);
}
static inline V v_add(V a, V b)
{
    return _mm256_add_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm256_mul_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline V scales_v(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline void pair_v(const uint8_t *p, V *even, V *odd)
{
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(-65536)));
}
static inline V bytes_v(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline VS vi_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}
static inline VI vi_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline VI vi_four(const int8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}
static inline V vi_scaled(VS a, V scale, V bias)
{
    return v_fma(_mm256_castsi256_ps(a), scale, bias);
}
static inline VI vi_low(VI w)
{
    return _mm256_and_si256(w, _mm256_set1_epi8(15));
}
static inline VI vi_high(VI w)
{
    return _mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15));
}
static inline VI vi_above(VI w, VI h, const int left, const int mask)
{
    VI v = left < 0 ? _mm256_srli_epi16(h, -left) : _mm256_slli_epi16(h, left);
    return _mm256_or_si256(w, _mm256_and_si256(v, _mm256_set1_epi8((char)mask)));
}
static inline VI vi_q8(VI w)
{
    return w;
}
/* vpmaddubsw wants w unsigned: its sign goes to a, which is never -128. Pairs reach 2 x 128 x 127. */
static inline VS vi_dot(VS sum, VI w, VI a)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "engine/kernels/panel_tmpl.c"

#endif
