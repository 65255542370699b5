/* Between kern.c and the levels: each fills the whole table from its own build of kern_tmpl.c. */
#ifndef ENGINE_KERN_INTERNAL_H
#define ENGINE_KERN_INTERNAL_H

#include "engine/kernels/kern.h"

void kern__init_c(struct kern *k);
void kern__init_neon(struct kern *k);   /* 64-bit ARM only */
void kern__init_avx2(struct kern *k);   /* x86-64 only: AVX2, FMA, F16C */
void kern__init_avx512(struct kern *k); /* x86-64 only: AVX-512 F, BW, DQ, VL */

#endif
