/* POST /v1/states (bake), GET /v1/states (list), GET and DELETE /v1/states/{ref}. */
#include "api/prompt.h"
#include "api/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TAGS      32
#define MAX_TAG_BYTES 128

static struct state_call *call_of(struct req *r)
{
    return (struct state_call *)(void *)r->sources[0].call;
}

static void no_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)r;
    (void)source;
    (void)record;
    (void)bytes;
}

static int no_end(struct req *r, size_t source, struct err *e)
{
    (void)r;
    (void)source;
    (void)e;
    return 0;
}

/* ---- answers ---- */

static int want_one(const struct state_call *c, struct err *e)
{
    return c->n_states == 1 ? 0 : err_set(e, ERR_INTERNAL, "the store gave no record");
}

static int finish_create(struct req *r, struct err *e)
{
    const struct state_call *c = call_of(r);
    struct jw w = {&r->reply.body, false};
    if (want_one(c, e) < 0)
        return e->code;
    snprintf(r->reply.location, sizeof r->reply.location, "/v1/states/%s@%llu", c->states[0].name,
             (unsigned long long)c->states[0].version);
    req_reply_json(r, 201);
    jw_object(&w, NULL);
    write_state_fields(&w, &c->states[0]);
    write_timings(&w, "timings", &c->timings);
    jw_end_object(&w);
    return 0;
}

static int finish_get(struct req *r, struct err *e)
{
    const struct state_call *c = call_of(r);
    struct jw w = {&r->reply.body, false};
    if (want_one(c, e) < 0)
        return e->code;
    req_reply_json(r, 200);
    write_state(&w, NULL, &c->states[0]);
    return 0;
}

static int finish_delete(struct req *r, struct err *e)
{
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "id", r->params[0]);
    jw_string(&w, "object", "state.deleted");
    jw_bool(&w, "deleted", true);
    jw_end_object(&w);
    return 0;
}

static void write_page_ref(struct jw *w, const char *key, const struct state_info *s)
{
    char ref[160];
    snprintf(ref, sizeof ref, "%s@%llu", s->name, (unsigned long long)s->version);
    jw_string(w, key, ref);
}

static int finish_list(struct req *r, struct err *e)
{
    const struct state_call *c = call_of(r);
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_states; i++)
        write_state(&w, NULL, &c->states[i]);
    jw_end_array(&w);
    if (c->n_states) {
        write_page_ref(&w, "first_id", &c->states[0]);
        write_page_ref(&w, "last_id", &c->states[c->n_states - 1]);
    } else {
        jw_null(&w, "first_id");
        jw_null(&w, "last_id");
    }
    jw_bool(&w, "has_more", c->has_more);
    jw_end_object(&w);
    return 0;
}

static const struct task create_task = {no_record, no_end, finish_create, NULL, false};
static const struct task get_task = {no_record, no_end, finish_get, NULL, false};
static const struct task delete_task = {no_record, no_end, finish_delete, NULL, false};
static const struct task list_task = {no_record, no_end, finish_list, NULL, false};

/* Submits the call and waits for it; takes over the reference. */
static int submit(struct req *r, struct state_call *c, const struct task *t, struct err *e)
{
    if (service_state(r->svc, c, e) < 0) {
        call_unref(&c->call);
        return e->code;
    }
    req_add_source(r, &c->call);
    req_await(r, t, NULL);
    return 0;
}

/* ---- POST /v1/states ---- */

static int decode_tags(const json_t *o, char **out, struct err *e)
{
    const json_t *v = decode_field(o, "tags");
    if (!v)
        return 0;
    if (!json_is_array(v) || json_array_size(v) > MAX_TAGS)
        return err_set_param(e, ERR_INVALID, "tags", "tags is not an array of at most %d strings",
                             MAX_TAGS);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *t = json_array_get(v, i);
        if (!json_is_string(t) || !json_string_length(t) || json_string_length(t) > MAX_TAG_BYTES ||
            strlen(json_string_value(t)) != json_string_length(t))
            return err_set_param(e, ERR_INVALID, "tags",
                                 "tags[%zu] is not a string of 1 to %d bytes", i, MAX_TAG_BYTES);
    }
    *out = json_dumps(v, JSON_COMPACT);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for the tags");
}

static int decode_source(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    const json_t *text = decode_field(o, "text"), *tokens = decode_field(o, "tokens");
    if (text && tokens)
        return err_set_param(e, ERR_INVALID, "tokens",
                             "both text and tokens are given: one is wanted");
    if (!text && !tokens)
        return err_set_param(e, ERR_INVALID, "text", "neither text nor tokens is given");
    if (text && !json_is_string(text))
        return err_set_param(e, ERR_INVALID, "text", "text is not a string");
    if (tokens && !json_is_array(tokens))
        return err_set_param(e, ERR_INVALID, "tokens", "tokens is not an array of token ids");
    int rc = prompt_ids(r, c->model, text ? text : tokens, text ? "text" : "tokens", &c->prompt,
                        &c->n_prompt, e);
    if (rc == 0 && !c->n_prompt)
        rc = err_set_param(e, ERR_INVALID, text ? "text" : "tokens", "there is nothing to read");
    return rc;
}

static int decode_create(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    if (!(c->model = prompt_model(r, o, e)) || prompt_state_ref(o, "name", false, &c->ref, e) < 0 ||
        prompt_state_ref(o, "base_state", true, &c->base_state, e) < 0 ||
        prompt_if_exists(o, &c->new_version, e) < 0 || decode_tags(o, &c->tags, e) < 0)
        return e->code;
    if (!c->ref)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    return decode_source(r, o, c, e);
}

int handle_state_create(struct req *r, struct err *e)
{
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    struct state_call *c = state_call_new(STATE_BAKE);
    int rc = c ? decode_create(r, o, c, e) : err_set(e, ERR_NOMEM, "no memory for a state");
    json_decref(o);
    if (rc == 0)
        return submit(r, c, &create_task, e);
    call_unref(c ? &c->call : NULL);
    return rc;
}

/* ---- the others ---- */

static int by_ref(struct req *r, enum state_op op, const struct task *t, struct err *e)
{
    char name[129];
    uint64_t version;
    if (state_ref_parse(r->params[0], name, &version, e) < 0) {
        snprintf(e->param, sizeof e->param, "ref");
        return e->code;
    }
    struct state_call *c = state_call_new(op);
    if (!c || !(c->ref = strdup(r->params[0]))) {
        call_unref(c ? &c->call : NULL);
        return err_set(e, ERR_NOMEM, "no memory for a request");
    }
    return submit(r, c, t, e);
}

int handle_state_get(struct req *r, struct err *e)
{
    return by_ref(r, STATE_GET, &get_task, e);
}

int handle_state_delete(struct req *r, struct err *e)
{
    return by_ref(r, STATE_DELETE, &delete_task, e);
}

static int query_limit(struct req *r, size_t *limit, struct err *e)
{
    char text[16];
    bool found;
    if (req_query(r, "limit", text, sizeof text, &found, e) < 0)
        return e->code;
    *limit = 100;
    if (!found)
        return 0;
    size_t n = strspn(text, "0123456789");
    unsigned long v = n && n < 5 && !text[n] ? strtoul(text, NULL, 10) : 0;
    if (v < 1 || v > 1000)
        return err_set_param(e, ERR_INVALID, "limit", "limit is not a number from 1 to 1000");
    *limit = v;
    return 0;
}

/* A name or the beginning of one; a version behind it (a page's last_id) is left out. */
static int query_name(struct req *r, const char *name, char **out, struct err *e)
{
    char text[160];
    bool found;
    if (req_query(r, name, text, sizeof text, &found, e) < 0)
        return e->code;
    text[strcspn(text, "@")] = 0;
    if (strlen(text) > 128)
        return err_set_param(e, ERR_INVALID, name, "%s is longer than a state's name", name);
    *out = strdup(text);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
}

int handle_state_list(struct req *r, struct err *e)
{
    struct state_call *c = state_call_new(STATE_LIST);
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    if (query_limit(r, &c->limit, e) < 0 || query_name(r, "after", &c->after, e) < 0 ||
        query_name(r, "prefix", &c->prefix, e) < 0) {
        call_unref(&c->call);
        return e->code;
    }
    return submit(r, c, &list_task, e);
}
