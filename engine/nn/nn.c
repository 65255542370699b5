#include "engine/nn/nn.h"

extern const struct nn_f32 nn_f32_c, nn_f32_avx2, nn_f32_avx512;

const struct nn_f32 *nn_f32_for(enum cpu_level level)
{
    level = cpu_detect(level);
#if defined(__x86_64__)
    if (level >= CPU_AVX2)
        return level >= CPU_AVX512 ? &nn_f32_avx512 : &nn_f32_avx2;
#endif
    return &nn_f32_c;
}
