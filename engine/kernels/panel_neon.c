/* Products of panels with NEON: four rows at a time. See panel_tmpl.c. */
#include "engine/kernels/panel.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#ifdef __ARM_FEATURE_DOTPROD
#define NAME(f) f##_dotprod
#else
#define NAME(f) f##_neon
#endif
#define VW            4
#define TILE_ROWS     4
#define TILE_COLUMNS  2
#define PLAIN_COLUMNS 6
#define START         PANEL_MAGIC
#define Q8_OFFSET     0
#define PREFETCH(p)   __builtin_prefetch(p)

typedef float32x4_t V;
typedef int8x16_t VI;
typedef int32x4_t VS;

static inline V v_set1(float x)
{
    return vdupq_n_f32(x);
}
static inline V v_load(const float *p)
{
    return vld1q_f32(p);
}
static inline void v_store(float *p, V v)
{
    vst1q_f32(p, v);
}
static inline V v_add(V a, V b)
{
    return vaddq_f32(a, b);
}
static inline V v_mul(V a, V b)
{
    return vmulq_f32(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return vfmaq_f32(c, a, b);
}
static inline V scales_v(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
static inline void pair_v(const uint8_t *p, V *even, V *odd)
{
    uint32x4_t w = vreinterpretq_u32_u8(vld1q_u8(p));
    *even = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
    *odd = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000)));
}
static inline V bytes_v(const uint8_t *p)
{
    uint32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes))))));
}
static inline VS vi_set1(int32_t x)
{
    return vdupq_n_s32(x);
}
static inline VI vi_load(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}
static inline VI vi_four(const int8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
static inline V vi_scaled(VS a, V scale, V bias)
{
    return v_fma(vreinterpretq_f32_s32(a), scale, bias);
}
static inline VI vi_low(VI w)
{
    return vandq_s8(w, vdupq_n_s8(15));
}
static inline VI vi_high(VI w)
{
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(w), 4));
}
static inline VI vi_above(VI w, VI h, const int left, const int mask)
{
    uint8x16_t v = vshlq_u8(vreinterpretq_u8_s8(h), vdupq_n_s8((int8_t)left));
    return vorrq_s8(w, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8((uint8_t)mask))));
}
static inline VI vi_q8(VI w)
{
    return w;
}
static inline VS vi_dot(VS sum, VI w, VI a)
{
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, w, a);
#else
    int16x8_t lo = vmull_s8(vget_low_s8(w), vget_low_s8(a)), hi = vmull_high_s8(w, a);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi)));
#endif
}

#include "engine/kernels/panel_tmpl.c"

#endif
