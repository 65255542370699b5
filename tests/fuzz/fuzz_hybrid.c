/* The input as a hybrid's file; what opens makes the vectors of a context for a small model, so that every
 * number that was let through is used. A model's fingerprint is a hash: what stands in the file is taken as
 * the model's. */
#include "daemon/base/assert.h"
#include "engine/hybrid/net.h"
#include "engine/kernels/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One step of sampling under a context of two rows, and its mixing with a model of zeros. */
static void make_vectors(const struct hybrid *h)
{
    const struct dit_shape *s = &h->layout.shape;
    const size_t n = s->n_token * s->token_dim, X = s->context_dim;
    if (n > 1 << 14 || s->max_context < 2 || s->max_context * X > 1 << 16 || s->n_embd > 256)
        return;
    struct hybrid_sampling g = {0};
    struct err e = {0};
    float *rows = calloc(2 * X, sizeof *rows), *own = calloc(n, sizeof *own);
    float *theta = calloc(n, sizeof *theta);
    double *x = calloc(n, sizeof *x);
    if (rows && own && theta && x &&
        hybrid_sampling_init(&g, h, h->info.sampling_steps, nn_f32_for(CPU_AUTO), &e) == 0) {
        const struct hybrid_net_f32 net = {h->info.shape, &h->layout, h->params, own, h->scale};
        hybrid_normalise(h, rows, 2);
        hybrid_sampling_run(&g, h->params, rows, 2, x, true);
        for (size_t i = 0; i < n; i++)
            g.out[i] = (float)x[i];
        hybrid_mix_forward_f32(theta, g.out, &net, 1);
    }
    hybrid_sampling_fini(&g);
    free(rows);
    free(own);
    free(theta);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hybrid *h = NULL;
    struct err e = {0};
    gemm_setup();
    if (hybrid_open_memory(data, size, &h, &e) < 0) {
        ASSERT(e.code < 0 && e.msg[0]);
        return 0;
    }
    const struct hybrid_info *i = hybrid_get_info(h);
    for (size_t l = 0; l < i->shape.n_layer; l++)
        for (size_t g = 0; g < hybrid_get_groups(h); g++) {
            char name[24];
            hybrid_group_name(g, i->rank, name);
            ASSERT(name[0]);
            double alpha = hybrid_alpha(h, l, g);
            ASSERT(alpha >= 0 && alpha <= 1);
        }
    make_vectors(h);
    hybrid_close(h);
    return 0;
}
