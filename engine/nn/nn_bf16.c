#include "engine/kernels/gemm_bf16.h"
#include "engine/nn/nn_internal.h"

bool nn_bf16_products(struct nn_f32 *op)
{
    gemm_bf16_fn *form = gemm_bf16_for(CPU_AUTO);
#if defined(__x86_64__)
    if (form == gemm_bf16_amx)
        nn__bf16_amx(op);
    else if (form)
        nn__bf16_avx512(op);
#else
    (void)op;
#endif
    return form != NULL;
}
