/* Which SIMD code a CPU can run. Detected when asked and returned as a value: nothing is remembered. */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <stdbool.h>

/* Each level includes those below it. CPU_AUTO: the best there is, unless the environment variable
 * DREAMSTATE_CPU names one of "c", "avx2", "avx512" to stay at or below. */
enum cpu_level { CPU_AUTO, CPU_C, CPU_AVX2, CPU_AVX512 };

/* The best level this CPU and its system run that is not above `most`. Pure but for reading the
 * environment when most is CPU_AUTO; never returns CPU_AUTO. Any thread. */
enum cpu_level cpu_detect(enum cpu_level most);

const char *cpu_level_name(enum cpu_level l); /* "c", "avx2", "avx512"; "auto" */
bool cpu_level_parse(const char *s, enum cpu_level *out);

#endif
