#include "engine/rwkv/grad.h"

#define NN_REAL float
#define G(name) name##_f32
#include "engine/rwkv/grad_tmpl.c"
