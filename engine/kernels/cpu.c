#include "engine/kernels/cpu.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"auto", "c", "neon", "avx2", "avx512"};

const char *cpu_level_name(enum cpu_level l)
{
    return names[l];
}

bool cpu_level_parse(const char *s, enum cpu_level *out)
{
    for (int i = CPU_AUTO; i <= CPU_AVX512; i++)
        if (!strcmp(s, names[i])) {
            *out = (enum cpu_level)i;
            return true;
        }
    return false;
}

enum cpu_level cpu_level_next(enum cpu_level l)
{
#if defined(__x86_64__)
    return l == CPU_C ? CPU_AVX2 : l == CPU_AVX2 ? CPU_AVX512 : CPU_AUTO;
#elif defined(__aarch64__)
    return l == CPU_C ? CPU_NEON : CPU_AUTO;
#else
    (void)l;
    return CPU_AUTO;
#endif
}

/* x86-64: the compiler's runtime asks cpuid and, for the wide registers, what the system saves (xgetbv).
 * F16C came before AVX2 in every CPU that has both. Every 64-bit ARM has NEON with conversion of F16. */
static bool cpu_runs(enum cpu_level l)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (l == CPU_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (l == CPU_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    return l != CPU_AUTO;
}

enum cpu_level cpu_detect(enum cpu_level most)
{
    const char *env = most == CPU_AUTO ? getenv("DREAMSTATE_CPU") : NULL;
    if (env)
        cpu_level_parse(env, &most);
    enum cpu_level best = CPU_C, l;
    while ((l = cpu_level_next(best)) && (most == CPU_AUTO || l <= most) && cpu_runs(l))
        best = l;
    return best;
}
