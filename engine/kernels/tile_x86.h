/* AMX's instructions, written out because the compilers' functions for them do not say what memory they
 * read. For the files named *_amx.c. */
#ifndef ENGINE_TILE_X86_H
#define ENGINE_TILE_X86_H

#include <stddef.h>
#include <stdint.h>

struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

/* Tiles 0 to 3: sums [a_rows, 16 x 4 bytes]; 4, 5: A [a_rows, a_bytes]; 6, 7: B [b_rows, 64 bytes]. With
 * a_bytes 64 and a_rows b_rows all are the same, so that any tile may be anything. */
static inline void tiles_configure(size_t a_rows, size_t a_bytes, size_t b_rows)
{
    struct tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        c.rows[t] = (uint8_t)(t < 6 ? a_rows : b_rows);
        c.colsb[t] = (uint16_t)(t == 4 || t == 5 ? a_bytes : 64);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

#define TILE_LOAD(t, p, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride)                                                                   \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((size_t)(stride)) : "memor" \
                                                                                           "y")
#define TILE_ZERO(t)           __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_DOT_INT8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define TILE_RELEASE()         __asm__ volatile("tilerelease")

#endif
