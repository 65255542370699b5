#include "engine/hybrid/chain.h"

#define NN_REAL float
#define G(name) name##_f32
#include "engine/hybrid/chain_tmpl.c"
