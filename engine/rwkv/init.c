/* Initial weights as in RWKV-LM's train_temp: the constructors' vectors, then
 * generate_init_weight's matrices. Random numbers are Philox's, one stream a tensor, so a tensor's
 * start depends on the seed and its place in the list alone. */
#include "engine/rwkv/params.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"

#include <math.h>

/* rows x cols with orthonormal rows or columns (whichever are fewer), times gain: modified
 * Gram-Schmidt, twice, over Gaussian vectors in double. */
static int orthogonal(float *w, size_t rows, size_t cols, double gain, struct rng *rng,
                      struct err *e)
{
    size_t n = rows < cols ? rows : cols, dim = rows < cols ? cols : rows, total;
    double *q = mem_mul(n, dim, &total) ? calloc(total, sizeof *q) : NULL;
    if (!q)
        return err_set(e, ERR_NOMEM, "initial weights: out of memory");
    for (size_t i = 0; i < n; i++) {
        double *qi = q + i * dim;
        for (size_t d = 0; d < dim; d++)
            qi[d] = rng_normal(rng);
        for (int pass = 0; pass < 2; pass++) {
            for (size_t j = 0; j < i; j++) {
                const double *qj = q + j * dim;
                double dot = 0;
                for (size_t d = 0; d < dim; d++)
                    dot += qi[d] * qj[d];
                for (size_t d = 0; d < dim; d++)
                    qi[d] -= dot * qj[d];
            }
            double norm = 0;
            for (size_t d = 0; d < dim; d++)
                norm += qi[d] * qi[d];
            norm = sqrt(norm);
            for (size_t d = 0; d < dim; d++)
                qi[d] /= norm;
        }
        for (size_t d = 0; d < dim; d++)
            w[rows < cols ? i * cols + d : d * cols + i] = (float)(gain * qi[d]);
    }
    free(q);
    return 0;
}

/* The [C] vectors of layer i, channel n; false for a tensor that is not one of these. */
static int vector_value(const struct rwkv_shape *s, size_t i, int p, size_t n, double *out)
{
    double L = (double)s->n_layer, C = (double)s->n_embd, N = (double)s->head_size, x = (double)n;
    double r01 = L > 1 ? (double)i / (L - 1) : 0, r10 = 1 - (double)i / L;
    double lin = C > 1 ? x / (C - 1) - 0.5 : 0;
    double half = (N - 1) / 2, z = ((double)(n % s->head_size) - half) / half, zz = z * fabs(z);
    switch (p) {
    case RWKV_P_LN1_W:
    case RWKV_P_LN2_W:
    case RWKV_P_LN0_W:
        return *out = 1, 1;
    case RWKV_P_X_R:
    case RWKV_P_X_G:
        return *out = 1 - pow(x / C, 0.2 * r10), 1;
    case RWKV_P_X_W:
    case RWKV_P_X_A:
        return *out = 1 - pow(x / C, 0.9 * r10), 1;
    case RWKV_P_X_K:
    case RWKV_P_X_V:
        return *out = 1 - pow(x / C, 0.7 * r10), 1;
    case RWKV_P_FX_K:
        return *out = 1 - pow(x / C, pow(r10, 4)), 1;
    case RWKV_P_W0:
        return *out = -6 + 6 * pow(C > 1 ? x / (C - 1) : 0, 1 + pow(r01, 0.3)) + 0.5 + 2.5 * zz, 1;
    case RWKV_P_A0:
        return *out = -0.19 + 0.3 * zz + 0.4 * lin, 1;
    case RWKV_P_V0:
        return *out = 0.73 - 0.4 * lin, 1;
    case RWKV_P_K_K:
        return *out = 0.71 - 0.1 * lin, 1;
    case RWKV_P_K_A:
        return *out = 1.02, 1;
    case RWKV_P_R_K:
        return *out = -0.04, 1;
    case RWKV_P_LNX_W:
        return *out = pow((1 + (double)i) / L, 0.7), 1;
    default:
        return 0;
    }
}

/* The gain of an orthogonal matrix of a layer; 0: the tensor starts at zero. */
static double matrix_gain(int p, size_t rows, size_t cols)
{
    switch (p) {
    case RWKV_P_W2:
    case RWKV_P_A2:
    case RWKV_P_V2:
    case RWKV_P_G2:
        return 0.1 * (rows > cols ? sqrt((double)rows / (double)cols) : 1);
    case RWKV_P_REC:
    case RWKV_P_VAL:
    case RWKV_P_FKEY:
        return 1;
    case RWKV_P_KEY:
        return 0.1;
    default:
        return 0;
    }
}

int rwkv_params_init(const struct rwkv_layout *l, float *flat, uint64_t seed, struct err *e)
{
    const struct rwkv_shape *s = &l->shape;
    struct rng rng;
    memset(flat, 0, l->count * sizeof *flat);
    for (size_t n = 0; n < s->n_embd; n++)
        flat[l->ln_out_w + n] = 1;
    rng_init(&rng, seed, 0);
    for (size_t n = 0; n < s->n_vocab * s->n_embd; n++)
        flat[l->emb + n] = (float)((2 * rng_uniform(&rng) - 1) * 1e-4);
    rng_init(&rng, seed, 1);
    double wide = s->n_vocab > s->n_embd ? sqrt((double)s->n_vocab / (double)s->n_embd) : 1;
    int rc = orthogonal(flat + l->head, s->n_vocab, s->n_embd, 0.5 * wide, &rng, e);
    for (size_t i = 0; i < s->n_layer && rc == 0; i++)
        for (int p = 0; p < RWKV_P_COUNT && rc == 0; p++) {
            double x;
            if (l->layer[i][p] == SIZE_MAX)
                continue;
            float *w = flat + l->layer[i][p];
            for (size_t n = 0; n < s->n_embd && vector_value(s, i, p, n, &x); n++)
                w[n] = (float)x;
            const struct rwkv_param *q = l->param;
            while (q->offset != l->layer[i][p])
                q++;
            double gain = q->n_dims == 2 ? matrix_gain(p, q->shape[0], q->shape[1]) : 0;
            rng_init(&rng, seed, 2 + i * RWKV_P_COUNT + (uint64_t)p);
            if (gain > 0)
                rc = orthogonal(w, q->shape[0], q->shape[1], gain, &rng, e);
        }
    return rc;
}
