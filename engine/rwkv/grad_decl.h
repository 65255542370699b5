/* The declarations of grad.h for one element type: expanded twice, with NN_REAL and G(name). */

/* clang-format off */
struct G(rwkv_work);

/* Room for sequences of up to T tokens, running the operations `op`. NULL: no memory. */
struct G(rwkv_work) *G(rwkv_work_new)(const struct rwkv_layout *l, const struct G(nn) *op,
                                      size_t T);
/* Bytes of one, before there is one; 0: no memory to tell. */
size_t G(rwkv_work_plan)(const struct rwkv_layout *l, size_t T);
void G(rwkv_work_free)(struct G(rwkv_work) *w);
size_t G(rwkv_work_bytes)(const struct G(rwkv_work) *w);

/* From now on theta [L, rwkv_theta_groups(rank), C] (params.h) stands for the vectors of the
 * parameters in every forward and backward, and their gradients are added to dtheta instead of
 * dparams; both are the caller's. 0, NULL, NULL: the parameters' own again. */
void G(rwkv_work_set_theta)(struct G(rwkv_work) *w, size_t rank, const NN_REAL *theta,
                            NN_REAL *dtheta);

/* Runs tokens [T] from the state and returns sum_t weight[t] * ce[t], with targets [T] and ce in
 * nats; keeps what backward needs. state: in the initial state, out the final one; NULL: zero, not
 * wanted. ce [T] and logits [T, V] are written where not NULL. */
double G(rwkv_forward)(struct G(rwkv_work) *w, const NN_REAL *params, const uint32_t *tokens,
                       const uint32_t *targets, const NN_REAL *weight, size_t T, NN_REAL *state,
                       NN_REAL *ce, NN_REAL *logits);

/* The gradients of the last forward's result, with the same params: added to dparams (matrices only
 * if `matrices`: a tuned state needs none). dstate: in the gradient with respect to the final state
 * (usually zero), out with respect to the initial one; or NULL. dlogits [T, V] is written if not
 * NULL. */
void G(rwkv_backward)(struct G(rwkv_work) *w, const NN_REAL *params, NN_REAL *dparams,
                      bool matrices, NN_REAL *dstate, NN_REAL *dlogits);
/* clang-format on */
