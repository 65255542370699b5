#include "daemon/state_put.h"

#include "daemon/state_record.h"

#include <stdio.h>
#include <stdlib.h>

static void fill_record(const struct state_put *p, struct store_state *r)
{
    const struct rwkv_info *info = p->model->rwkv_info;
    const struct state_change *c = p->change;
    *r = (struct store_state){
        .n_layer = (uint32_t)info->n_layer,
        .n_embd = (uint32_t)info->n_embd,
        .head_size = (uint32_t)info->head_size,
        .n_tokens = p->n_tokens,
        .has_logits = p->logits != NULL,
        .parents = p->parents,
        .origin = p->origin,
        .tags = c && c->tags ? c->tags : "[]",
        .description = c ? c->description : NULL,
        .pinned = c && c->set_pinned && c->pinned,
        .expires_ms = c && c->set_expires ? c->expires_ms : 0,
    };
    snprintf(r->name, sizeof r->name, "%s", p->name);
    snprintf(r->model, sizeof r->model, "%s", p->model->name);
    snprintf(r->fingerprint, sizeof r->fingerprint, "%s", info->fingerprint);
    snprintf(r->weights_type, sizeof r->weights_type, "%s", p->weights_type);
}

/* The float * of the cache's struct are not const: it reads from them. */
static void keep_in_cache(struct service *s, const struct state_put *p, const char *sha256)
{
    if (s->cache && !p->no_cache)
        state_cache_put(s->cache, sha256, p->model->rwkv_info,
                        &(struct cached_state){.state = (float *)(uintptr_t)p->state,
                                               .logits = (float *)(uintptr_t)p->logits,
                                               .n_tokens = p->n_tokens});
}

int state_put(struct service *s, const struct state_put *p, const struct store_write *how,
              store_state_fn *done, void *arg, struct err *e)
{
    const struct rwkv_info *info = p->model->rwkv_info;
    struct store_state record;
    struct buf norms;
    void *blob = NULL;
    size_t bytes = 0;
    buf_init(&norms, 1u << 20);
    fill_record(p, &record);
    int rc = state_record_norms(info, p->state, &norms) < 0
                 ? err_set(e, ERR_NOMEM, "no memory for a state's record")
                 : state_record_pack(info, p->weights_type, p->n_tokens, p->state, p->logits, &blob,
                                     &bytes, record.sha256, e);
    if (rc == 0) {
        keep_in_cache(s, p, record.sha256);
        record.norms = norms.data;
        record.bytes = bytes;
        rc = store_put_state_take(s->options.store, &record, blob, bytes, how, done, arg, e);
        if (rc < 0)
            free(blob);
    }
    buf_fini(&norms);
    return rc;
}
