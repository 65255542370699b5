/* Element types: sizes, names, and the conversion of plain types. Blocks of GGUF are in blocks.c.
 * The loops read and write through memcpy (any alignment) and select instead of branching, so that
 * compilers vectorise them for whatever the build targets. */
#include "engine/tensor/dtype.h"

#include "daemon/base/mem.h"
#include "engine/tensor/blocks.h"

#include <strings.h>

static const struct {
    const char *name;
    size_t len, bytes;
} types[DTYPE_COUNT] = {
#define XX(name, len, bytes) [DTYPE_##name] = {#name, len, bytes},
    DTYPE_MAP(XX)
#undef XX
};

const char *dtype_name(enum dtype t)
{
    return (unsigned)t < DTYPE_COUNT ? types[t].name : "?";
}

bool dtype_parse(const char *s, enum dtype *out)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (!strcasecmp(s, types[t].name)) {
            *out = (enum dtype)t;
            return true;
        }
    return false;
}

size_t dtype_block_len(enum dtype t)
{
    return types[t].len;
}

size_t dtype_block_bytes(enum dtype t)
{
    return types[t].bytes;
}

bool dtype_bytes(enum dtype t, size_t n, size_t *bytes)
{
    return n % types[t].len == 0 && mem_mul(n / types[t].len, types[t].bytes, bytes);
}

static inline uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* sign | exponent (5, bias 15) | fraction (10) to sign | exponent (8, bias 127) | fraction (23).
 * Subnormals are fraction * 2^-24, by an integer conversion: no denormal F32 takes part, so a
 * thread that flushes those gets the same values. */
static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    uint32_t normal = (rest << 13) + (112u << 23);
    uint32_t special = (rest << 13) + (224u << 23);
    uint32_t tiny = float_bits((float)(int32_t)(rest & 0x3ff) * 0x1p-24f);
    uint32_t u = rest < 0x400 ? tiny : rest < 0x7c00 ? normal : special;
    return bits_float(u | sign);
}

/* To nearest even. Adding 0.5 to a magnitude below 2^-14 leaves it, rounded to multiples of 2^-24,
 * in the low bits; above, half a unit less one plus the last bit kept is added and the rest cut. */
static inline uint16_t float_to_half(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    uint32_t tiny = float_bits(bits_float(u < 0x38800000 ? u : 0) + 0.5f) - 0x3f000000;
    uint32_t normal = (u + 0xfff + (u >> 13 & 1) - (112u << 23)) >> 13;
    uint32_t special = u > 0x7f800000 ? 0x7e00 | (u >> 13 & 0x3ff) : 0x7c00;
    uint32_t h = u < 0x38800000 ? tiny : u < 0x47800000 ? normal : special;
    return (uint16_t)(h | sign);
}

static inline uint16_t float_to_brain(float f)
{
    uint32_t u = float_bits(f);
    uint32_t nan = (u >> 16) | 0x40, round = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : round);
}

float f16_to_f32(uint16_t h)
{
    return half_to_float(h);
}

uint16_t f32_to_f16(float f)
{
    return float_to_half(f);
}

uint16_t f32_to_bf16(float f)
{
    return float_to_brain(f);
}

#define EACH(type, expr)                                                                           \
    for (size_t i = 0; i < n; i++) {                                                               \
        type x;                                                                                    \
        memcpy(&x, (const char *)src + i * sizeof x, sizeof x);                                    \
        dst[i] = (expr);                                                                           \
    }

/* Integers beyond 2^24 and F64 round to the nearest F32. */
void dtype_to_f32(enum dtype t, const void *restrict src, float *restrict dst, size_t n)
{
    switch (t) {
    case DTYPE_F32:
        if (n)
            memcpy(dst, src, n * sizeof *dst);
        break;
    case DTYPE_F16:
        EACH(uint16_t, half_to_float(x))
        break;
    case DTYPE_BF16:
        EACH(uint16_t, bf16_to_f32(x))
        break;
    case DTYPE_F64:
        EACH(double, (float)x)
        break;
    case DTYPE_I8:
        EACH(int8_t, (float)x)
        break;
    case DTYPE_U8:
        EACH(uint8_t, (float)x)
        break;
    case DTYPE_I16:
        EACH(int16_t, (float)x)
        break;
    case DTYPE_I32:
        EACH(int32_t, (float)x)
        break;
    case DTYPE_I64:
        EACH(int64_t, (float)x)
        break;
    case DTYPE_BOOL:
        EACH(uint8_t, x ? 1.0f : 0.0f)
        break;
    default:
        blocks_to_f32(t, src, dst, n / types[t].len);
    }
}

bool dtype_from_f32(enum dtype t, const float *restrict src, void *restrict dst, size_t n)
{
    uint8_t *out = dst;
    if (n % types[t].len)
        return false;
    switch (t) {
    case DTYPE_F32:
        if (n)
            memcpy(dst, src, n * sizeof *src);
        return true;
    case DTYPE_F16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = float_to_half(src[i]);
            memcpy(out + 2 * i, &h, sizeof h);
        }
        return true;
    case DTYPE_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = float_to_brain(src[i]);
            memcpy(out + 2 * i, &h, sizeof h);
        }
        return true;
    default:
        return blocks_from_f32(t, src, out, n / types[t].len);
    }
}
