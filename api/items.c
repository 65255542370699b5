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

int items_decode_list(struct req *r, struct item_call *c, struct err *e)
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

void items_reply(struct req *r, int status, const char *path, const struct item_info *i)
{
    req_reply_json(r, status);
    if (status == 201)
        snprintf(r->reply.location, sizeof r->reply.location, "%s/%s", path, i->name);
    req_reply_header(r, "ETag", "\"%llu\"", (unsigned long long)i->revision);
}

int items_finish_delete(struct req *r, const char *object)
{
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "id", r->params[0]);
    jw_string(&w, "object", object);
    jw_bool(&w, "deleted", true);
    jw_end_object(&w);
    return 0;
}

int items_finish_list(struct req *r, void (*write)(struct jw *w, const struct item_info *i,
                                                   const float *vector, size_t n))
{
    const struct item_call *c = items_call_of(r);
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_items; i++)
        write(&w, &c->items[i], NULL, 0);
    jw_end_array(&w);
    jw_string(&w, "first_id", c->n_items ? c->items[0].name : NULL);
    jw_string(&w, "last_id", c->n_items ? c->items[c->n_items - 1].name : NULL);
    jw_bool(&w, "has_more", c->has_more);
    jw_end_object(&w);
    return 0;
}

void items_write_fields(struct jw *w, const char *object, const struct item_info *i)
{
    jw_string(w, "id", i->name);
    jw_string(w, "object", object);
    jw_string(w, "name", i->name);
    jw_bool(w, "damaged", !i->meta);
    jw_string(w, "model", i->model);
    jw_string(w, "fingerprint", i->fingerprint);
    jw_string(w, "sha256", i->sha256);
    jw_uint(w, "bytes", i->bytes);
    jw_uint(w, "revision", i->revision);
    jw_int(w, "created_at", i->created_ms / 1000);
    jw_int(w, "changed_at", i->changed_ms / 1000);
}
