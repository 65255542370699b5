#include "engine/rwkv/grad.h"

#define NN_REAL double
#define G(name) name##_f64
#include "engine/rwkv/grad_tmpl.c"
