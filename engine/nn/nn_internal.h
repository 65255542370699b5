/* Between the choice of operations and their builds. */
#ifndef ENGINE_NN_INTERNAL_H
#define ENGINE_NN_INTERNAL_H

#include "engine/nn/nn.h"

/* Put the products with BF16 operands in a table: gemm_bf16.h's forms, x86-64 only. */
void nn__bf16_avx512(struct nn_f32 *op);
void nn__bf16_amx(struct nn_f32 *op);

#endif
