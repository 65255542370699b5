/* /v1/conditions: named vectors of texts. */
#include "api/items.h"

#include <stdlib.h>
#include <string.h>

static void write_fields(struct jw *w, const struct item_info *i, const void *data, size_t bytes)
{
    const float *vector = data;
    items_write_meta(w, i);
    if (!vector)
        return;
    jw_array(w, "vector");
    for (size_t k = 0; k < bytes / sizeof *vector; k++)
        jw_number(w, NULL, (double)vector[k]);
    jw_end_array(w);
}

const struct item_resource items_conditions = {"condition", true, write_fields};

/* ---- requests ---- */

static int decode_texts(struct req *r, const json_t *v, struct item_call *c, json_t *meta,
                        struct err *e)
{
    bool list = json_is_array(v);
    size_t n = list ? json_array_size(v) : 1;
    if (n < 1 || n > CONDITION_MAX_TEXTS)
        return err_set_param(e, ERR_INVALID, "text", "text has %zu texts, 1 to %d are taken", n,
                             CONDITION_MAX_TEXTS);
    if (!(c->texts = calloc(n, sizeof *c->texts)))
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    c->n_texts = n;
    json_t *kept = json_array();
    if (json_object_set_new(meta, "texts", kept) < 0)
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    for (size_t i = 0; i < n; i++) {
        json_t *one = list ? json_array_get(v, i) : (json_t *)(uintptr_t)v;
        if (diffusion_decode_text(r, c->errand.model, one, "text", &c->texts[i], e) < 0)
            return e->code;
        if (json_array_append(kept, one) < 0)
            return err_set(e, ERR_NOMEM, "no memory for a condition");
    }
    return 0;
}

static int decode_vector(const json_t *v, struct item_call *c, json_t *meta, struct err *e)
{
    size_t n = c->errand.model->n_embd;
    float *x;
    if (!json_is_array(v) || json_array_size(v) != n)
        return err_set_param(e, ERR_INVALID, "vector", "vector is not an array of %zu numbers", n);
    if (!(c->data = x = calloc(n, sizeof *x)) ||
        json_object_set_new(meta, "texts", json_array()) < 0)
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    c->data_bytes = n * sizeof *x;
    for (size_t i = 0; i < n; i++) {
        const json_t *number = json_array_get(v, i);
        double value = json_number_value(number);
        if (!json_is_number(number) || value < -1e6 || value > 1e6)
            return err_set_param(e, ERR_INVALID, "vector",
                                 "vector[%zu] is not a number from -1e6 to 1e6", i);
        x[i] = (float)value;
    }
    return 0;
}

static int decode_condition(struct req *r, const json_t *o, struct item_call *c, json_t *meta,
                            struct err *e)
{
    const json_t *text = decode_field(o, "text"), *vector = decode_field(o, "vector");
    const char *name = NULL;
    if (!(c->errand.model = prompt_model(r, o, e)) || decode_word(o, "name", &name, e) < 0)
        return e->code;
    if (!name)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    if (!(c->name = strdup(name)))
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    if (!text == !vector)
        return err_set_param(e, ERR_INVALID, vector ? "vector" : "text",
                             "one of text and vector is wanted");
    if (text ? decode_texts(r, text, c, meta, e) < 0 : decode_vector(vector, c, meta, e) < 0)
        return e->code;
    return items_keep_change(o, false, meta, e);
}

/* With the body decoded into c and the record's JSON. */
static int decode_body(struct req *r, struct item_call *c, struct err *e)
{
    json_t *o = decode_object(r->body.data, r->body.len, e), *meta = json_object();
    int rc = !o ? e->code : meta ? 0 : err_set(e, ERR_NOMEM, "no memory for a condition");
    if (rc == 0)
        rc = c->op == ITEM_PUT ? decode_condition(r, o, c, meta, e)
                               : items_keep_change(o, true, meta, e);
    if (rc == 0 && !json_object_size(meta))
        rc = err_set(e, ERR_INVALID, "nothing to change: neither description nor tags is given");
    if (rc == 0 && !(c->meta = json_dumps(meta, JSON_COMPACT)))
        rc = err_set(e, ERR_NOMEM, "no memory for a condition");
    json_decref(o);
    json_decref(meta);
    return rc;
}

int handle_condition_create(struct req *r, struct err *e)
{
    struct item_call *c = items_call(r, ITEM_CONDITION, ITEM_PUT, e);
    return c ? items_submit(r, c, &items_put_task, decode_body(r, c, e), e) : e->code;
}

int handle_condition_patch(struct req *r, struct err *e)
{
    struct item_call *c = items_call(r, ITEM_CONDITION, ITEM_PATCH, e);
    if (!c)
        return e->code;
    int rc = decode_body(r, c, e);
    if (rc == 0)
        rc = precondition_if_match(r, &c->if_revision, e);
    return items_submit(r, c, &items_get_task, rc, e);
}

int handle_condition_get(struct req *r, struct err *e)
{
    return items_get(r, ITEM_CONDITION, e);
}

int handle_condition_delete(struct req *r, struct err *e)
{
    return items_delete(r, ITEM_CONDITION, e);
}

int handle_condition_list(struct req *r, struct err *e)
{
    return items_list(r, ITEM_CONDITION, e);
}
