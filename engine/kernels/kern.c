#include "engine/kernels/kern_internal.h"
#include "engine/kernels/panel.h"

void kern_init(struct kern *k, enum cpu_level most)
{
    enum cpu_level level = cpu_detect(most);
    kern__init_c(k);
#if defined(__x86_64__)
    if (level >= CPU_AVX2)
        kern__init_avx2(k);
    if (level >= CPU_AVX512)
        kern__init_avx512(k);
    k->make_ready = level >= CPU_AMX    ? panel__ready_amx
                    : level >= CPU_VNNI ? panel__ready_vnni
                    : level >= CPU_AVX2 ? panel__ready_avx2
                                        : panel__ready_c;
    k->mul_panels = level >= CPU_AMX      ? panel__mul_amx
                    : level >= CPU_VNNI   ? panel__mul_vnni
                    : level >= CPU_AVX512 ? panel__mul_avx512
                    : level >= CPU_AVX2   ? panel__mul_avx2
                                          : panel__mul_c;
#elif defined(__aarch64__)
    if (level >= CPU_NEON)
        kern__init_neon(k);
    k->make_ready = level >= CPU_DOTPROD ? panel__ready_dotprod
                    : level >= CPU_NEON  ? panel__ready_neon
                                         : panel__ready_c;
    k->mul_panels = level >= CPU_DOTPROD ? panel__mul_dotprod
                    : level >= CPU_NEON  ? panel__mul_neon
                                         : panel__mul_c;
#else
    k->make_ready = panel__ready_c;
    k->mul_panels = panel__mul_c;
#endif
    k->level = level;
}
