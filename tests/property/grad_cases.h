/* Every operation of engine/nn as a function in[] -> out[] with its backward, for one element type:
 * expanded with REAL, OPS (the table's struct) and F(name). aux: arrays kept between the two. */

typedef void F(forward_fn)(const OPS *op, const struct dims *d, REAL **in, REAL **out, REAL **aux);
/* Adds to din[i], or sets it (struct shapes). */
typedef void F(backward_fn)(const OPS *op, const struct dims *d, REAL **in, REAL **out, REAL **dout,
                            REAL **din, REAL **aux);

#define FORWARD(name)                                                                              \
    static void F(name##_f)(const OPS *op, const struct dims *d, REAL **in, REAL **out, REAL **aux)
#define BACKWARD(name)                                                                             \
    static void F(name##_b)(const OPS *op, const struct dims *d, REAL **in, REAL **out,            \
                            REAL **dout, REAL **din, REAL **aux)
#define UNUSED (void)d, (void)in, (void)out, (void)aux

FORWARD(embed)
{
    UNUSED;
    op->embed_forward(out[0], in[0], test_tokens, d->T, d->C);
}
BACKWARD(embed)
{
    UNUSED;
    op->embed_backward(din[0], dout[0], test_tokens, d->T, d->C);
}

FORWARD(norm)
{
    op->norm_forward(out[0], aux[0], aux[1], in[0], in[1], in[2], d->T, d->H, d->N, (REAL)64e-5);
}
BACKWARD(norm)
{
    UNUSED;
    op->norm_backward(din[0], din[1], din[2], dout[0], in[0], aux[0], aux[1], in[1], d->T, d->H,
                      d->N);
}

FORWARD(shift)
{
    UNUSED;
    op->shift_forward(out[0], in[0], in[1], in[2], d->T, d->C);
}
BACKWARD(shift)
{
    UNUSED;
    op->shift_backward(din[0], din[1], din[2], dout[0], in[0], in[1], in[2], d->T, d->C);
}

FORWARD(linear)
{
    UNUSED;
    op->linear_forward(out[0], in[0], in[1], d->T, d->C, d->O, 0);
}
BACKWARD(linear)
{
    UNUSED;
    op->linear_backward(din[0], NULL, dout[0], in[0], in[1], d->T, d->C, d->O, 1);
    op->linear_backward(NULL, din[1], dout[0], in[0], in[1], d->T, d->C, d->O, 0);
}

FORWARD(project)
{
    UNUSED;
    op->project_forward(out[0], in[0], in[1], d->T, d->C, d->O);
}
BACKWARD(project)
{
    UNUSED;
    op->project_backward(din[0], NULL, dout[0], in[0], in[1], d->T, d->C, d->O, 0);
    op->project_backward(NULL, din[1], dout[0], in[0], in[1], d->T, d->C, d->O, 1);
}

FORWARD(tanh)
{
    UNUSED;
    op->tanh_forward(out[0], in[0], d->T * d->C);
}
BACKWARD(tanh)
{
    UNUSED;
    op->tanh_backward(din[0], dout[0], out[0], d->T * d->C);
}

FORWARD(sigmoid)
{
    UNUSED;
    op->sigmoid_forward(out[0], in[0], in[1], d->T, d->C);
    op->sigmoid_forward(out[1], in[0], NULL, d->T, d->C);
}
BACKWARD(sigmoid)
{
    UNUSED;
    op->sigmoid_backward(din[0], din[1], dout[0], out[0], d->T, d->C);
    op->sigmoid_backward(aux[0], NULL, dout[1], out[1], d->T, d->C);
    for (size_t i = 0; i < d->T * d->C; i++)
        din[0][i] += aux[0][i];
}

FORWARD(decay)
{
    UNUSED;
    op->decay_forward(out[0], in[0], d->T * d->C);
}
BACKWARD(decay)
{
    UNUSED;
    op->decay_backward(din[0], dout[0], out[0], d->T * d->C);
}

FORWARD(vres)
{
    UNUSED;
    op->vres_forward(out[0], in[0], in[1], in[2], d->T * d->C);
}
BACKWARD(vres)
{
    UNUSED;
    op->vres_backward(din[0], din[1], din[2], dout[0], in[0], in[1], in[2], d->T * d->C);
}

FORWARD(kk)
{
    op->kk_forward(out[0], aux[0], in[0], in[1], d->T, d->H, d->N);
}
BACKWARD(kk)
{
    UNUSED;
    op->kk_backward(din[0], din[1], dout[0], out[0], aux[0], in[0], in[1], d->T, d->H, d->N);
}

FORWARD(kmod)
{
    UNUSED;
    op->kmod_forward(out[0], in[0], in[1], in[2], d->T, d->C);
}
BACKWARD(kmod)
{
    UNUSED;
    op->kmod_backward(din[0], din[1], din[2], dout[0], in[0], in[1], in[2], d->T, d->C);
}

/* in: r w k v kk a S; out: y, final S. */
FORWARD(wkv7)
{
    memcpy(out[1], in[6], d->H * d->N * d->N * sizeof(REAL));
    op->wkv7_forward(out[0], aux[0], aux[1], out[1], in[0], in[1], in[2], in[3], in[4], in[5], d->T,
                     d->H, d->N, aux[2]);
}
BACKWARD(wkv7)
{
    UNUSED;
    size_t n = d->H * d->N * d->N;
    REAL *dS = aux[3];
    memcpy(dS, dout[1], n * sizeof(REAL));
    op->wkv7_backward(din[0], din[1], din[2], din[3], din[4], din[5], dS, dout[0], aux[0], aux[1],
                      in[0], in[1], in[2], in[3], in[4], in[5], d->T, d->H, d->N, aux[2]);
    memcpy(din[6], dS, n * sizeof(REAL));
}

/* in: y r k v r_k; y is added to. */
FORWARD(bonus)
{
    UNUSED;
    memcpy(out[0], in[0], d->T * d->C * sizeof(REAL));
    op->bonus_forward(out[0], in[1], in[2], in[3], in[4], d->T, d->H, d->N);
}
BACKWARD(bonus)
{
    UNUSED;
    for (size_t i = 0; i < d->T * d->C; i++)
        din[0][i] += dout[0][i];
    op->bonus_backward(din[1], din[2], din[3], din[4], dout[0], in[1], in[2], in[3], in[4], d->T,
                       d->H, d->N);
}

FORWARD(mul)
{
    UNUSED;
    op->mul_forward(out[0], in[0], in[1], d->T * d->C);
}
BACKWARD(mul)
{
    UNUSED;
    op->mul_backward(din[0], din[1], dout[0], in[0], in[1], d->T * d->C);
}

FORWARD(relu2)
{
    UNUSED;
    op->relu2_forward(out[0], in[0], d->T * d->C);
}
BACKWARD(relu2)
{
    UNUSED;
    op->relu2_backward(din[0], dout[0], in[0], d->T * d->C);
}

FORWARD(silu)
{
    UNUSED;
    op->silu_forward(out[0], in[0], d->T * d->C);
}
BACKWARD(silu)
{
    UNUSED;
    op->silu_backward(din[0], dout[0], in[0], d->T * d->C);
}

FORWARD(gelu)
{
    UNUSED;
    op->gelu_forward(out[0], in[0], d->T * d->C);
}
BACKWARD(gelu)
{
    UNUSED;
    memcpy(din[0], dout[0], d->T * d->C * sizeof(REAL));
    op->gelu_backward(din[0], out[0], in[0], d->T * d->C);
}

FORWARD(bias)
{
    UNUSED;
    memcpy(out[0], in[0], d->T * d->C * sizeof(REAL));
    op->bias_forward(out[0], in[1], d->T, d->C);
}
BACKWARD(bias)
{
    UNUSED;
    for (size_t i = 0; i < d->T * d->C; i++)
        din[0][i] += dout[0][i];
    op->bias_backward(din[1], dout[0], d->T, d->C);
}

FORWARD(token_project)
{
    UNUSED;
    op->token_project_forward(out[0], in[0], in[1], d->S, d->T / d->S, d->C, d->O);
}
BACKWARD(token_project)
{
    UNUSED;
    size_t G = d->T / d->S;
    op->token_project_backward(din[0], NULL, dout[0], in[0], in[1], d->S, G, d->C, d->O);
    op->token_project_backward(NULL, din[1], dout[0], in[0], in[1], d->S, G, d->C, d->O);
}

/* in: x, a modulation [S, 3 C] whose first thirds are shift and scale. */
FORWARD(adaln)
{
    op->adaln_forward(out[0], aux[0], aux[1], in[0], in[1], in[1] + d->C, d->S, d->T / d->S, d->C,
                      3 * d->C, (REAL)1e-6);
}
BACKWARD(adaln)
{
    UNUSED;
    op->adaln_backward(din[0], din[1], din[1] + d->C, dout[0], in[0], aux[0], aux[1], in[1] + d->C,
                       d->S, d->T / d->S, d->C, 3 * d->C);
}

/* in: out, y, a modulation whose last third is the gate. */
FORWARD(gate)
{
    UNUSED;
    memcpy(out[0], in[0], d->T * d->C * sizeof(REAL));
    op->gate_forward(out[0], in[1], in[2] + 2 * d->C, d->S, d->T / d->S, d->C, 3 * d->C);
}
BACKWARD(gate)
{
    UNUSED;
    for (size_t i = 0; i < d->T * d->C; i++)
        din[0][i] += dout[0][i];
    op->gate_backward(din[1], din[2] + 2 * d->C, dout[0], in[1], in[2] + 2 * d->C, d->S,
                      d->T / d->S, d->C, 3 * d->C);
}

FORWARD(attention)
{
    op->attention_forward(out[0], aux[0], in[0], d->S, d->T / d->S, d->H, d->N);
}
BACKWARD(attention)
{
    UNUSED;
    op->attention_backward(din[0], dout[0], aux[0], in[0], d->S, d->T / d->S, d->H, d->N, aux[1]);
}

FORWARD(cross)
{
    op->cross_forward(out[0], aux[0], in[0], in[1], cross_m, d->S, d->T / d->S, CROSS_M, d->H, d->N);
}
BACKWARD(cross)
{
    UNUSED;
    op->cross_backward(din[0], din[1], dout[0], aux[0], in[0], in[1], cross_m, d->S, d->T / d->S,
                       CROSS_M, d->H, d->N, aux[1]);
}

FORWARD(xent)
{
    UNUSED;
    op->xent_forward(out[0], aux[0], in[0], test_tokens, d->T, d->C);
}
BACKWARD(xent)
{
    UNUSED;
    op->xent_backward(din[0], aux[0], test_tokens, dout[0], d->T, d->C);
}

#undef FORWARD
#undef BACKWARD
#undef UNUSED

static const struct F(case_fns) {
    F(forward_fn) * forward;
    F(backward_fn) * backward;
} F(fns)[] = {
#define XX(name) {F(name##_f), F(name##_b)},
    CASES(XX)
#undef XX
};
