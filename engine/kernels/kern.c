#include "engine/kernels/kern_internal.h"

void kern_init(struct kern *k, enum cpu_level most)
{
    enum cpu_level level = cpu_detect(most);
    kern__init_c(k);
#if defined(__x86_64__)
    if (level >= CPU_AVX2)
        kern__init_avx2(k);
    if (level >= CPU_AVX512)
        kern__init_avx512(k);
#elif defined(__aarch64__)
    if (level >= CPU_NEON)
        kern__init_neon(k);
#endif
    k->level = level;
}
