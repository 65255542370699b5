#include "engine/hybrid/chain.h"

#define NN_REAL double
#define G(name) name##_f64
#include "engine/hybrid/chain_tmpl.c"
