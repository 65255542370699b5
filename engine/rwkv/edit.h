/* Arithmetic on states: what a state is made of (blocks), the operations that change chosen blocks,
 * and how far two states are apart, block by block.
 *
 *     struct rwkv_edit op = {.kind = RWKV_EDIT_LERP, .with = (const float *[]){b}, .n_with = 1, .amount = .3};
 *     rwkv_edit_apply(info, &op, x, &e);          x <- .7 x + .3 b
 *
 * A block is one matrix of a head [N, N] or one shift vector [C] of a layer. Everything that knows
 * magnitude or angle (slerp, clamp_norm, noise, normalize) works within a block: blocks differ tenfold
 * in norm, so a figure over the whole state would be that of the largest.
 *
 * Elements are computed in double and rounded once, so that the laws that can hold bit for bit do: lerp 0,
 * slerp 0, scale 1, add 0 and the mean of one change nothing; lerp 1, slerp 1 and copy give the other's
 * bytes; x subtracted from itself is 0. A result that is not finite is refused.
 *
 * Threads: pure functions, any thread. */
#ifndef ENGINE_RWKV_EDIT_H
#define ENGINE_RWKV_EDIT_H

#include "engine/rwkv/rwkv.h"

enum rwkv_part { RWKV_ATT_SHIFT, RWKV_WKV, RWKV_FFN_SHIFT, RWKV_N_PARTS };
const char *rwkv_part_name(enum rwkv_part p); /* "att_shift", "wkv", "ffn_shift" */

struct rwkv_block {
    size_t layer;
    enum rwkv_part part;
    size_t head;     /* of a wkv block; else 0 */
    size_t first, n; /* its floats within the state */
};
/* Block i of L (H + 2), in the order of the floats. */
size_t rwkv_block_count(const struct rwkv_info *info);
struct rwkv_block rwkv_block(const struct rwkv_info *info, size_t i);

/* Which blocks: those whose part is chosen, whose layer is and, of wkv, whose head is. */
struct rwkv_select {
    bool parts[RWKV_N_PARTS];
    const bool *layers; /* [L]; NULL: all */
    const bool *heads;  /* [H]; NULL: all. Shift vectors have no heads: only their part counts */
};
#define RWKV_SELECT_ALL ((struct rwkv_select){.parts = {true, true, true}})
bool rwkv_selected(const struct rwkv_select *s, const struct rwkv_block *b);

enum rwkv_edit_kind {
    RWKV_EDIT_LERP,  /* x + t (b - x), b = with[0], t = amount */
    RWKV_EDIT_SLERP, /* along the arc between x and b by the share t of its angle; where there is
                           * no arc (one is zero, or they are parallel) as lerp */
    RWKV_EDIT_ADD,   /* x + amount (mean(with) - mean(minus)); without minus: a sum; with both: a
                           * task vector, a contrast */
    RWKV_EDIT_SCALE, /* amount x */
    RWKV_EDIT_MEAN,  /* mean of x and all of with */
    RWKV_EDIT_CLAMP_NORM, /* scaled down so that the block's Frobenius norm is at most amount */
    RWKV_EDIT_NOISE, /* + amount rms(block) normal numbers: Philox, key seed, stream the block */
    RWKV_EDIT_ZERO,  /* 0 */
    RWKV_EDIT_COPY   /* with[0] */
};

struct rwkv_edit {
    enum rwkv_edit_kind kind;
    struct rwkv_select select;
    double amount;
    uint64_t seed;
    bool normalize; /* then scale each block back to the norm that it had */
    const float *const *with, *const *minus; /* states of the same shape, none of them x */
    size_t n_with, n_minus;
};

/* Changes the chosen blocks of x and nothing else. ERR_INVALID (an amount that is not finite, a clamp or
 * noise below 0, an operand missing): x as it was. ERR_NUMERIC (which block is no longer finite): x is
 * undefined. */
int rwkv_edit_apply(const struct rwkv_info *info, const struct rwkv_edit *op, float *x,
                    struct err *e) __attribute__((warn_unused_result));

/* One block of two states. cosine is 0 where one of them is zero, 1 where both are; relative_l2 is
 * |a - b| / |a|, infinite if only a is zero. */
struct rwkv_difference {
    double norm_a, norm_b, cosine, relative_l2;
};
struct rwkv_difference rwkv_compare(const float *a, const float *b, size_t n);

#endif
