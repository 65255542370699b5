#include "engine/nn/nn.h"

extern const struct nn_f32 nn_f32_c, nn_f32_avx2, nn_f32_avx512;

const struct nn_f32 *nn_f32_for(enum cpu_level level)
{
    level = cpu_detect(level);
    return level == CPU_AVX512 ? &nn_f32_avx512 : level == CPU_AVX2 ? &nn_f32_avx2 : &nn_f32_c;
}
