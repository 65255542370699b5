#include "engine/kernels/cpu.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

static const char *const names[] = {"auto", "c",      "neon", "dotprod",
                                    "avx2", "avx512", "vnni", "amx"};

const char *cpu_level_name(enum cpu_level l)
{
    return names[l];
}

bool cpu_level_parse(const char *s, enum cpu_level *out)
{
    for (int i = CPU_AUTO; i <= CPU_AMX; i++)
        if (!strcmp(s, names[i])) {
            *out = (enum cpu_level)i;
            return true;
        }
    return false;
}

enum cpu_level cpu_level_next(enum cpu_level l)
{
#if defined(__x86_64__)
    return l == CPU_C                     ? CPU_AVX2
           : l >= CPU_AVX2 && l < CPU_AMX ? (enum cpu_level)(l + 1)
                                          : CPU_AUTO;
#elif defined(__aarch64__)
    return l == CPU_C ? CPU_NEON : l == CPU_NEON ? CPU_DOTPROD : CPU_AUTO;
#else
    (void)l;
    return CPU_AUTO;
#endif
}

#if defined(__x86_64__)
/* Tiles in the CPU, saved by the system, and this process's leave to use them (which stays). */
static bool amx_runs(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25; /* BF16, TILE, INT8 */
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tiles) == tiles &&
           __builtin_cpu_supports("avx512bf16") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#endif

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
    if (l == CPU_VNNI)
        return __builtin_cpu_supports("avx512vnni");
    if (l == CPU_AMX)
        return amx_runs();
#elif defined(__aarch64__)
    if (l == CPU_DOTPROD)
        return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
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
