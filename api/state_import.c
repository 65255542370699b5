/* POST /v1/states/import: a state file as the request's body, what it is to be as the query. */
#include "api/states.h"

#include <stdlib.h>
#include <string.h>

#define QUERY_MAX 4608 /* bytes of one decoded value */

static int finish_import(struct req *r, struct err *e)
{
    struct jw w;
    if (states_reply_record(r, 201, &w, e) < 0)
        return e->code;
    write_state(&w, NULL, &states_call_of(r)->states[0]);
    return 0;
}

static const struct task import_task = {states_no_record, states_no_end, finish_import, NULL,
                                        false};

/* The value of a query parameter as a JSON string in o. */
static int query_text(struct req *r, const char *name, json_t *o, struct err *e)
{
    char value[QUERY_MAX];
    bool found;
    int rc = req_query(r, name, value, sizeof value, &found, e);
    if (rc < 0 || !found)
        return rc;
    if (!utf8_valid(value, strlen(value)))
        return err_set_param(e, ERR_INVALID, name, "%s is not UTF-8", name);
    return json_object_set_new(o, name, json_string(value)) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for a request");
}

/* tags=a,b: as an array. */
static int split_tags(json_t *o, struct err *e)
{
    const char *s = json_string_value(json_object_get(o, "tags"));
    json_t *list = s ? json_array() : NULL;
    if (!s)
        return 0;
    int rc = list ? 0 : -1;
    while (rc == 0) {
        size_t n = strcspn(s, ",");
        rc = json_array_append_new(list, json_stringn(s, n));
        s += n;
        if (!*s++)
            break;
    }
    rc = rc < 0 ? rc : json_object_set(o, "tags", list);
    json_decref(list);
    return rc < 0 ? err_set(e, ERR_NOMEM, "no memory for the tags") : 0;
}

/* The query says what a JSON body would say elsewhere, and is read as such. */
static int decode_query(struct req *r, json_t *o, struct state_call *c, struct err *e)
{
    static const char *const names[] = {"name",        "model",       "if_exists", "tags",
                                        "description", "orientation", "from"};
    const char *orientation = NULL, *from = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (query_text(r, names[i], o, e) < 0)
            return e->code;
    if (split_tags(o, e) < 0 || !(c->model = prompt_model(r, o, e)) ||
        prompt_state_ref(o, "name", false, &c->ref, e) < 0 ||
        prompt_if_exists(o, &c->write.new_version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0 ||
        decode_word(o, "orientation", &orientation, e) < 0 || decode_word(o, "from", &from, e) < 0)
        return e->code;
    c->from_model = from && !strcmp(from, "model");
    if (from && !c->from_model)
        return err_set_param(e, ERR_INVALID, "from", "from is not \"model\"");
    if (c->from_model && !c->model->has_time_state)
        return err_set_param(e, ERR_INVALID, "from", "the file of the model %s holds no state",
                             c->model->name);
    if (!c->ref)
        return err_set_param(e, ERR_INVALID, "name", "name is missing: it stands in the query");
    if (orientation && !(c->orientation = strdup(orientation)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    return 0;
}

int handle_state_import(struct req *r, struct err *e)
{
    struct state_call *c = states_call(STATE_IMPORT, e);
    json_t *o = c ? json_object() : NULL;
    if (!c)
        return e->code;
    int rc = o ? decode_query(r, o, c, e) : err_set(e, ERR_NOMEM, "no memory for a request");
    json_decref(o);
    if (rc == 0 && !c->from_model == !r->body.len)
        rc = c->from_model
                 ? err_set_param(e, ERR_INVALID, "from", "with from=model there is no body")
                 : err_set(e, ERR_INVALID,
                           "the body is empty: the bytes of a state file are wanted");
    if (rc == 0)
        rc = precondition_key(r, &c->write, e);
    if (rc == 0)
        c->data = req_take_body(r, &c->data_bytes);
    return states_submit(r, c, &import_task, rc, e);
}
