/* GGUF's quantised blocks, after the layouts that ggml and gguf-py publish.
 *
 * d, m: F16 scale and minimum. q: the small integers of the block. In the 32-element types byte j
 * of the packed nibbles holds element j (low) and element j + 16 (high). The K types hold 256
 * elements in groups of 16 or 32, each with a small integer scale under the block's F16 scale; their
 * products have no more bits than an F32, so the only rounding is that of a difference. */
#include "engine/tensor/blocks.h"

#include "engine/tensor/file.h"

#include <math.h>

static float half_at(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

/* d | 16 nibble pairs;  x = d (q - 8) */
static void q4_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

/* d | m | 16 nibble pairs;  x = d q + m */
static void q4_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

/* Element j's fifth bit is bit j of the 32-bit word h. */
static void five_bits(const uint8_t *nibbles, uint32_t h, int q[32])
{
    for (int j = 0; j < 16; j++) {
        q[j] = (nibbles[j] & 15) | (int)(h >> j & 1) << 4;
        q[j + 16] = nibbles[j] >> 4 | (int)(h >> (j + 16) & 1) << 4;
    }
}

/* d | h | 16 nibble pairs;  x = d (q - 16) */
static void q5_0(const uint8_t *b, float *y)
{
    int q[32];
    float d = half_at(b);
    five_bits(b + 6, load_u32(b + 2), q);
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)(q[j] - 16);
}

/* d | m | h | 16 nibble pairs;  x = d q + m */
static void q5_1(const uint8_t *b, float *y)
{
    int q[32];
    float d = half_at(b), m = half_at(b + 2);
    five_bits(b + 8, load_u32(b + 4), q);
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)q[j] + m;
}

/* d | 32 signed bytes;  x = d q */
static void q8_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)(int8_t)b[2 + j];
}

/* scale and minimum nibbles [16] | q [64], 2 bits | d | m;  x = d scale q - m minimum.
 * Half h (128 elements) uses bytes 32 h .. 32 h + 31 of q four times, two bits deeper each time. */
static void q2_k(const uint8_t *b, float *y)
{
    const uint8_t *scale = b, *q = b + 16;
    float d = half_at(b + 80), m = half_at(b + 82);
    for (int g = 0; g < 16; g++) {
        const uint8_t *from = q + 32 * (g / 8) + 16 * (g % 2);
        int shift = g / 2 % 4 * 2;
        float dg = d * (float)(scale[g] & 15), mg = m * (float)(scale[g] >> 4);
        for (int j = 0; j < 16; j++)
            y[16 * g + j] = dg * (float)(from[j] >> shift & 3) - mg;
    }
}

/* high bits [32] | q [64], 2 bits | scales [12], 6 bits each | d;  x = d (scale - 32) q3,
 * q3 = q if its high bit is set, else q - 4. The high bit of group pair p is bit p of its byte.
 * Scale g: low nibbles in bytes 0..7 (g < 8 low half, else high half), two high bits in
 * bytes 8..11. */
static void q3_k(const uint8_t *b, float *y)
{
    const uint8_t *high = b, *q = b + 32, *scale = b + 96;
    float d = half_at(b + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? scale[g] & 15 : scale[g - 8] >> 4;
        int s = (low | (scale[8 + g % 4] >> (g / 4 * 2) & 3) << 4) - 32;
        const uint8_t *from = q + 32 * (g / 8) + 16 * (g % 2), *bits = high + 16 * (g % 2);
        int shift = g / 2 % 4 * 2;
        float dg = d * (float)s;
        for (int j = 0; j < 16; j++) {
            int v = (from[j] >> shift & 3) - (bits[j] >> (g / 2) & 1 ? 0 : 4);
            y[16 * g + j] = dg * (float)v;
        }
    }
}

/* d | m | scales [12] | q [128], nibbles;  x = d scale q - m minimum.
 * Groups 2 k and 2 k + 1 are the low and the high nibbles of bytes 32 k .. 32 k + 31. */
static void q4_k(const uint8_t *b, float *y)
{
    uint8_t scale[8], min[8];
    float d = half_at(b), m = half_at(b + 2);
    block_scales(b + 4, scale, min);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = b + 16 + 32 * (g / 2);
        float dg = d * (float)scale[g], mg = m * (float)min[g];
        for (int j = 0; j < 32; j++)
            y[32 * g + j] = dg * (float)(q[j] >> (4 * (g % 2)) & 15) - mg;
    }
}

/* d | m | scales [12] | high bits [32] | q [128]: as Q4_K with a fifth bit, bit g of its byte. */
static void q5_k(const uint8_t *b, float *y)
{
    uint8_t scale[8], min[8];
    float d = half_at(b), m = half_at(b + 2);
    block_scales(b + 4, scale, min);
    for (int g = 0; g < 8; g++) {
        const uint8_t *high = b + 16, *q = b + 48 + 32 * (g / 2);
        float dg = d * (float)scale[g], mg = m * (float)min[g];
        for (int j = 0; j < 32; j++) {
            int v = (q[j] >> (4 * (g % 2)) & 15) | (high[j] >> g & 1) << 4;
            y[32 * g + j] = dg * (float)v - mg;
        }
    }
}

/* low nibbles [128] | high bit pairs [64] | scales, signed [16] | d;  x = d scale (q - 32).
 * Within a half of 128, quarter k (32 elements) has its nibbles in bytes 32 (k % 2) .. + 31, low
 * for k < 2, and its bit pairs at bits 2 k of the 32 bytes of its half. */
static void q6_k(const uint8_t *b, float *y)
{
    const int8_t *scale = (const int8_t *)b + 192;
    float d = half_at(b + 208);
    for (int g = 0; g < 16; g++) {
        int half = g / 8, k = g / 2 % 4, at = 16 * (g % 2);
        const uint8_t *low = b + 64 * half + 32 * (k % 2) + at, *high = b + 128 + 32 * half + at;
        float dg = d * (float)scale[g];
        for (int j = 0; j < 16; j++) {
            int v = (low[j] >> (4 * (k / 2)) & 15) | (high[j] >> (2 * k) & 3) << 4;
            y[16 * g + j] = dg * (float)(v - 32);
        }
    }
}

void blocks_to_f32(enum dtype t, const uint8_t *src, float *dst, size_t n_blocks)
{
    static void (*const unpack[DTYPE_COUNT])(const uint8_t *, float *) = {
        [DTYPE_Q4_0] = q4_0, [DTYPE_Q4_1] = q4_1, [DTYPE_Q5_0] = q5_0, [DTYPE_Q5_1] = q5_1,
        [DTYPE_Q8_0] = q8_0, [DTYPE_Q2_K] = q2_k, [DTYPE_Q3_K] = q3_k, [DTYPE_Q4_K] = q4_k,
        [DTYPE_Q5_K] = q5_k, [DTYPE_Q6_K] = q6_k,
    };
    size_t len = dtype_block_len(t), bytes = dtype_block_bytes(t);
    for (size_t i = 0; unpack[t] && i < n_blocks; i++)
        unpack[t](src + i * bytes, dst + i * len);
}

/* A float that is certainly within int's range, NaN as 0. */
static int to_int(float v, float least, float most)
{
    return (int)(v > least ? v < most ? v : most : v <= least ? least : 0.0f);
}

/* d = max |x| / 127;  q = x / d, to nearest, halves away from zero. q is found with the F32 scale,
 * which is rounded to F16 only when stored: as ggml does. */
static void to_q8_0(const float *x, uint8_t *b)
{
    float most = 0;
    for (int j = 0; j < 32; j++)
        most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
    float d = most / 127.0f, inverse = d != 0 ? 1.0f / d : 0;
    uint16_t h = f32_to_f16(d);
    memcpy(b, &h, sizeof h);
    for (int j = 0; j < 32; j++)
        b[2 + j] = (uint8_t)(int8_t)to_int(roundf(x[j] * inverse), -127, 127);
}

/* d = x of the largest magnitude (the first of equals) / -8;  q = min(15, cut(x / d + 8.5)). */
static void to_q4_0(const float *x, uint8_t *b)
{
    float most = 0, signed_most = 0;
    for (int j = 0; j < 32; j++)
        if (fabsf(x[j]) > most)
            most = fabsf(x[j]), signed_most = x[j];
    float d = signed_most / -8.0f, inverse = d != 0 ? 1.0f / d : 0;
    uint16_t h = f32_to_f16(d);
    memcpy(b, &h, sizeof h);
    for (int j = 0; j < 16; j++) {
        int low = to_int(x[j] * inverse + 8.5f, 0, 15);
        int high = to_int(x[j + 16] * inverse + 8.5f, 0, 15);
        b[2 + j] = (uint8_t)(low | high << 4);
    }
}

bool blocks_from_f32(enum dtype t, const float *src, uint8_t *dst, size_t n_blocks)
{
    if (t != DTYPE_Q8_0 && t != DTYPE_Q4_0)
        return false;
    for (size_t i = 0; i < n_blocks; i++)
        if (t == DTYPE_Q8_0)
            to_q8_0(src + 32 * i, dst + 34 * i);
        else
            to_q4_0(src + 32 * i, dst + 18 * i);
    return true;
}
