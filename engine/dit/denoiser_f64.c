#include "engine/dit/denoiser.h"

#define NN_REAL double
#define G(name) name##_f64
#include "engine/dit/denoiser_tmpl.c"
