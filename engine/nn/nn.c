#include "engine/nn/nn.h"

#include "daemon/base/assert.h"

extern const struct nn_f32 nn_f32_c, nn_f32_avx2, nn_f32_avx512;

int nn_isa_supported(enum nn_isa isa)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == NN_ISA_AVX2)
        return avx2;
    if (isa == NN_ISA_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    return isa == NN_ISA_C;
}

const char *nn_isa_name(enum nn_isa isa)
{
    static const char *const names[] = {"c", "avx2", "avx512"};
    return names[isa];
}

const struct nn_f32 *nn_f32_get(enum nn_isa isa)
{
    ASSERT(nn_isa_supported(isa));
    return isa == NN_ISA_AVX512 ? &nn_f32_avx512 : isa == NN_ISA_AVX2 ? &nn_f32_avx2 : &nn_f32_c;
}

enum nn_isa nn_isa_best(void)
{
    return nn_isa_supported(NN_ISA_AVX512) ? NN_ISA_AVX512
           : nn_isa_supported(NN_ISA_AVX2) ? NN_ISA_AVX2
                                           : NN_ISA_C;
}
