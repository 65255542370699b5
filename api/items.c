#include "api/items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item_call *items_call(struct req *r, enum item_kind kind, enum item_op op, struct err *e)
{
    struct item_call *c = item_call_new(kind, op);
    bool named = op != ITEM_LIST && op != ITEM_PUT;
    if (c && (!named || (c->name = strdup(r->params[0])))) {
        c->errand.model = service_find_model(r->svc, NULL);
        return c;
    }
    call_unref(c ? &c->errand.call : NULL);
    err_set(e, ERR_NOMEM, "no memory for a request");
    return NULL;
}

const struct item_call *items_call_of(const struct req *r)
{
    return (const struct item_call *)(void *)r->sources[0].call;
}

int items_submit(struct req *r, struct item_call *c, const struct task *t, int rc, struct err *e)
{
    return errands_submit(r, &c->errand, t, rc, e);
}

/* The query of a list: limit, after, model. */
static int decode_list(struct req *r, struct item_call *c, struct err *e)
{
    char text[160];
    bool found;
    if (states_query_limit(r, 1, &c->limit, e) < 0 ||
        req_query(r, "after", text, sizeof text, &found, e) < 0)
        return e->code;
    if (found && !(c->after = strdup(text)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    if (req_query(r, "model", text, sizeof text, &c->of_model, e) < 0)
        return e->code;
    if (c->of_model && !(c->errand.model = service_find_model(r->svc, text)))
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no such model");
    return 0;
}

/* ---- records ---- */

int items_keep_change(const json_t *o, bool is_patch, json_t *meta, struct err *e)
{
    struct state_change change = {0};
    int rc = states_decode_change(o, is_patch, &change, e);
    json_t *description = json_string(change.description ? change.description : "");
    json_t *tags = json_loads(change.tags ? change.tags : "[]", 0, NULL);
    bool ok = description && tags;
    if (rc == 0 && ok && (change.description || !is_patch))
        ok = json_object_set(meta, "description", description) == 0;
    if (rc == 0 && ok && (change.tags || !is_patch))
        ok = json_object_set(meta, "tags", tags) == 0;
    json_decref(description);
    json_decref(tags);
    free(change.description);
    free(change.tags);
    return rc < 0 ? rc : ok ? 0 : err_set(e, ERR_NOMEM, "no memory for a record");
}

void items_write_meta(struct jw *w, const struct item_info *i)
{
    json_t *meta = i->meta ? json_loads(i->meta, 0, NULL) : NULL;
    const char *key;
    json_t *v;
    json_object_foreach(meta, key, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        if (text)
            jw_raw(w, key, text, strlen(text));
        free(text);
    }
    json_decref(meta);
}

/* ---- answers ---- */

static const struct item_resource *const resources[] = {[ITEM_CONDITION] = &items_conditions,
                                                        [ITEM_CONTEXT] = &items_contexts,
                                                        [ITEM_DIFFUSER] = &items_diffusers,
                                                        [ITEM_HYBRID] = &items_hybrids,
                                                        [ITEM_DATASET] = &items_datasets};

/* data: of the one record that is asked for; NULL in a list. */
static void write_item(struct jw *w, const struct item_resource *of, const struct item_info *i,
                       const void *data, size_t bytes)
{
    jw_object(w, NULL);
    jw_string(w, "id", i->name);
    jw_string(w, "object", of->object);
    jw_string(w, "name", i->name);
    jw_bool(w, "damaged", !i->meta);
    if (of->of_model) {
        jw_string(w, "model", i->model);
        jw_string(w, "fingerprint", i->fingerprint);
        jw_string(w, "sha256", i->sha256);
        jw_uint(w, "bytes", i->bytes);
    }
    jw_uint(w, "revision", i->revision);
    jw_int(w, "created_at", i->created_ms / 1000);
    jw_int(w, "changed_at", i->changed_ms / 1000);
    of->write(w, i, data, bytes);
    jw_end_object(w);
}

int items_finish_one(struct req *r, int status)
{
    const struct item_call *c = items_call_of(r);
    const struct item_info *i = &c->items[0];
    const struct item_resource *of = resources[c->kind];
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, status);
    if (status == 201)
        snprintf(r->reply.location, sizeof r->reply.location, "/v1/%ss/%s", of->object, i->name);
    req_reply_header(r, "ETag", "\"%llu\"", (unsigned long long)i->revision);
    write_item(&w, of, i, c->data, c->data_bytes);
    return 0;
}

static int finish_put(struct req *r, struct err *e)
{
    (void)e;
    return items_finish_one(r, 201);
}

static int finish_get(struct req *r, struct err *e)
{
    (void)e;
    return items_finish_one(r, 200);
}

static int finish_delete(struct req *r, struct err *e)
{
    char object[40];
    struct jw w = {&r->reply.body, false};
    (void)e;
    snprintf(object, sizeof object, "%s.deleted", resources[items_call_of(r)->kind]->object);
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "id", r->params[0]);
    jw_string(&w, "object", object);
    jw_bool(&w, "deleted", true);
    jw_end_object(&w);
    return 0;
}

static int finish_list(struct req *r, struct err *e)
{
    const struct item_call *c = items_call_of(r);
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_items; i++)
        write_item(&w, resources[c->kind], &c->items[i], NULL, 0);
    jw_end_array(&w);
    jw_string(&w, "first_id", c->n_items ? c->items[0].name : NULL);
    jw_string(&w, "last_id", c->n_items ? c->items[c->n_items - 1].name : NULL);
    jw_bool(&w, "has_more", c->has_more);
    jw_end_object(&w);
    return 0;
}

const struct task items_put_task = {states_no_record, states_no_end, finish_put, NULL, false};
const struct task items_get_task = {states_no_record, states_no_end, finish_get, NULL, false};

/* ---- requests ---- */

int items_get(struct req *r, enum item_kind kind, struct err *e)
{
    struct item_call *c = items_call(r, kind, ITEM_GET, e);
    return c ? items_submit(r, c, &items_get_task, 0, e) : e->code;
}

int items_delete(struct req *r, enum item_kind kind, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_delete, NULL, false};
    struct item_call *c = items_call(r, kind, ITEM_DELETE, e);
    return c ? items_submit(r, c, &task, precondition_if_match(r, &c->if_revision, e), e) : e->code;
}

int items_list(struct req *r, enum item_kind kind, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_list, NULL, false};
    struct item_call *c = items_call(r, kind, ITEM_LIST, e);
    return c ? items_submit(r, c, &task, decode_list(r, c, e), e) : e->code;
}
