/* BF16 products by AMX: 32 x 32 of C are four tiles of sums, two tiles of A times two of B for each 32 of k.
 * A block of B (KC x NC) is packed on the stack as panels of 32 columns, [pair][32 columns][2], of which a tile
 * is half the columns of 16 pairs; for each 32 rows A is packed behind it, [row][pair][2]. B stays in the
 * second cache, the rows of A and a panel pass through the first. What is below 2^-126 counts as zero here. */
#include "engine/kernels/gemm_bf16.h"

#if defined(__x86_64__)

#include "engine/kernels/bf16_x86.h"
#include "engine/kernels/tile_x86.h"

#include <string.h>

#define SIDE  32 /* of a block of C */
#define KC    256
#define WORDS (384 * 1024 / 4) /* of a packed block of B */

/* c [32, 32] += (or, not `add`, =) a [32][pairs] b [pairs][32]. */
static void multiply(float *c, size_t ldc, bool add, const uint32_t *a, const uint32_t *b,
                     size_t pairs)
{
    const size_t row = ldc * sizeof *c, a_row = pairs * sizeof *a;
    if (add) {
        TILE_LOAD(0, c, row);
        TILE_LOAD(1, c + 16, row);
        TILE_LOAD(2, c + 16 * ldc, row);
        TILE_LOAD(3, c + 16 * ldc + 16, row);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (size_t p = 0; p < pairs; p += 16, a += 16, b += 16 * SIDE) {
        TILE_LOAD(4, a, a_row);
        TILE_LOAD(6, b, SIDE * sizeof *b);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD(7, b + 16, SIDE * sizeof *b);
        TILE_DOT_BF16(1, 4, 7);
        TILE_LOAD(5, a + 16 * pairs, a_row);
        TILE_DOT_BF16(2, 5, 6);
        TILE_DOT_BF16(3, 5, 7);
    }
    TILE_STORE(0, c, row);
    TILE_STORE(1, c + 16, row);
    TILE_STORE(2, c + 16 * ldc, row);
    TILE_STORE(3, c + 16 * ldc + 16, row);
}

/* The same for a block at C's edge, of which rows x cols are there. */
static void multiply_edge(float *c, size_t ldc, bool add, const uint32_t *a, const uint32_t *b,
                          size_t pairs, size_t rows, size_t cols)
{
    float edge[SIDE * SIDE] = {0};
    for (size_t i = 0; add && i < rows; i++)
        memcpy(edge + i * SIDE, c + i * ldc, cols * sizeof *c);
    multiply(edge, SIDE, add, a, b, pairs);
    for (size_t i = 0; i < rows; i++)
        memcpy(c + i * ldc, edge + i * SIDE, cols * sizeof *c);
}

static void scale(float *c, size_t ldc, size_t m, size_t n, float beta)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] *= beta;
}

BF16_CODE
void gemm_bf16_amx(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda,
                   const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    _Alignas(64) uint32_t bw[WORDS], aw[SIDE * KC / 2];
    if (beta != 0 && beta != 1)
        scale(c, ldc, m, n, beta);
    tiles_configure(16, 64, 16);
    for (size_t k0 = 0; k0 < k; k0 += KC) {
        const size_t kn = k - k0 < KC ? k - k0 : KC, pairs = bf16_pairs(kn);
        const size_t most = WORDS / pairs / SIDE * SIDE;
        const bool add = k0 > 0 || beta != 0;
        for (size_t n0 = 0, nn; n0 < n; n0 += nn) {
            nn = n - n0 < most ? n - n0 : most;
            for (size_t j = 0; j < nn; j += SIDE) {
                const size_t cols = nn - j < SIDE ? nn - j : SIDE;
                if (tb)
                    bf16_pack_along_turned(bw + j * pairs, SIDE, b + (n0 + j) * ldb + k0, ldb, cols,
                                           kn);
                else
                    bf16_pack_across(bw + j * pairs, SIDE, b + k0 * ldb + n0 + j, ldb, cols, kn);
            }
            for (size_t i = 0; i < m; i += SIDE) {
                const size_t rows = m - i < SIDE ? m - i : SIDE;
                if (ta)
                    bf16_pack_across_turned(aw, pairs, a + k0 * lda + i, lda, rows, kn);
                else
                    bf16_pack_along(aw, pairs, a + i * lda + k0, lda, rows, kn);
                for (size_t j = 0; j < nn; j += SIDE) {
                    const size_t cols = nn - j < SIDE ? nn - j : SIDE;
                    float *to = c + i * ldc + n0 + j;
                    if (rows == SIDE && cols == SIDE)
                        multiply(to, ldc, add, aw, bw + j * pairs, pairs);
                    else
                        multiply_edge(to, ldc, add, aw, bw + j * pairs, pairs, rows, cols);
                }
            }
        }
    }
    TILE_RELEASE();
}

#endif
