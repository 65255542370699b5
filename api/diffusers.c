/* /v1/diffusers and /v1/hybrids: files of trained transformers. */
#include "api/etag.h"
#include "api/items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_fields(struct jw *w, const struct item_info *i, const void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    if (i->meta)
        jw_raw(w, "meta", i->meta, strlen(i->meta));
    else
        jw_null(w, "meta");
}

const struct item_resource items_diffusers = {"diffuser", true, write_fields};
const struct item_resource items_hybrids = {"hybrid", true, write_fields};

/* ---- the file ---- */

static int finish_data(struct req *r, struct err *e)
{
    const struct item_call *c = items_call_of(r);
    char etag[68];
    snprintf(etag, sizeof etag, "\"%s\"", c->items[0].sha256);
    r->reply.status = 200;
    r->reply.type = "application/octet-stream";
    r->reply.cache = "private, no-cache";
    req_reply_header(r, "ETag", "%s", etag);
    if (etag_listed(req_header(r, "If-None-Match"), etag, true)) {
        r->reply.status = 304;
        r->reply.still = "";
        return 0;
    }
    if (req_hold(r, c->data_bytes, e) < 0)
        return e->code;
    req_reply_header(r, "Content-Disposition", "attachment; filename=\"%s.safetensors\"",
                     c->items[0].name);
    r->reply.still = c->data;
    r->reply.still_bytes = c->data_bytes;
    r->reply.still_held = true;
    return 0;
}

/* ---- requests ---- */

static int decode_import(struct req *r, struct item_call *c, struct err *e)
{
    char name[160];
    bool found;
    if (req_query(r, "name", name, sizeof name, &found, e) < 0)
        return e->code;
    if (!found)
        return err_set_param(e, ERR_INVALID, "name", "name is missing: it stands in the query");
    if (!r->body.len)
        return err_set(e, ERR_INVALID, "the body is empty: the bytes of a file are wanted");
    if (!(c->name = strdup(name)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    c->data = req_take_body(r, &c->data_bytes);
    return 0;
}

static int import(struct req *r, enum item_kind kind, struct err *e)
{
    struct item_call *c = items_call(r, kind, ITEM_PUT, e);
    return c ? items_submit(r, c, &items_put_task, decode_import(r, c, e), e) : e->code;
}

static int data(struct req *r, enum item_kind kind, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_data, NULL, false};
    struct item_call *c = items_call(r, kind, ITEM_DATA, e);
    return c ? items_submit(r, c, &task, 0, e) : e->code;
}

int handle_diffuser_import(struct req *r, struct err *e)
{
    return import(r, ITEM_DIFFUSER, e);
}

int handle_diffuser_get(struct req *r, struct err *e)
{
    return items_get(r, ITEM_DIFFUSER, e);
}

int handle_diffuser_data(struct req *r, struct err *e)
{
    return data(r, ITEM_DIFFUSER, e);
}

int handle_diffuser_delete(struct req *r, struct err *e)
{
    return items_delete(r, ITEM_DIFFUSER, e);
}

int handle_diffuser_list(struct req *r, struct err *e)
{
    return items_list(r, ITEM_DIFFUSER, e);
}

int handle_hybrid_import(struct req *r, struct err *e)
{
    return import(r, ITEM_HYBRID, e);
}

int handle_hybrid_get(struct req *r, struct err *e)
{
    return items_get(r, ITEM_HYBRID, e);
}

int handle_hybrid_data(struct req *r, struct err *e)
{
    return data(r, ITEM_HYBRID, e);
}

int handle_hybrid_delete(struct req *r, struct err *e)
{
    return items_delete(r, ITEM_HYBRID, e);
}

int handle_hybrid_list(struct req *r, struct err *e)
{
    return items_list(r, ITEM_HYBRID, e);
}
