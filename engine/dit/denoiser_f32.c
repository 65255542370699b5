#include "engine/dit/denoiser.h"

#define NN_REAL float
#define G(name) name##_f32
#include "engine/dit/denoiser_tmpl.c"
