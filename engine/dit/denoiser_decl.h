/* The declarations of denoiser.h for one element type: expanded twice, with NN_REAL and G(name). */

/* clang-format off */
struct G(dit_work);

/* Room for batches of up to S samples, running the operations `op`. NULL: no memory. */
struct G(dit_work) *G(dit_work_new)(const struct dit_layout *l, const struct G(nn) *op, size_t S);
/* The same for forward alone: the blocks share their arrays, which so stay in the caches. */
struct G(dit_work) *G(dit_work_new_forward)(const struct dit_layout *l, const struct G(nn) *op, size_t S);
/* Bytes of one of both, before there is one; 0: no memory to tell. */
size_t G(dit_work_plan)(const struct dit_layout *l, size_t S);
void G(dit_work_free)(struct G(dit_work) *w);
size_t G(dit_work_bytes)(const struct G(dit_work) *w);

struct G(dit_input) {
    size_t S;
    const NN_REAL *x;      /* [S, n, D] */
    const double *t;       /* [S]: timesteps of the full schedule */
    /* The condition of each sample: y [S, C], its embedding itself; or, with y NULL, its label [S]:
     * DIT_LABEL_TEXT (the vector of cond [S, cond_dim], normalised), below n_label, or n_label:
     * none. */
    const NN_REAL *y;
    const uint32_t *label;
    const NN_REAL *cond;
    /* With a context: context [S, max_context, context_dim], of which sample s has the first
     * n_context[s] rows (maybe none). */
    const NN_REAL *context;
    const size_t *n_context;
};

/* out [S, n, D]; keeps what backward needs, so the arrays of `in` must live until then. */
void G(dit_forward)(struct G(dit_work) *w, const NN_REAL *params, const struct G(dit_input) *in,
                    NN_REAL *out);
/* Adds the gradients of the last forward to dparams, with the same params; dx [S, n, D] and dy [S,
 * C] (of the condition's embedding) are written where not NULL. */
void G(dit_backward)(struct G(dit_work) *w, const NN_REAL *params, NN_REAL *dparams,
                     const NN_REAL *dout, NN_REAL *dx, NN_REAL *dy);
/* clang-format on */
