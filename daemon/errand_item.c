/* Requests about conditions, contexts, diffusers, hybrids and data sets as resources. */
#include "daemon/datasets.h"
#include "daemon/diffusion.h"
#include "daemon/hybrids.h"

#include "daemon/base/sha256.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTOR_MAX 1e6

static enum store_kind store_kind(const struct item_call *c)
{
    static const enum store_kind kinds[] = {[ITEM_CONDITION] = STORE_CONDITION,
                                            [ITEM_CONTEXT] = STORE_CONTEXT,
                                            [ITEM_DIFFUSER] = STORE_DIFFUSER,
                                            [ITEM_HYBRID] = STORE_HYBRID,
                                            [ITEM_DATASET] = STORE_DATASET};
    return kinds[c->kind];
}

int condition_tokens(const struct service *s, const struct model_info *m, const uint32_t *ids,
                     size_t n, struct token_list *out, struct err *e)
{
    uint32_t separator = model_separator(registry_model(s->options.registry, m));
    if (!(out->ids = calloc(n + 1, sizeof *out->ids)))
        return err_set(e, ERR_NOMEM, "no memory for a text");
    out->ids[0] = separator;
    memcpy(out->ids + 1, ids, n * sizeof *ids);
    out->n = n + 1;
    return 0;
}

static int item_check(const struct errand *errand, struct err *e)
{
    const struct item_call *c = (const struct item_call *)(const void *)errand;
    size_t n = c->name ? strspn(c->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                         "0123456789._-")
                       : 0;
    if (c->op == ITEM_LIST)
        return c->limit >= 1 && c->limit <= 1000
                   ? 0
                   : err_set_param(e, ERR_INVALID, "limit", "limit is not from 1 to 1000");
    const int most = c->kind == ITEM_DATASET ? DATASET_NAME : STORE_NAME_MAX;
    if (!n || c->name[n] || n > (size_t)most)
        return err_set_param(e, ERR_INVALID, "name",
                             "a name is 1 to %d of the characters A-Z a-z 0-9 . _ -", most);
    if (c->n_texts > CONDITION_MAX_TEXTS)
        return err_set_param(e, ERR_INVALID, "texts", "more than %d texts", CONDITION_MAX_TEXTS);
    return 0;
}

/* ---- conditions ---- */

static int check_vector(const float *v, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)v[i]) <= VECTOR_MAX))
            return err_set_param(e, ERR_NOT_FINITE, "vector",
                                 "number %zu of the vector is not finite, or larger than %g", i,
                                 VECTOR_MAX);
    return 0;
}

static int make_vector(const struct errand_run *r, struct item_call *c, struct err *e)
{
    size_t n = r->model->rwkv_info->n_embd;
    if (c->n_texts) {
        if (!(c->data = calloc(n, sizeof(float))))
            return err_set(e, ERR_NOMEM, "no memory for a condition");
        c->data_bytes = n * sizeof(float);
        int rc = diffusion_embed_take(r, c->texts, c->n_texts, c->data, e);
        if (rc < 0)
            return rc;
    }
    if (c->data_bytes != n * sizeof(float))
        return err_set_param(e, ERR_INVALID, "vector", "the vector has not %zu numbers", n);
    return check_vector(c->data, n, e);
}

static int put_condition(const struct errand_run *r, struct item_call *c, struct err *e)
{
    struct store_item item = {.kind = STORE_CONDITION, .meta = c->meta};
    uint8_t digest[32];
    int rc = make_vector(r, c, e);
    if (rc < 0)
        return rc;
    snprintf(item.name, sizeof item.name, "%s", c->name);
    snprintf(item.model, sizeof item.model, "%s", r->model->name);
    snprintf(item.fingerprint, sizeof item.fingerprint, "%s", r->model->rwkv_info->fingerprint);
    item.bytes = c->data_bytes;
    sha256_of(c->data, c->data_bytes, digest);
    sha256_hex(digest, item.sha256);
    void *data = malloc(c->data_bytes);
    if (!data)
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    memcpy(data, c->data, c->data_bytes);
    rc = fetch_item_put_take(r->svc, &item, data, &(struct store_item_write){0}, c->items, e);
    c->n_items = rc == 0;
    return rc;
}

/* A JSON merge patch (RFC 7396) of one level. */
static char *merge(const char *meta, const char *patch)
{
    json_t *to = json_loads(meta, 0, NULL), *from = json_loads(patch, 0, NULL), *v;
    const char *key;
    char *text = NULL;
    if (to && from) {
        json_object_foreach(from, key, v)
        {
            if (json_is_null(v))
                json_object_del(to, key);
            else if (json_object_set(to, key, v) < 0)
                goto out;
        }
        text = json_dumps(to, JSON_COMPACT);
    }
out:
    json_decref(to);
    json_decref(from);
    return text;
}

static int patch(const struct errand_run *r, struct item_call *c, struct err *e)
{
    struct store_item item = {.kind = store_kind(c)};
    struct fetched_item old;
    int rc = fetch_item(r->svc, store_kind(c), c->name, false, &old, e);
    if (rc < 0)
        return rc;
    char *meta = merge(old.info.meta, c->meta);
    const struct store_item_write how = {
        .replace = true, .if_revision = c->if_revision ? c->if_revision : old.info.revision};
    snprintf(item.name, sizeof item.name, "%s", c->name);
    item.meta = meta;
    rc = meta ? fetch_item_put_take(r->svc, &item, NULL, &how, c->items, e)
              : err_set(e, ERR_NOMEM, "no memory for a record");
    c->n_items = rc == 0;
    free(meta);
    fetched_item_fini(&old);
    return rc;
}

/* ---- data sets ---- */

static int append(const struct errand_run *r, struct item_call *c, struct err *e)
{
    void *texts = c->data;
    c->data = NULL;
    int rc = datasets_append_take(r->svc, c->name, texts, c->data_bytes, c->items, &c->made, e);
    c->n_items = rc == 0;
    return rc;
}

/* ---- all ---- */

static int put_diffuser(const struct errand_run *r, struct item_call *c, struct err *e)
{
    const struct diffuser_put put = {.name = c->name, .file = c->data, .bytes = c->data_bytes};
    c->data = NULL;
    int rc = diffusers_register_take(r->svc, &put, c->items, e);
    c->n_items = rc == 0;
    return rc;
}

static int put_hybrid(const struct errand_run *r, struct item_call *c, struct err *e)
{
    const struct hybrid_put put = {.name = c->name, .file = c->data, .bytes = c->data_bytes};
    c->data = NULL;
    int rc = hybrids_register_take(r->svc, &put, c->items, e);
    c->n_items = rc == 0;
    return rc;
}

static int put(const struct errand_run *r, struct item_call *c, struct err *e)
{
    return c->kind == ITEM_CONDITION  ? put_condition(r, c, e)
           : c->kind == ITEM_DIFFUSER ? put_diffuser(r, c, e)
           : c->kind == ITEM_HYBRID   ? put_hybrid(r, c, e)
                                      : append(r, c, e);
}

static int delete_one(const struct errand_run *r, struct item_call *c, struct err *e)
{
    return c->kind == ITEM_DATASET ? datasets_delete(r->svc, c->name, c->if_revision, e)
           : c->kind == ITEM_HYBRID
               ? hybrids_delete(r->svc, c->name, c->if_revision, e)
               : fetch_item_delete(r->svc, store_kind(c), c->name, c->if_revision, e);
}

static int get(const struct errand_run *r, struct item_call *c, struct err *e)
{
    struct fetched_item f;
    bool data = c->op == ITEM_DATA || c->kind == ITEM_CONDITION;
    int rc = fetch_item(r->svc, store_kind(c), c->name, data, &f, e);
    if (rc < 0)
        return rc;
    c->items[0] = f.info;
    c->n_items = 1;
    c->data = f.data;
    c->data_bytes = f.bytes;
    return 0;
}

static int list(const struct errand_run *r, struct item_call *c, struct err *e)
{
    const struct store_item_query q = {.kind = store_kind(c),
                                       .after = c->after,
                                       .fingerprint =
                                           c->of_model ? r->model->rwkv_info->fingerprint : NULL,
                                       .limit = c->limit};
    return fetch_item_list(r->svc, &q, &c->items, &c->n_items, &c->has_more, e);
}

static int item_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct item_call *c = (struct item_call *)(void *)errand;
    if (c->kind == ITEM_DIFFUSER)
        diffusers_offer(r->svc);
    if (c->op == ITEM_LIST)
        return list(r, c, e);
    if (!(c->items = calloc(1, sizeof *c->items)))
        return err_set(e, ERR_NOMEM, "no memory for a record");
    switch (c->op) {
    case ITEM_PUT:
        return put(r, c, e);
    case ITEM_PATCH:
        return patch(r, c, e);
    case ITEM_DELETE:
        return delete_one(r, c, e);
    case ITEM_GET:
    case ITEM_DATA:
        return get(r, c, e);
    case ITEM_LIST:
        break;
    }
    return err_set(e, ERR_INTERNAL, "no such request");
}

const struct errand_impl errand_item = {LANE_NOW, item_check, item_run};
