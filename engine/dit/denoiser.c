#include "engine/dit/denoiser.h"

#include <math.h>

void dit_timestep(double *out, double t, size_t dim)
{
    size_t half = dim / 2;
    for (size_t i = 0; i < half; i++) {
        double f = exp(-log(10000) * (double)i / (double)half);
        out[i] = cos(t * f);
        out[half + i] = sin(t * f);
    }
    if (dim % 2)
        out[dim - 1] = 0;
}
