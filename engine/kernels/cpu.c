#include "engine/kernels/cpu.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"auto", "c", "avx2", "avx512"};

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

/* The compiler's runtime asks cpuid and, for the wide registers, what the system saves (xgetbv). */
static enum cpu_level cpu_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2 && avx512) /* F16C came before AVX2 in every CPU that has both */
        return CPU_AVX512;
    if (avx2)
        return CPU_AVX2;
#endif
    return CPU_C;
}

enum cpu_level cpu_detect(enum cpu_level most)
{
    const char *env = most == CPU_AUTO ? getenv("DREAMSTATE_CPU") : NULL;
    if (env)
        cpu_level_parse(env, &most);
    enum cpu_level best = cpu_best();
    return most == CPU_AUTO || most > best ? best : most;
}
