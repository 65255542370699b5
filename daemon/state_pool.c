#include "daemon/state_pool.h"

#include "daemon/base/mem.h"

int state_pool_init(struct state_pool *p, const struct rwkv_info *info, size_t most)
{
    size_t bytes = (rwkv_state_floats(info) + info->n_vocab) * sizeof(float);
    *p = (struct state_pool){.info = info, .most = STATE_POOL_BYTES / bytes};
    pthread_mutex_init(&p->lock, NULL);
    if (p->most > most)
        p->most = most;
    p->kept = calloc(p->most ? p->most : 1, sizeof *p->kept);
    return p->kept ? 0 : ERR_NOMEM;
}

void state_pool_fini(struct state_pool *p)
{
    while (p->n) {
        free(p->kept[--p->n].state);
        free(p->kept[p->n].logits);
    }
    free(p->kept);
    pthread_mutex_destroy(&p->lock);
}

bool state_pool_take(struct state_pool *p, struct state_pair *out)
{
    *out = (struct state_pair){0};
    pthread_mutex_lock(&p->lock);
    if (p->n)
        *out = p->kept[--p->n];
    pthread_mutex_unlock(&p->lock);
    if (out->state)
        return true;
    out->state = rwkv_state_new(p->info);
    out->logits = mem_calloc_aligned(p->info->n_vocab, sizeof *out->logits);
    if (out->state && out->logits)
        return true;
    free(out->state);
    free(out->logits);
    *out = (struct state_pair){0};
    return false;
}

void state_pool_give(struct state_pool *p, struct state_pair s)
{
    bool kept = false;
    if (s.state && s.logits) {
        memset(s.state, 0, rwkv_state_floats(p->info) * sizeof *s.state);
        memset(s.logits, 0, p->info->n_vocab * sizeof *s.logits);
        pthread_mutex_lock(&p->lock);
        if ((kept = p->n < p->most))
            p->kept[p->n++] = s;
        pthread_mutex_unlock(&p->lock);
    }
    if (kept)
        return;
    free(s.state);
    free(s.logits);
}
