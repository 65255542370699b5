/* Memory: sizes multiplied with a check, blocks aligned for SIMD. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* *out = a * b; false when it does not fit. */
static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool mem_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* count * size bytes on a 64-byte boundary, zeroed; NULL without memory or on overflow. free() it. */
static inline void *mem_calloc_aligned(size_t count, size_t size)
{
    size_t bytes;
    if (!mem_mul(count, size, &bytes) || bytes > SIZE_MAX - 64)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, bytes ? bytes : 64);
    if (p)
        memset(p, 0, bytes);
    return p;
}

/* The same for what is worked through again and again: in large pages where it is large and the system has them,
 * so that finding an address's page costs nothing. */
static inline void *mem_calloc_large(size_t count, size_t size)
{
    enum { PAGE = 2 << 20 };
    size_t bytes;
    if (!mem_mul(count, size, &bytes) || bytes > PTRDIFF_MAX - PAGE)
        return NULL;
    if (bytes < 2 * PAGE)
        return mem_calloc_aligned(count, size);
    bytes = (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    void *p = aligned_alloc(PAGE, bytes);
    if (p) {
        madvise(p, bytes, MADV_HUGEPAGE);
        memset(p, 0, bytes);
    }
    return p;
}

#endif
