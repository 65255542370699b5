#include "engine/rwkv/model.h"
#include "engine/rwkv/params.h"

#include "daemon/base/mem.h"

#include <string.h>

size_t rwkv_state_floats(const struct rwkv_info *i)
{
    return i->n_layer * (2 * i->n_embd + i->n_embd * i->head_size);
}

float *rwkv_state_new(const struct rwkv_info *i)
{
    return mem_calloc_aligned(rwkv_state_floats(i), sizeof(float));
}

size_t rwkv_theta_floats(const struct rwkv_info *i, size_t rank)
{
    return i->n_layer * rwkv_theta_groups(rank) * i->n_embd;
}

void rwkv_get_theta(const struct rwkv_model *m, size_t rank, float *theta)
{
    const size_t C = m->info.n_embd;
    memset(theta, 0, rwkv_theta_floats(&m->info, rank) * sizeof *theta);
    for (size_t i = 0; i < m->info.n_layer; i++, theta += rwkv_theta_groups(rank) * C) {
        const struct rwkv_layer *y = &m->layers[i];
        const float *own[RWKV_THETA] = {y->w0, y->a0, y->v0, y->k_k, y->k_a, y->r_k};
        for (size_t q = 0; q < RWKV_THETA; q++)
            if (own[q])
                memcpy(theta + q * C, own[q], C * sizeof *theta);
        rwkv_theta_own_low(theta, i, C, rank);
    }
}
