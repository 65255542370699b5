/* NEON of 64-bit ARM: four-wide, 32 registers. See kern_tmpl.c for what is to be defined here. */
#include "engine/kernels/kern_internal.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#define VW           4
#define TILE_COLUMNS 4
#define NAME(f)      f##_neon

typedef float32x4_t V;

static inline V v_set1(float x)
{
    return vdupq_n_f32(x);
}
static inline V v_load(const void *p)
{
    return vreinterpretq_f32_u8(vld1q_u8(p));
}
static inline void v_store(float *p, V v)
{
    vst1q_f32(p, v);
}
static inline V v_load_part(const float *p, size_t n)
{
    V v = v_set1(0);
    memcpy(&v, p, n * sizeof *p);
    return v;
}
static inline void v_store_part(float *p, V v, size_t n)
{
    memcpy(p, &v, n * sizeof *p);
}
static inline V v_add(V a, V b)
{
    return vaddq_f32(a, b);
}
static inline V v_sub(V a, V b)
{
    return vsubq_f32(a, b);
}
static inline V v_mul(V a, V b)
{
    return vmulq_f32(a, b);
}
static inline V v_div(V a, V b)
{
    return vdivq_f32(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return vfmaq_f32(c, a, b);
}
/* a < b ? x : y */
static inline V v_select_lt(V a, V b, V x, V y)
{
    return vbslq_f32(vcltq_f32(a, b), x, y);
}
/* Of a constant and x; NaN if x is. */
static inline V v_min(V c, V x)
{
    return vminq_f32(c, x);
}
static inline V v_max(V c, V x)
{
    return vmaxq_f32(c, x);
}
static inline V v_abs(V x)
{
    return vabsq_f32(x);
}
static inline V v_copysign(V magnitude, V sign)
{
    return vbslq_f32(vdupq_n_u32(0x80000000), sign, magnitude);
}
static inline V v_round(V x)
{
    return vrndnq_f32(x);
}
/* x * 2^n for integral n in [-150, 128], in two steps so that it ends in denormals or infinity. */
static inline V v_scale(V x, V n)
{
    int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    int32x4_t a = vshlq_n_s32(vaddq_s32(half, bias), 23);
    int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23);
    return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}
/* (l0 + l1) + (l2 + l3); v_sum4 of four vectors has the same order. */
static inline float v_sum(V a)
{
    return vaddvq_f32(a);
}
static inline void v_sum4(float *out, const V *a, size_t step)
{
    V lo = vpaddq_f32(a[0], a[step]), hi = vpaddq_f32(a[2 * step], a[3 * step]);
    vst1q_f32(out, vpaddq_f32(lo, hi));
}

#include "engine/kernels/kern_tmpl.c"

#endif
