/* Which SIMD code a CPU can run. Detected when asked and returned as a value: nothing is remembered. */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <stdbool.h>

/* The levels of an architecture in rising order, each including those below it: C, AVX2, AVX-512, the
 * same with VNNI, and with AMX (tiles of int8 and BF16) on x86-64; C, NEON, the same with dot products
 * on 64-bit ARM; C elsewhere. CPU_AUTO: the best there is, unless the environment variable
 * DREAMSTATE_CPU names one of them ("c", "neon", "dotprod", "avx2", "avx512", "vnni", "amx") to stay
 * at or below. */
enum cpu_level { CPU_AUTO, CPU_C, CPU_NEON, CPU_DOTPROD, CPU_AVX2, CPU_AVX512, CPU_VNNI, CPU_AMX };

/* The best level this CPU and its system run that is not above `most`. Pure but for reading the
 * environment when most is CPU_AUTO; never returns CPU_AUTO. Any thread. */
enum cpu_level cpu_detect(enum cpu_level most);

/* The level above l of the architecture that this was built for, whether or not this CPU runs it;
 * CPU_AUTO, which is 0, if there is none: for (l = CPU_C; l; l = cpu_level_next(l)). */
enum cpu_level cpu_level_next(enum cpu_level l);

const char *cpu_level_name(enum cpu_level l); /* as above; "auto" */
bool cpu_level_parse(const char *s, enum cpu_level *out);

#endif
