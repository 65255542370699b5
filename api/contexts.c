/* /v1/contexts: what a model's hybrid makes of texts. */
#include "api/adjustment.h"
#include "api/items.h"

#include <stdlib.h>
#include <string.h>

static void write_fields(struct jw *w, const struct item_info *i, const void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    items_write_meta(w, i);
}

const struct item_resource items_contexts = {"context", true, write_fields};

/* "error" (false) or "replace" (true). */
static int decode_if_exists(const json_t *o, bool *replace, struct err *e)
{
    const char *s = NULL;
    if (decode_word(o, "if_exists", &s, e) < 0)
        return e->code;
    *replace = s && !strcmp(s, "replace");
    return !s || *replace || !strcmp(s, "error")
               ? 0
               : err_set_param(e, ERR_INVALID, "if_exists",
                               "if_exists is neither \"error\" nor \"replace\"");
}

static int decode_source(struct req *r, const json_t *o, struct item_call *c, struct err *e)
{
    struct adjustment_ask ask = {.strength = 1};
    int64_t seed = -1, steps = 0;
    if (adjustment_decode_sampling(o, "", &seed, &steps, e) < 0 ||
        adjustment_decode_text(r, c->errand.model, o, "", &ask.text, &ask.n_text, e) < 0)
        return e->code;
    ask.seed = seed < 0 ? service_random_seed() : (uint64_t)seed;
    ask.steps = (uint32_t)steps;
    c->adjustment = adjustment_new_take(&ask);
    return c->adjustment ? 0 : err_set(e, ERR_NOMEM, "no memory for a context");
}

static int decode_context(struct req *r, const json_t *o, struct item_call *c, struct err *e)
{
    const char *name = NULL;
    if (!(c->errand.model = prompt_model(r, o, e)) || decode_word(o, "name", &name, e) < 0 ||
        decode_if_exists(o, &c->replace, e) < 0)
        return e->code;
    if (!name)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    if (!(c->name = strdup(name)))
        return err_set(e, ERR_NOMEM, "no memory for a context");
    return decode_source(r, o, c, e);
}

static int decode_body(struct req *r, struct item_call *c, struct err *e)
{
    json_t *o = decode_object(r->body.data, r->body.len, e), *meta = json_object();
    int rc = !o ? e->code : meta ? 0 : err_set(e, ERR_NOMEM, "no memory for a context");
    if (rc == 0)
        rc = decode_context(r, o, c, e);
    if (rc == 0)
        rc = items_keep_change(o, false, meta, e);
    if (rc == 0 && !(c->meta = json_dumps(meta, JSON_COMPACT)))
        rc = err_set(e, ERR_NOMEM, "no memory for a context");
    json_decref(o);
    json_decref(meta);
    return rc;
}

int handle_context_create(struct req *r, struct err *e)
{
    struct item_call *c = items_call(r, ITEM_CONTEXT, ITEM_PUT, e);
    int rc = c ? decode_body(r, c, e) : e->code;
    if (rc == 0)
        rc = service_make_context(r->svc, c, e);
    return c ? req_follow(r, &c->errand.call, &items_put_task, rc) : rc;
}

int handle_context_get(struct req *r, struct err *e)
{
    return items_get(r, ITEM_CONTEXT, e);
}

int handle_context_delete(struct req *r, struct err *e)
{
    return items_delete(r, ITEM_CONTEXT, e);
}

int handle_context_list(struct req *r, struct err *e)
{
    return items_list(r, ITEM_CONTEXT, e);
}
