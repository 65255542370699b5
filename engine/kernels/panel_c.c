/* Products of panels on every machine: four rows at a time in the compilers' own vectors. See
 * panel_tmpl.c. The integer sums, at most 32 x 127 x 128, are exact as floats too. */
#include "engine/kernels/panel.h"

#include <string.h>

#define VW            4
#define TILE_ROWS     2
#define TILE_COLUMNS  2
#define PLAIN_COLUMNS 4
#define START         0
#define Q8_OFFSET     0
#define NAME(f)       f##_c
#define PREFETCH(p)   (void)(p)

typedef float V __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
typedef uint32_t VU __attribute__((vector_size(16)));
typedef uint16_t VH __attribute__((vector_size(8)));
typedef V VS;

static inline V v_set1(float x)
{
    return (V){x, x, x, x};
}
static inline V v_load(const float *p)
{
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, V v)
{
    memcpy(p, &v, sizeof v);
}
static inline V v_add(V a, V b)
{
    return a + b;
}
static inline V v_mul(V a, V b)
{
    return a * b;
}
static inline V v_fma(V a, V b, V c)
{
    return a * b + c;
}
/* The exponent's bias differs by 112; the product makes denormals normal. Infinity and NaN, whose exponent is all
 * ones, get theirs set. */
static inline V scales_v(const uint8_t *p)
{
    VH h;
    memcpy(&h, p, sizeof h);
    VU u = __builtin_convertvector(h, VU);
    V x = (V)((u & 0x7fff) << 13) * 0x1p112f;
    VU special = (VU)((VI)(u & 0x7c00) == 0x7c00) & 0x7f800000;
    return (V)((VU)x | special | (u & 0x8000) << 16);
}
static inline void pair_v(const uint8_t *p, V *even, V *odd)
{
    VU w;
    memcpy(&w, p, sizeof w);
    *even = (V)(w << 16);
    *odd = (V)(w & 0xffff0000);
}
static inline V bytes_v(const uint8_t *p)
{
    return (V){p[0], p[1], p[2], p[3]};
}
static inline VS vi_set1(int32_t x)
{
    return v_set1((float)x);
}
static inline VI vi_load(const void *p)
{
    VI v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline VI vi_four(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (VI){four, four, four, four};
}
static inline V vi_scaled(VS a, V scale, V bias)
{
    (void)bias;
    return a * scale;
}
static inline VI vi_low(VI w)
{
    return w & 0x0f0f0f0f;
}
static inline VI vi_high(VI w)
{
    return (w >> 4) & 0x0f0f0f0f;
}
static inline VI vi_above(VI w, VI h, const int left, const int mask)
{
    typedef uint32_t U __attribute__((vector_size(16)));
    U v = left < 0 ? (U)h >> -left : (U)h << left;
    return w | ((VI)v & mask * 0x01010101);
}
static inline VI vi_q8(VI w)
{
    return w;
}
static inline VS vi_dot(VS sum, VI w, VI a)
{
    for (int i = 0; i < 4; i++, w >>= 8, a >>= 8)
        sum += __builtin_convertvector((w << 24) >> 24, V) *
               __builtin_convertvector((a << 24) >> 24, V);
    return sum;
}

#include "engine/kernels/panel_tmpl.c"
