/* Cross entropy of a softmax. */

static void xent_forward(real *ce, real *probs, const real *logits, const uint32_t *targets,
                         size_t T, size_t V)
{
    for (size_t t = 0; t < T; t++) {
        const real *l = logits + t * V;
        real *p = probs + t * V;
        real at = l[targets[t]], top = l[0], sum = 0;
        for (size_t v = 1; v < V; v++)
            top = l[v] > top ? l[v] : top;
        SIMD_SUM(sum)
        for (size_t v = 0; v < V; v++) {
            p[v] = nn_exp(l[v] - top);
            sum += p[v];
        }
        real inv = 1 / sum;
        SIMD
        for (size_t v = 0; v < V; v++)
            p[v] *= inv;
        ce[t] = (real)log(sum) + top - at;
    }
}

static void xent_backward(real *dlogits, const real *probs, const uint32_t *targets,
                          const real *weight, size_t T, size_t V)
{
    for (size_t t = 0; t < T; t++) {
        const real *p = probs + t * V;
        real *d = dlogits + t * V, m = weight[t];
        SIMD
        for (size_t v = 0; v < V; v++)
            d[v] = m * p[v];
        d[targets[t]] -= m;
    }
}
