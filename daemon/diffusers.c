#include "daemon/diffusers.h"

#include "daemon/base/sha256.h"
#include "daemon/bundled.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUNDLED    "bundled"
#define META_BYTES ((size_t)1 << 20)

struct slot {
    struct diffuser *diffuser; /* NULL: free */
    char sha256[65];
    size_t bytes, uses;
    uint64_t used_at;
};

struct diffusers {
    struct slot slots[DIFFUSERS_LOADED];
    uint64_t clock;
    bool offered;
};

struct diffusers *diffusers_new(void)
{
    return calloc(1, sizeof(struct diffusers));
}

static void slot_clear(struct slot *s)
{
    diffuser_close(s->diffuser);
    *s = (struct slot){0};
}

void diffusers_free(struct diffusers *d)
{
    for (size_t i = 0; d && i < DIFFUSERS_LOADED; i++)
        slot_clear(&d->slots[i]);
    free(d);
}

/* ---- storing ---- */

static const struct model *model_of(struct service *s, const char *fingerprint)
{
    const struct registry *g = s->options.registry;
    for (size_t i = 0; i < g->n; i++)
        if (!strcmp(g->models[i].rwkv_info->fingerprint, fingerprint))
            return &g->models[i];
    return NULL;
}

/* The record's JSON. */
static int write_meta(const struct diffuser_info *i, const char *training, struct buf *b,
                      struct err *e)
{
    buf_printf(b,
               "{\"n_layer\": %zu, \"n_embd\": %zu, \"head_size\": %zu, \"n_token\": %zu, "
               "\"token_dim\": %zu, \"width\": %zu, \"n_head\": %zu, \"n_block\": %zu, "
               "\"n_params\": %zu, \"codec_bytes\": %zu, \"shifts\": %s, \"schedule\": \"%s\", "
               "\"prediction\": \"%s\", \"steps\": %llu, \"labels\": [",
               i->shape.n_layer, i->shape.n_embd, i->shape.head_size, i->n_token, i->token_dim,
               i->n_embd, i->n_head, i->n_block, i->n_params, i->codec_bytes,
               i->shifts ? "true" : "false", dit_schedule_name(i->schedule),
               dit_prediction_name(i->prediction), (unsigned long long)i->steps);
    for (size_t k = 0; k < i->n_label; k++) {
        buf_puts(b, k ? ", \"" : "\"");
        for (const char *p = i->label[k]; *p; p++)
            buf_printf(b, (unsigned char)*p < 0x20 || *p == '"' || *p == '\\' ? "\\u%04x" : "%c",
                       (unsigned char)*p);
        buf_puts(b, "\"");
    }
    buf_puts(b, "]");
    if (training)
        buf_printf(b, ", \"training\": %s", training);
    buf_puts(b, "}");
    return b->failed ? err_set(e, ERR_NOMEM, "no memory for a diffuser's record") : 0;
}

/* Fills the record of a file that is a diffuser of a served model. */
static int describe(struct service *s, const struct diffuser_put *p, struct store_item *item,
                    struct buf *meta, struct err *e)
{
    struct diffuser *d;
    uint8_t digest[32];
    int rc = diffuser_open_memory(p->file, p->bytes, &d, e);
    if (rc < 0)
        return rc;
    const struct diffuser_info *info = diffuser_get_info(d);
    const struct model *m = model_of(s, info->fingerprint);
    if (!m || m->rwkv_info->n_layer != info->shape.n_layer ||
        m->rwkv_info->n_embd != info->shape.n_embd ||
        m->rwkv_info->head_size != info->shape.head_size ||
        info->cond_dim != m->rwkv_info->n_embd) {
        rc = err_set(e, ERR_MODEL_MISMATCH,
                     "the diffuser is for the model %.12s..., which is not served",
                     info->fingerprint);
    } else {
        snprintf(item->model, sizeof item->model, "%s", m->name);
        memcpy(item->fingerprint, info->fingerprint, sizeof item->fingerprint);
        rc = write_meta(info, p->training, meta, e);
    }
    diffuser_close(d);
    sha256_of(p->file, p->bytes, digest);
    sha256_hex(digest, item->sha256);
    item->bytes = p->bytes;
    item->meta = meta->data;
    return rc;
}

int diffusers_register_take(struct service *s, const struct diffuser_put *p,
                            struct item_info *saved, struct err *e)
{
    struct store_item item = {.kind = STORE_DIFFUSER};
    struct buf meta;
    buf_init(&meta, META_BYTES);
    snprintf(item.name, sizeof item.name, "%s", p->name);
    int rc = describe(s, p, &item, &meta, e);
    if (rc < 0)
        free(p->file);
    else
        rc = fetch_item_put_over_take(s, &item, p->file, p->replace, saved, e);
    buf_fini(&meta);
    return rc;
}

void diffusers_offer(struct service *s)
{
    struct buf path;
    struct err e = {0};
    struct diffuser_put put = {.name = BUNDLED, .replace = true};
    if (s->diffusers->offered)
        return;
    s->diffusers->offered = true;
    buf_init(&path, 8192);
    if (bundled_path("tiny/diffuser.safetensors", &path, &e) == 0 &&
        fetch_file(path.data, &put.file, &put.bytes, &e) == 0) {
        if (diffusers_register_take(s, &put, NULL, &e) < 0 && e.code != ERR_MODEL_MISMATCH)
            LOG(s->options.log, LOG_WARN, "bundled_diffuser", LOG_STR("why", e.msg));
    }
    buf_fini(&path);
}

/* ---- using ---- */

/* The bundled one, which each start may store again, only if there is no other. */
static int find_latest(const struct errand_run *r, char name[129], struct err *e)
{
    int rc = fetch_item_latest(r->svc, STORE_DIFFUSER, r->model->rwkv_info->fingerprint, BUNDLED,
                               name, e);
    return rc < 0 || *name ? rc
                           : err_set(e, ERR_NO_DIFFUSER,
                                     "there is no diffuser for the model %s: train one from a data "
                                     "set of states (dreamstated train dit) and import it",
                                     r->model->name);
}

static struct slot *find_loaded(struct diffusers *d, const char *sha256)
{
    for (size_t i = 0; i < DIFFUSERS_LOADED; i++)
        if (d->slots[i].diffuser && !strcmp(d->slots[i].sha256, sha256))
            return &d->slots[i];
    return NULL;
}

/* Closes those least lately used until those at rest are within the limits; at least one place is
 * free then, or NULL: all are in use. */
static struct slot *make_room(struct diffusers *d, size_t bytes)
{
    for (;;) {
        struct slot *empty = NULL, *oldest = NULL;
        size_t held = bytes;
        for (size_t i = 0; i < DIFFUSERS_LOADED; i++) {
            struct slot *s = &d->slots[i];
            if (!s->diffuser)
                empty = s;
            else if (!s->uses && (!oldest || s->used_at < oldest->used_at))
                oldest = s;
            held += s->diffuser && !s->uses ? s->bytes : 0;
        }
        if (!oldest || (empty && held <= DIFFUSERS_BYTES))
            return empty;
        slot_clear(oldest);
    }
}

static int load(struct service *s, const char *name, struct slot **out, struct err *e)
{
    struct fetched_item file;
    struct diffuser *d = NULL;
    int rc = fetch_item(s, STORE_DIFFUSER, name, true, &file, e);
    if (rc < 0)
        return rc;
    *out = make_room(s->diffusers, file.bytes);
    if (!*out)
        rc = err_set(e, ERR_BUSY, "%d diffusers are at work: try again later", DIFFUSERS_LOADED);
    else if ((rc = diffuser_open_memory(file.data, file.bytes, &d, e)) == 0)
        **out = (struct slot){.diffuser = d, .bytes = file.bytes};
    if (rc == 0)
        memcpy((*out)->sha256, file.info.sha256, sizeof(*out)->sha256);
    else if (rc == ERR_FORMAT)
        rc = e->code = ERR_STATE_CORRUPT;
    fetched_item_fini(&file);
    return rc;
}

int diffusers_use(const struct errand_run *r, const char *name, struct diffuser_use *out,
                  struct err *e)
{
    struct service *s = r->svc;
    struct fetched_item record;
    char latest[129] = "";
    *out = (struct diffuser_use){0};
    diffusers_offer(s);
    if (!name && find_latest(r, latest, e) < 0)
        return e->code;
    name = name ? name : latest;
    int rc = fetch_item(s, STORE_DIFFUSER, name, false, &record, e);
    if (rc < 0) {
        snprintf(e->param, sizeof e->param, "diffuser");
        return rc;
    }
    struct slot *slot = find_loaded(s->diffusers, record.info.sha256);
    if (strcmp(record.info.fingerprint, r->model->rwkv_info->fingerprint) != 0)
        rc = err_set_param(e, ERR_MODEL_MISMATCH, "diffuser",
                           "the diffuser %s is for another model than %s", name, r->model->name);
    else if (!slot)
        rc = load(s, name, &slot, e);
    if (rc == 0) {
        slot->uses++;
        slot->used_at = ++s->diffusers->clock;
        *out = (struct diffuser_use){.diffuser = slot->diffuser, .slot = slot};
        snprintf(out->name, sizeof out->name, "%s", name);
        memcpy(out->sha256, slot->sha256, sizeof out->sha256);
    }
    fetched_item_fini(&record);
    return rc;
}

void diffusers_unuse(struct service *s, struct diffuser_use *u)
{
    struct slot *slot = u->slot;
    if (slot) {
        slot->uses--;
        make_room(s->diffusers, 0);
    }
    *u = (struct diffuser_use){0};
}
