/* The declarations of chain.h for one element type: expanded twice, with NN_REAL and G(name). */

/* clang-format off */
struct G(hybrid_net) {
    struct state_shape shape;   /* of the model: L, C, N */
    const struct dit_layout *dit;
    const NN_REAL *params;      /* [hybrid_count]: the transformer's, then logits of alpha [L, G] */
    const NN_REAL *theta;       /* [L, G, C] the model's own */
    const NN_REAL *scale;       /* [L, G] of a group's deltas */
};

/* theta [L, G, C] from the coordinates z [L H, G N] at a strength. */
void G(hybrid_mix_forward)(NN_REAL *theta, const NN_REAL *z, const struct G(hybrid_net) *net,
                           double strength);
/* Of strength 1: adds to dz and to dlogits [L, G]. */
void G(hybrid_mix_backward)(NN_REAL *dz, NN_REAL *dlogits, const NN_REAL *dtheta, const NN_REAL *z,
                            const struct G(hybrid_net) *net);

struct G(hybrid_chain);
/* For continuations of up to T tokens through a model of layout l. NULL: no memory. */
struct G(hybrid_chain) *G(hybrid_chain_new)(const struct rwkv_layout *l,
                                            const struct dit_layout *dit, const struct G(nn) *op,
                                            size_t T);
void G(hybrid_chain_free)(struct G(hybrid_chain) *c);

struct G(hybrid_sample) {
    const NN_REAL *context;      /* [n_context, X], normalised */
    size_t n_context;
    /* The language model's term: the last step of sampling is taken from x [n, D] at `last`, and
     * tokens [T + 1] follow with the vectors it gives. T 0: no such term. */
    const NN_REAL *x;
    const struct dit_step *last;
    const uint32_t *tokens;
    size_t T;
    const NN_REAL *state;        /* whole (rwkv.h), where they begin; NULL: at zero */
    /* The diffusion's: target [n, D] under noise [n, D] at step `at`. NULL: no such term. */
    const NN_REAL *target, *noise;
    const struct dit_step *at;
    double weight[2];            /* of the terms in the gradient */
};

/* loss[0]: sum of the cross entropies, nats; loss[1]: sum of the squared errors of v. The gradient
 * of weight[0] loss[0] + weight[1] loss[1] is added to dparams [hybrid_count]; NULL: not wanted.
 * weights: the model's parameters (l). */
void G(hybrid_chain_run)(struct G(hybrid_chain) *c, const struct G(hybrid_net) *net,
                         const NN_REAL *weights, const struct G(hybrid_sample) *s,
                         NN_REAL *dparams, double loss[2]);
/* clang-format on */
