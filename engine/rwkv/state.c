#include "engine/rwkv/rwkv.h"

#include "daemon/base/mem.h"

size_t rwkv_state_floats(const struct rwkv_info *i)
{
    return i->n_layer * (2 * i->n_embd + i->n_embd * i->head_size);
}

float *rwkv_state_new(const struct rwkv_info *i)
{
    return mem_calloc_aligned(rwkv_state_floats(i), sizeof(float));
}
