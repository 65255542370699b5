/* Embedding rows. */

static void embed_forward(real *out, const real *emb, const uint32_t *tokens, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++)
        memcpy(out + t * C, emb + tokens[t] * C, C * sizeof *out);
}

static void embed_backward(real *demb, const real *dout, const uint32_t *tokens, size_t T, size_t C)
{
    for (size_t t = 0; t < T; t++) {
        real *d = demb + tokens[t] * C;
        SIMD
        for (size_t c = 0; c < C; c++)
            d[c] += dout[t * C + c];
    }
}
