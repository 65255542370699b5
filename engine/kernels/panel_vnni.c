/* Products of panels with AVX-512 VNNI: sixteen rows at a time. See panel_tmpl.c. */
#include "engine/kernels/panel.h"

#if defined(__x86_64__)

#include "engine/kernels/panel_zmm.h"

#define TILE_COLUMNS 6
#define START        PANEL_MAGIC
#define Q8_OFFSET    128 /* vpdpbusd wants one side unsigned */
#define NAME(f)      f##_vnni

typedef __m512i VI;
typedef __m512i VS;

static inline V bytes_v(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline VS vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
static inline VI vi_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
static inline VI vi_four(const int8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
static inline V vi_scaled(VS a, V scale, V bias)
{
    return v_fma(_mm512_castsi512_ps(a), scale, bias);
}
static inline VI vi_low(VI w)
{
    return _mm512_and_si512(w, _mm512_set1_epi8(15));
}
static inline VI vi_high(VI w)
{
    return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15));
}
static inline VI vi_above(VI w, VI h, const int left, const int mask)
{
    VI v = left < 0 ? _mm512_srli_epi16(h, -left) : _mm512_slli_epi16(h, left);
    return _mm512_or_si512(w, _mm512_and_si512(v, _mm512_set1_epi8((char)mask)));
}
static inline VI vi_q8(VI w)
{
    return _mm512_xor_si512(w, _mm512_set1_epi8(-128));
}
static inline VS vi_dot(VS sum, VI w, VI a)
{
    return _mm512_dpbusd_epi32(sum, w, a);
}

#define OWN_BLOCK
static inline int32_t block_top(const float *x)
{
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 16);
    return _mm512_reduce_max_epi32(
        _mm512_max_epi32(_mm512_and_si512(a, size), _mm512_and_si512(b, size)));
}
static inline void block_round(const float *x, float scale, int8_t *q, int32_t sum[2])
{
    __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(scale)));
    __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), _mm512_set1_ps(scale)));
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtepi32_epi8(b));
    sum[0] = _mm512_reduce_add_epi32(a);
    sum[1] = _mm512_reduce_add_epi32(b);
}

#include "engine/kernels/panel_tmpl.c"

#endif
