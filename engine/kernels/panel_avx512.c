/* Products of panels with AVX-512 alone: plain types sixteen rows at a time, the others as AVX2 takes them. */
#include "engine/kernels/panel.h"

#if defined(__x86_64__)

#include "engine/kernels/panel_zmm.h"

#define NAME(f) f##_avx512
#include "engine/kernels/panel_plain_tmpl.c"

void panel__mul_avx512(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                       const struct mat_out *out, float *scratch)
{
    if (panel__is_plain(m->type))
        panel__mul_plain_avx512(m, lo, hi, in, out);
    else
        panel__mul_avx2(m, lo, hi, in, out, scratch);
}

#endif
