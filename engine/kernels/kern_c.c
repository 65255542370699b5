/* The level every machine has: four-wide vectors in the compilers' own notation, which they turn into
 * SSE2, NEON or plain C. See kern_tmpl.c for what is to be defined here. */
#include "engine/kernels/kern_internal.h"

#include <string.h>

#define VW           4
#define TILE_COLUMNS 2
#define NAME(f)      f##_c

typedef float V __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));

static inline V v_set1(float x)
{
    return (V){x, x, x, x};
}
static inline V v_load(const void *p)
{
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, V v)
{
    memcpy(p, &v, sizeof v);
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
    return a + b;
}
static inline V v_sub(V a, V b)
{
    return a - b;
}
static inline V v_mul(V a, V b)
{
    return a * b;
}
static inline V v_div(V a, V b)
{
    return a / b;
}
static inline V v_fma(V a, V b, V c)
{
    return a * b + c;
}
/* a < b ? x : y */
static inline V v_select_lt(V a, V b, V x, V y)
{
    VI m = a < b;
    return (V)(((VI)x & m) | ((VI)y & ~m));
}
/* Of a constant and x; NaN if x is. */
static inline V v_min(V c, V x)
{
    return v_select_lt(c, x, c, x);
}
static inline V v_max(V c, V x)
{
    return v_select_lt(x, c, c, x);
}
static inline V v_abs(V x)
{
    return (V)((VI)x & 0x7fffffff);
}
static inline V v_copysign(V magnitude, V sign)
{
    return (V)(((VI)magnitude & 0x7fffffff) | ((VI)sign & (int32_t)0x80000000));
}
static inline V v_round(V x) /* |x| < 2^22, to even */
{
    V magic = v_set1(0x1.8p23f);
    return (x + magic) - magic;
}
/* x * 2^n for integral n in [-150, 128], in two steps so that it ends in denormals or infinity. */
static inline V v_scale(V x, V n)
{
    VI i = (VI)(n + 0x1.8p23f) - 0x4b400000, half = i >> 1;
    return x * (V)((half + 127) << 23) * (V)((i - half + 127) << 23);
}
/* (l0 + l2) + (l1 + l3) */
static inline float v_sum(V a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}
static inline void v_sum4(float *out, const V *a, size_t step)
{
    for (size_t i = 0; i < 4; i++)
        out[i] = v_sum(a[i * step]);
}

#include "engine/kernels/kern_tmpl.c"
