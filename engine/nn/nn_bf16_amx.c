#if defined(__x86_64__)

#include "engine/kernels/gemm_bf16.h"

#define NN_GEMM     gemm_bf16_amx
#define NN_BF16_SET nn__bf16_amx
#include "engine/nn/nn_bf16_tmpl.c"

#endif
