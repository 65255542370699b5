/* What the *_tmpl.c files share: the element type, a vector of it, and the elementary functions.
 *
 * The including file defines NN_REAL, NN_IS_F32 and NN_VEC_BYTES. For float, exp, sigmoid and tanh
 * are written without branches or calls, so that loops over them become SIMD code; for double they
 * are libm's. */
#ifndef ENGINE_NN_REAL_H
#define ENGINE_NN_REAL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef NN_REAL real;
typedef NN_REAL vec __attribute__((vector_size(NN_VEC_BYTES), aligned(sizeof(NN_REAL)), may_alias));
#define VEC           (NN_VEC_BYTES / sizeof(NN_REAL)) /* elements in a vec */
#define SIMD          _Pragma("omp simd")
#define SIMD_SUM(...) _Pragma(NN_STR(omp simd reduction(+ : __VA_ARGS__)))
#define NN_STR(...)   #__VA_ARGS__

static inline vec vload(const real *p)
{
    return *(const vec *)p;
}

static inline void vstore(real *p, vec x)
{
    *(vec *)p = x;
}

static inline vec vsplat(real x)
{
    return x - (vec){0};
}

static inline real vsum(vec x)
{
#if NN_VEC_BYTES == 64 && NN_IS_F32
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
#elif NN_VEC_BYTES == 32 && NN_IS_F32
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
    return x[0] + x[1];
#elif NN_IS_F32
    return (x[0] + x[2]) + (x[1] + x[3]);
#else
    return x[0] + x[1];
#endif
}

#if NN_IS_F32
#define NN_SQRT sqrtf
#else
#define NN_SQRT sqrt
#endif

#if NN_IS_F32
/* e^x, relative error below 2e-7; results past the ends of float stop at 2^-126 and 2^127. */
static inline float nn_exp(float x)
{
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.0f ? 88.0f : x;
    /* x = n ln2 + r, n rounded to nearest by adding and taking away 1.5 * 2^23 */
    float magic = x * 1.44269504f + 12582912.0f, n = magic - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f; /* Cephes expf: e^r = 1 + r + r^2 p(r), |r| <= ln2 / 2 */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits; /* magic's low mantissa bits are n; NaN stays NaN through p */
    memcpy(&bits, &magic, sizeof bits);
    bits = (bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline float nn_sigmoid(float x)
{
    return 1.0f / (1.0f + nn_exp(-x));
}

static inline float nn_tanh(float x)
{
    float q = x * x; /* Cephes tanhf near 0, where 1 - 2 / (e^2x + 1) cancels */
    float p = -5.70498872745e-3f;
    p = p * q + 2.06390887954e-2f;
    p = p * q - 5.37397155531e-2f;
    p = p * q + 1.33314422036e-1f;
    p = p * q - 3.33332819422e-1f;
    float small = x + x * (q * p);
    float large = 1.0f - 2.0f / (nn_exp(2.0f * x) + 1.0f);
    return q < 0.390625f ? small : large;
}
#else
static inline double nn_exp(double x)
{
    return exp(x);
}

static inline double nn_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static inline double nn_tanh(double x)
{
    return tanh(x);
}
#endif

#endif
