/* From a context to a loss: the transformer's last step of sampling, the mixing of its result with
 * the model's own vectors, the model over the continuation; and back, by hand.
 *
 *     v = DiT(x, t | context),   z = sqrt(ab) x - sqrt(1 - ab) v
 *     theta = theta_static + strength (1 - alpha) scale B tanh(z / B),   alpha = sigmoid(logit)
 *     L = weight_0 sum ce(theta) + weight_1 sum (v(noised target) - v*)^2
 *
 * which is theta = alpha theta_static + (1 - alpha) theta_dynamic at strength 1, theta_dynamic being
 * theta_static and a delta. A token of the transformer is a (layer, head), its G N numbers the head's
 * part of the G vectors of a layer's theta (params.h: 6, or 6 + 6 r with low-rank additions), each
 * group, which is one of these, in units of its scale.
 *
 * What keeps it stable, whatever the transformer says: alpha is in (0, 1) and a delta within B
 * scales of its group; decay, in-context rate and value residual stay in their ranges, being
 * sigmoids of theta; the removal key is normalised behind k_k; what is added to receptance, key and
 * value is bounded as A and B are.
 *
 * The float form trains and samples; the double form is the same text and checks it.
 * Threads: one chain a thread; nets and weights are shared. */
#ifndef ENGINE_HYBRID_CHAIN_H
#define ENGINE_HYBRID_CHAIN_H

#include "engine/dit/dataset.h"
#include "engine/dit/denoiser.h"
#include "engine/dit/schedule.h"
#include "engine/rwkv/grad.h"

#define HYBRID_BOUND 8 /* B, in scales */

/* G, which the transformer's shape tells. */
static inline size_t hybrid_groups(const struct dit_layout *l, const struct state_shape *s)
{
    return l->shape.token_dim / s->head_size;
}
static inline size_t hybrid_rank(const struct dit_layout *l, const struct state_shape *s)
{
    return (hybrid_groups(l, s) - RWKV_THETA) / (rwkv_theta_groups(1) - RWKV_THETA);
}
/* Numbers of a net's parameters, a multiple of 16 like the transformer's. */
static inline size_t hybrid_count(const struct dit_layout *l, const struct state_shape *s)
{
    return l->count + (s->n_layer * hybrid_groups(l, s) + 15) / 16 * 16;
}

#define NN_REAL float
#define G(name) name##_f32
#include "engine/hybrid/chain_decl.h"
#undef NN_REAL
#undef G
#define NN_REAL double
#define G(name) name##_f64
#include "engine/hybrid/chain_decl.h"
#undef NN_REAL
#undef G

#endif
