/* The operations of nn.h as one list, expanded for each element type with NN_REAL defined (so this
 * file has no include guard). d* arguments are gradients: backward functions ADD to them but where it says
 * "sets", and every d* of a result is read only. T rows (tokens), C channels = H groups (heads) of N. */
/* clang-format off */
#define NN_OPS(XX)                                                                                 \
    /* out[t] = emb[tokens[t]]; emb [V, C] */                                                      \
    XX(embed_forward, (NN_REAL *out, const NN_REAL *emb, const uint32_t *tokens, size_t T,         \
                       size_t C))                                                                  \
    XX(embed_backward, (NN_REAL *demb, const NN_REAL *dout, const uint32_t *tokens, size_t T,      \
                        size_t C))                                                                 \
    /* LayerNorm (H = 1) and GroupNorm: each group of N channels gets mean 0, population variance  \
     * 1, then out = that * weight[c] + bias[c]. mean, rstd [T, H] are kept for backward. */       \
    XX(norm_forward, (NN_REAL *out, NN_REAL *mean, NN_REAL *rstd, const NN_REAL *x,                \
                      const NN_REAL *weight, const NN_REAL *bias, size_t T, size_t H, size_t N,    \
                      NN_REAL eps))                                                                \
    XX(norm_backward, (NN_REAL *dx, NN_REAL *dweight, NN_REAL *dbias, const NN_REAL *dout,         \
                       const NN_REAL *x, const NN_REAL *mean, const NN_REAL *rstd,                 \
                       const NN_REAL *weight, size_t T, size_t H, size_t N))                       \
    /* Token shift: out[t] = z[t] + (z[t-1] - z[t]) * mu, with z[-1] = z0 [C]. */                  \
    XX(shift_forward, (NN_REAL *out, const NN_REAL *z, const NN_REAL *z0, const NN_REAL *mu,       \
                       size_t T, size_t C))                                                        \
    XX(shift_backward, (NN_REAL *dz, NN_REAL *dz0, NN_REAL *dmu, const NN_REAL *dout,              \
                        const NN_REAL *z, const NN_REAL *z0, const NN_REAL *mu, size_t T,          \
                        size_t C))                                                                 \
    /* out = beta * out + x W^T; x [T, I], W [O, I], out [T, O]. dx = beta * dx + dout W; dx or dW \
     * may be NULL: not wanted. */                                                                 \
    XX(linear_forward, (NN_REAL *out, const NN_REAL *x, const NN_REAL *W, size_t T, size_t I,      \
                        size_t O, NN_REAL beta))                                                   \
    XX(linear_backward, (NN_REAL *dx, NN_REAL *dW, const NN_REAL *dout, const NN_REAL *x,          \
                         const NN_REAL *W, size_t T, size_t I, size_t O, NN_REAL beta))            \
    /* out = x W with W [I, O] (the low-rank pairs are stored so); dx as above. */                 \
    XX(project_forward, (NN_REAL *out, const NN_REAL *x, const NN_REAL *W, size_t T, size_t I,     \
                         size_t O))                                                                \
    XX(project_backward, (NN_REAL *dx, NN_REAL *dW, const NN_REAL *dout, const NN_REAL *x,         \
                          const NN_REAL *W, size_t T, size_t I, size_t O, NN_REAL beta))           \
    /* out = tanh(x), [n]; out may be x. Sets dx. */                                               \
    XX(tanh_forward, (NN_REAL *out, const NN_REAL *x, size_t n))                                   \
    XX(tanh_backward, (NN_REAL *dx, const NN_REAL *dout, const NN_REAL *out, size_t n))            \
    /* out = sigmoid(bias + x); bias [C] or NULL; out may be x. Sets dx. */                        \
    XX(sigmoid_forward, (NN_REAL *out, const NN_REAL *x, const NN_REAL *bias, size_t T,            \
                         size_t C))                                                                \
    XX(sigmoid_backward, (NN_REAL *dx, NN_REAL *dbias, const NN_REAL *dout, const NN_REAL *out,    \
                          size_t T, size_t C))                                                     \
    /* The decay: out = exp(-e^(-1/2) * s), s in (0, 1); [n]. Sets ds. */                          \
    XX(decay_forward, (NN_REAL *out, const NN_REAL *s, size_t n))                                  \
    XX(decay_backward, (NN_REAL *ds, const NN_REAL *dout, const NN_REAL *out, size_t n))           \
    /* Value residual: out = v + (v_first - v) * s; [n]. Sets dv, ds. */                           \
    XX(vres_forward, (NN_REAL *out, const NN_REAL *v, const NN_REAL *v_first, const NN_REAL *s,    \
                      size_t n))                                                                   \
    XX(vres_backward, (NN_REAL *dv, NN_REAL *dv_first, NN_REAL *ds, const NN_REAL *dout,           \
                       const NN_REAL *v, const NN_REAL *v_first, const NN_REAL *s, size_t n))      \
    /* Removal key: u = k * k_k; out = u / max(|u|, 1e-12) per head; rnorm [T, H] = 1 / that. */   \
    XX(kk_forward, (NN_REAL *out, NN_REAL *rnorm, const NN_REAL *k, const NN_REAL *k_k, size_t T,  \
                    size_t H, size_t N))                                                           \
    XX(kk_backward, (NN_REAL *dk, NN_REAL *dk_k, const NN_REAL *dout, const NN_REAL *out,          \
                     const NN_REAL *rnorm, const NN_REAL *k, const NN_REAL *k_k, size_t T,         \
                     size_t H, size_t N))                                                          \
    /* Replacement key: out = k * (1 + (a - 1) * k_a). Sets dk. */                                 \
    XX(kmod_forward, (NN_REAL *out, const NN_REAL *k, const NN_REAL *a, const NN_REAL *k_a,        \
                      size_t T, size_t C))                                                         \
    XX(kmod_backward, (NN_REAL *dk, NN_REAL *da, NN_REAL *dk_a, const NN_REAL *dout,               \
                       const NN_REAL *k, const NN_REAL *a, const NN_REAL *k_a, size_t T,           \
                       size_t C))                                                                  \
    /* The WKV-7 recurrence: see wkv7_tmpl.c. Sets all but dS, which it moves. */                  \
    XX(wkv7_forward, (NN_REAL *y, NN_REAL *sa, NN_REAL *S_cache, NN_REAL *S, const NN_REAL *r,     \
                      const NN_REAL *w, const NN_REAL *k, const NN_REAL *v, const NN_REAL *kk,     \
                      const NN_REAL *a, size_t T, size_t H, size_t N, NN_REAL *scratch))           \
    XX(wkv7_backward, (NN_REAL *dr, NN_REAL *dw, NN_REAL *dk, NN_REAL *dv, NN_REAL *dkk,           \
                       NN_REAL *da, NN_REAL *dS, const NN_REAL *dy, const NN_REAL *sa,             \
                       const NN_REAL *S_cache, const NN_REAL *r, const NN_REAL *w,                 \
                       const NN_REAL *k, const NN_REAL *v, const NN_REAL *kk, const NN_REAL *a,    \
                       size_t T, size_t H, size_t N, NN_REAL *scratch))                            \
    /* Bonus: y_h += (sum_j r_j k_j r_k[h, j]) * v_h. */                                           \
    XX(bonus_forward, (NN_REAL *y, const NN_REAL *r, const NN_REAL *k, const NN_REAL *v,           \
                       const NN_REAL *r_k, size_t T, size_t H, size_t N))                          \
    XX(bonus_backward, (NN_REAL *dr, NN_REAL *dk, NN_REAL *dv, NN_REAL *dr_k, const NN_REAL *dy,   \
                        const NN_REAL *r, const NN_REAL *k, const NN_REAL *v, const NN_REAL *r_k,  \
                        size_t T, size_t H, size_t N))                                             \
    /* out = x * g; [n]. Sets dx, dg. */                                                           \
    XX(mul_forward, (NN_REAL *out, const NN_REAL *x, const NN_REAL *g, size_t n))                  \
    XX(mul_backward, (NN_REAL *dx, NN_REAL *dg, const NN_REAL *dout, const NN_REAL *x,             \
                      const NN_REAL *g, size_t n))                                                 \
    /* out = max(x, 0)^2; [n]. Sets dx. */                                                         \
    XX(relu2_forward, (NN_REAL *out, const NN_REAL *x, size_t n))                                  \
    XX(relu2_backward, (NN_REAL *dx, const NN_REAL *dout, const NN_REAL *x, size_t n))             \
    /* out = x sigmoid(x), [n]. */                                                                 \
    XX(silu_forward, (NN_REAL *out, const NN_REAL *x, size_t n))                                   \
    XX(silu_backward, (NN_REAL *dx, const NN_REAL *dout, const NN_REAL *x, size_t n))              \
    /* GELU by its tanh form: out = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), [n]. Backward   \
     * sets d, which comes as the gradient of out, and makes out again on the way. */              \
    XX(gelu_forward, (NN_REAL *out, const NN_REAL *x, size_t n))                                   \
    XX(gelu_backward, (NN_REAL *d, NN_REAL *out, const NN_REAL *x, size_t n))                      \
    /* out[t] += bias; bias [C]. */                                                                \
    XX(bias_forward, (NN_REAL *out, const NN_REAL *bias, size_t T, size_t C))                      \
    XX(bias_backward, (NN_REAL *dbias, const NN_REAL *dout, size_t T, size_t C))                   \
    /* A matrix for each place: out[s, g] = x[s, g] W[g]; x [S, G, I], W [G, I, O], out            \
     * [S, G, O]. dx or dW may be NULL. */                                                         \
    XX(token_project_forward, (NN_REAL *out, const NN_REAL *x, const NN_REAL *W, size_t S,          \
                              size_t G, size_t I, size_t O))                                       \
    XX(token_project_backward, (NN_REAL *dx, NN_REAL *dW, const NN_REAL *dout, const NN_REAL *x,    \
                                const NN_REAL *W, size_t S, size_t G, size_t I, size_t O))         \
    /* Adaptive LayerNorm: S samples of n rows; out = xhat (1 + scale[s]) + shift[s], xhat = (x -  \
     * mean) rstd. x [S, n, C]; shift, scale are rows [C] that lie ld apart; mean, rstd [S, n]. */ \
    XX(adaln_forward, (NN_REAL *out, NN_REAL *mean, NN_REAL *rstd, const NN_REAL *x,               \
                       const NN_REAL *shift, const NN_REAL *scale, size_t S, size_t n, size_t C,   \
                       size_t ld, NN_REAL eps))                                                    \
    XX(adaln_backward, (NN_REAL *dx, NN_REAL *dshift, NN_REAL *dscale, const NN_REAL *dout,        \
                        const NN_REAL *x, const NN_REAL *mean, const NN_REAL *rstd,                \
                        const NN_REAL *scale, size_t S, size_t n, size_t C, size_t ld))            \
    /* out += gate[s] y; out, y [S, n, C], gate rows [C] that lie ld apart. */                     \
    XX(gate_forward, (NN_REAL *out, const NN_REAL *y, const NN_REAL *gate, size_t S, size_t n,     \
                      size_t C, size_t ld))                                                        \
    XX(gate_backward, (NN_REAL *dy, NN_REAL *dgate, const NN_REAL *dout, const NN_REAL *y,         \
                       const NN_REAL *gate, size_t S, size_t n, size_t C, size_t ld))              \
    /* Attention of all n places of a sample to each other, H heads of N: see attention_tmpl.c.    \
     * qkv [S, n, 3, H, N], out [S, n, H, N]; probs [S, H, n, n] are kept; scratch [n, n]. */      \
    XX(attention_forward, (NN_REAL *out, NN_REAL *probs, const NN_REAL *qkv, size_t S, size_t n,   \
                           size_t H, size_t N))                                                    \
    XX(attention_backward, (NN_REAL *dqkv, const NN_REAL *dout, const NN_REAL *probs,              \
                            const NN_REAL *qkv, size_t S, size_t n, size_t H, size_t N,            \
                            NN_REAL *scratch))                                                     \
    /* Attention of n places of a sample to its own m[s] <= M others: q [S, n, H, N], kv [S, M, 2, \
     * H, N], out [S, n, H, N], 0 where m[s] is 0; probs [S, H, n, M] are kept; scratch [2, n, M]. */\
    XX(cross_forward, (NN_REAL *out, NN_REAL *probs, const NN_REAL *q, const NN_REAL *kv,          \
                       const size_t *m, size_t S, size_t n, size_t M, size_t H, size_t N))         \
    XX(cross_backward, (NN_REAL *dq, NN_REAL *dkv, const NN_REAL *dout, const NN_REAL *probs,      \
                        const NN_REAL *q, const NN_REAL *kv, const size_t *m, size_t S, size_t n,  \
                        size_t M, size_t H, size_t N, NN_REAL *scratch))                           \
    /* ce[t] = -log softmax(logits[t])[targets[t]] in nats; probs [T, V] are kept (may be          \
     * logits). Backward takes the weight of each row in the loss: dlogits = weight[t] *           \
     * dce/dlogits. */                                                                             \
    XX(xent_forward, (NN_REAL *ce, NN_REAL *probs, const NN_REAL *logits,                          \
                      const uint32_t *targets, size_t T, size_t V))                                \
    XX(xent_backward, (NN_REAL *dlogits, const NN_REAL *probs, const uint32_t *targets,            \
                       const NN_REAL *weight, size_t T, size_t V))                                 \
    /* *sum += sum of x^2, summed in blocks; [n]. */                                               \
    XX(sumsq_add, (double *sum, const NN_REAL *x, size_t n))                                       \
    /* AdamW on [n] numbers: see optim_tmpl.c. */                                                  \
    XX(adamw_update, (NN_REAL *p, NN_REAL *m, NN_REAL *v, const NN_REAL *g, size_t n,              \
                      const struct nn_adamw *o))
/* clang-format on */
