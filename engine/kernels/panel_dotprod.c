/* panel_neon.c for CPUs with the dot product instructions (Armv8.2 and later): see the Makefile. */
#include "engine/kernels/panel_neon.c"
