#include "daemon/hybrids.h"

#include "daemon/base/sha256.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which one a model runs with ---- */

static int open_stored(struct service *s, const struct model *m, const char *name,
                       struct served_hybrid **out, struct err *e)
{
    struct fetched_item f;
    struct hybrid *h = NULL;
    int rc = fetch_item(s, STORE_HYBRID, name, true, &f, e);
    if (rc == 0)
        rc = hybrid_open_memory(f.data, f.bytes, &h, e);
    if (rc == 0 && !registry_hybrid_fits(m, h)) {
        hybrid_close(h);
        rc = err_set(e, ERR_STATE_CORRUPT, "the hybrid %s is not of the model in its record", name);
    } else if (rc == 0) {
        *out = served_hybrid_new_take(h, f.info.sha256);
        rc = *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a hybrid");
    }
    fetched_item_fini(&f);
    return rc;
}

static int refresh(struct service *s, struct model *m, struct err *e)
{
    char name[129];
    struct err why = {0};
    struct served_hybrid *h = NULL;
    int rc = m->hybrid_named
                 ? 0
                 : fetch_item_latest(s, STORE_HYBRID, m->rwkv_info->fingerprint, NULL, name, e);
    if (rc < 0)
        return rc;
    if (!m->hybrid_named && *name && open_stored(s, m, name, &h, &why) < 0)
        LOG(s->options.log, LOG_WARN, "hybrid_left_out", LOG_STR("model", m->name),
            LOG_STR("hybrid", name), LOG_STR("why", why.msg));
    hybrid_place_set(&m->hybrids, h ? h : m->hybrid_of_file);
    served_hybrid_unref(h);
    return 0;
}

static int refresh_models_of(struct service *s, const char *fingerprint, struct err *e)
{
    const struct registry *g = s->options.registry;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < g->n; i++)
        if (!fingerprint || !strcmp(g->models[i].rwkv_info->fingerprint, fingerprint))
            rc = refresh(s, &g->models[i], e);
    return rc;
}

int hybrids_load(struct service *s, struct err *e)
{
    return refresh_models_of(s, NULL, e);
}

/* ---- storing ---- */

static char *write_meta(const struct hybrid_info *i, const char *training)
{
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o*}", "n_layer",
        (json_int_t)i->shape.n_layer, "n_embd", (json_int_t)i->shape.n_embd, "head_size",
        (json_int_t)i->shape.head_size, "rank", (json_int_t)i->rank, "max_context",
        (json_int_t)i->max_context, "sampling_steps", (json_int_t)i->sampling_steps, "width",
        (json_int_t)i->n_embd, "n_head", (json_int_t)i->n_head, "n_block", (json_int_t)i->n_block,
        "n_params", (json_int_t)i->n_params, "steps", (json_int_t)i->steps, "training",
        training ? json_loads(training, 0, NULL) : NULL);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

/* Fills the record of a file that is a hybrid of a served model. */
static int describe(struct service *s, const struct hybrid_put *p, struct store_item *item,
                    char **meta, struct err *e)
{
    const struct registry *g = s->options.registry;
    const struct model *m = NULL;
    struct hybrid *h;
    uint8_t digest[32];
    int rc = hybrid_open_memory(p->file, p->bytes, &h, e);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < g->n && !m; i++)
        m = registry_hybrid_fits(&g->models[i], h) ? &g->models[i] : NULL;
    if (!m) {
        rc = err_set(e, ERR_MODEL_MISMATCH,
                     "the hybrid is for the model %.12s..., which is not served",
                     hybrid_get_info(h)->fingerprint);
    } else {
        snprintf(item->model, sizeof item->model, "%s", m->name);
        memcpy(item->fingerprint, m->rwkv_info->fingerprint, sizeof item->fingerprint);
        *meta = write_meta(hybrid_get_info(h), p->training);
        rc = *meta ? 0 : err_set(e, ERR_NOMEM, "no memory for a hybrid's record");
    }
    hybrid_close(h);
    sha256_of(p->file, p->bytes, digest);
    sha256_hex(digest, item->sha256);
    item->bytes = p->bytes;
    item->meta = *meta;
    return rc;
}

int hybrids_register_take(struct service *s, const struct hybrid_put *p, struct item_info *saved,
                          struct err *e)
{
    struct store_item item = {.kind = STORE_HYBRID};
    char *meta = NULL;
    snprintf(item.name, sizeof item.name, "%s", p->name);
    int rc = describe(s, p, &item, &meta, e);
    if (rc < 0)
        free(p->file);
    else
        rc = fetch_item_put_over_take(s, &item, p->file, p->replace, saved, e);
    if (rc == 0)
        rc = refresh_models_of(s, item.fingerprint, e);
    free(meta);
    return rc;
}

int hybrids_delete(struct service *s, const char *name, uint64_t if_revision, struct err *e)
{
    int rc = fetch_item_delete(s, STORE_HYBRID, name, if_revision, e);
    return rc < 0 ? rc : hybrids_load(s, e);
}
