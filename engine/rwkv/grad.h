/* RWKV-7 for training: one sequence forward with everything kept, then backward through time.
 *
 *     struct rwkv_work_f32 *w = rwkv_work_new_f32(&layout, nn_f32_for(CPU_AUTO), T);
 *     loss = rwkv_forward_f32(w, params, tokens, targets, weight, T, NULL, NULL, NULL);
 *     rwkv_backward_f32(w, params, dparams, true, NULL, NULL);
 *
 * The loss is the weighted sum of the cross entropies, so a mean over a batch or a mask is a choice
 * of weights, and gradients of several sequences add up. The float form trains; the double form is
 * the same text and checks it. States are laid out as in params.h.
 *
 * Limitations: cheap mixes and activations are computed again in backward instead of being kept; a
 * work area holds about 30 L T C numbers. Threads: one work area a thread; params are shared. */
#ifndef ENGINE_RWKV_GRAD_H
#define ENGINE_RWKV_GRAD_H

#include "engine/nn/nn.h"
#include "engine/rwkv/params.h"

#include <stdbool.h>

#define NN_REAL float
#define G(name) name##_f32
#include "engine/rwkv/grad_decl.h"
#undef NN_REAL
#undef G
#define NN_REAL double
#define G(name) name##_f64
#include "engine/rwkv/grad_decl.h"
#undef NN_REAL
#undef G

#endif
