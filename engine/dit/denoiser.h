/* The Diffusion Transformer: blocks of attention and MLP with adaLN-Zero on timestep and condition
 * (Peebles and Xie 2023), forward, and backward by hand.
 *
 *     struct dit_work_f32 *w = dit_work_new_f32(&layout, nn_f32_for(CPU_AUTO), S);
 *     dit_forward_f32(w, params, &in, out);
 *     dit_backward_f32(w, params, dparams, dout, NULL, NULL);
 *
 * The float form trains and samples; the double form is the same text and checks it. Samples of a
 * batch share nothing but the matrix products: with BLAS a sample's last bits depend on the batch's
 * size, so sampling runs every sample in a batch of its own.
 *
 * Limitations: a work area holds about S n (L (15 C + F + n H) + 2 F + 8 C) numbers, L being 1 where it is for
 * forward alone.
 * Threads: one work area a thread; params are shared. */
#ifndef ENGINE_DIT_DENOISER_H
#define ENGINE_DIT_DENOISER_H

#include "engine/dit/params.h"
#include "engine/nn/nn.h"

#define DIT_LABEL_TEXT UINT32_MAX /* the sample's condition is its vector */

/* The sinusoid of timestep t: [cos(t f_i), sin(t f_i)], f_i = 10000^(-i / half), out [dim]; an odd
 * dim ends with a zero. */
void dit_timestep(double *out, double t, size_t dim);

#define NN_REAL float
#define G(name) name##_f32
#include "engine/dit/denoiser_decl.h"
#undef NN_REAL
#undef G
#define NN_REAL double
#define G(name) name##_f64
#include "engine/dit/denoiser_decl.h"
#undef NN_REAL
#undef G

#endif
