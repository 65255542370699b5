#include "engine/kernels/gemm_bf16.h"

gemm_bf16_fn *gemm_bf16_for(enum cpu_level level)
{
    level = cpu_detect(level);
#if defined(__x86_64__)
    if (level >= CPU_AMX)
        return gemm_bf16_amx;
    if (level >= CPU_AVX512 && __builtin_cpu_supports("avx512bf16"))
        return gemm_bf16_avx512;
#endif
    return NULL;
}
