/* Element types of tensors in files and in memory, and their conversion to F32.
 *
 * Quantised types are GGUF's: a row is a whole number of blocks. Values match the public definitions
 * (F16 IEEE 754 binary16, BF16 = upper half of F32); conversion to F32 is exact for F16 and BF16,
 * to BF16 and F16 rounds to nearest even. Pure functions, any thread. */
#ifndef ENGINE_DTYPE_H
#define ENGINE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, block length (elements), block bytes */
#define DTYPE_MAP(XX)                                                                              \
    XX(F32, 1, 4) XX(F16, 1, 2) XX(BF16, 1, 2) XX(F64, 1, 8)                                       \
    XX(I8, 1, 1) XX(U8, 1, 1) XX(I16, 1, 2) XX(I32, 1, 4) XX(I64, 1, 8) XX(BOOL, 1, 1)             \
    XX(Q4_0, 32, 18) XX(Q4_1, 32, 20) XX(Q5_0, 32, 22) XX(Q5_1, 32, 24) XX(Q8_0, 32, 34)           \
    XX(Q2_K, 256, 84) XX(Q3_K, 256, 110) XX(Q4_K, 256, 144) XX(Q5_K, 256, 176) XX(Q6_K, 256, 210)

enum dtype {
#define XX(name, len, bytes) DTYPE_##name,
    DTYPE_MAP(XX)
#undef XX
        DTYPE_COUNT
};

const char *dtype_name(enum dtype t);              /* "F32", "Q8_0", ... */
bool dtype_parse(const char *s, enum dtype *out);  /* case does not matter */
size_t dtype_block_len(enum dtype t);              /* elements */
size_t dtype_block_bytes(enum dtype t);            /* bytes */
/* Bytes of n elements; false if n is no whole number of blocks or the product overflows. */
bool dtype_bytes(enum dtype t, size_t n, size_t *bytes);

/* n elements (whole blocks) at src, any alignment, to dst [n]. */
void dtype_to_f32(enum dtype t, const void *src, float *dst, size_t n);
/* To F32, F16, BF16, Q8_0 or Q4_0 (ggml's rounding for the last two); others: false. */
bool dtype_from_f32(enum dtype t, const float *src, void *dst, size_t n);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
static inline float bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}
uint16_t f32_to_bf16(float f);

#endif
