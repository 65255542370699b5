/* The states as a resource: list, versions, one record, its change and its end. */
#include "api/states.h"

#include "daemon/base/clock.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TAGS              32
#define MAX_TAG_BYTES         128
#define MAX_DESCRIPTION_BYTES 4096
#define MAX_EXPIRES_AT        INT64_C(253402300799) /* the end of the year 9999 */
#define MAX_EXPIRES_IN        INT64_C(3153600000)   /* 100 years */

/* ---- calls ---- */

struct state_call *states_call(enum state_op op, struct err *e)
{
    struct state_call *c = state_call_new(op);
    if (!c)
        err_set(e, ERR_NOMEM, "no memory for a request");
    return c;
}

struct state_call *states_call_of_path(struct req *r, enum state_op op, bool versioned,
                                       struct err *e)
{
    char name[129];
    uint64_t version = 0;
    int rc = state_ref_parse(r->params[0], name, &version, e);
    if (rc == 0 && version && !versioned)
        rc = err_set(e, ERR_INVALID, "this path takes a state's name without a version");
    if (rc < 0) {
        snprintf(e->param, sizeof e->param, versioned ? "ref" : "name");
        return NULL;
    }
    struct state_call *c = states_call(op, e);
    if (!c || (c->ref = strdup(r->params[0])))
        return c;
    call_unref(&c->call);
    err_set(e, ERR_NOMEM, "no memory for a request");
    return NULL;
}

struct state_call *states_call_of(struct req *r)
{
    return (struct state_call *)(void *)r->sources[0].call;
}

int states_submit(struct req *r, struct state_call *c, const struct task *t, int rc, struct err *e)
{
    if (rc == 0)
        rc = service_state(r->svc, c, e);
    return req_follow(r, &c->call, t, rc);
}

/* ---- fields ---- */

static int decode_description(const json_t *v, char **out, struct err *e)
{
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    if (!s || n > MAX_DESCRIPTION_BYTES || strlen(s) != n)
        return err_set_param(e, ERR_INVALID, "description",
                             "description is not a string of at most %d bytes without NUL",
                             MAX_DESCRIPTION_BYTES);
    *out = strdup(s);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a description");
}

static int decode_tags(const json_t *v, char **out, struct err *e)
{
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

static int decode_expiry(const json_t *o, struct state_change *c, struct err *e)
{
    int64_t at = 0, in = 0;
    if (decode_int(o, "expires_at", 1, MAX_EXPIRES_AT, &at, e) < 0 ||
        decode_int(o, "expires_in", 1, MAX_EXPIRES_IN, &in, e) < 0)
        return e->code;
    if (at && in)
        return err_set_param(e, ERR_INVALID, "expires_in",
                             "both expires_at and expires_in are given: one is wanted");
    if (at || in) {
        c->set_expires = true;
        c->expires_ms = at ? at * 1000 : clock_wall_ms() + in * 1000;
    }
    return 0;
}

/* null in a patch. */
static int take_away(const json_t *o, struct state_change *c, struct err *e)
{
    if (json_is_null(json_object_get(o, "description")) && !(c->description = strdup("")))
        return err_set(e, ERR_NOMEM, "no memory for a description");
    if (json_is_null(json_object_get(o, "tags")) && !(c->tags = strdup("[]")))
        return err_set(e, ERR_NOMEM, "no memory for the tags");
    if (json_is_null(json_object_get(o, "pinned")))
        c->set_pinned = true;
    if (json_is_null(json_object_get(o, "expires_at")) && !c->set_expires)
        c->set_expires = true;
    return 0;
}

int states_decode_change(const json_t *o, bool patch, struct state_change *c, struct err *e)
{
    const json_t *description = decode_field(o, "description"), *tags = decode_field(o, "tags");
    if ((description && decode_description(description, &c->description, e) < 0) ||
        (tags && decode_tags(tags, &c->tags, e) < 0) ||
        decode_bool(o, "pinned", &c->pinned, e) < 0 || decode_expiry(o, c, e) < 0)
        return e->code;
    c->set_pinned = decode_field(o, "pinned") != NULL;
    return patch ? take_away(o, c, e) : 0;
}

/* ---- answers ---- */

void states_no_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)r;
    (void)source;
    (void)record;
    (void)bytes;
}

int states_no_end(struct req *r, size_t source, struct err *e)
{
    (void)r;
    (void)source;
    (void)e;
    return 0;
}

void states_reply_info(struct req *r, int status, const struct state_info *s, bool replayed)
{
    if (status == 201)
        snprintf(r->reply.location, sizeof r->reply.location, "/v1/states/%s@%llu", s->name,
                 (unsigned long long)s->version);
    req_reply_json(r, status);
    if (replayed)
        req_reply_header(r, "Idempotent-Replayed", "true");
    precondition_set_etag(r, s);
}

int states_reply_record(struct req *r, int status, struct jw *w, struct err *e)
{
    const struct state_call *c = states_call_of(r);
    if (c->n_states != 1)
        return err_set(e, ERR_INTERNAL, "the store gave no record");
    *w = (struct jw){&r->reply.body, false};
    states_reply_info(r, status, &c->states[0], c->replayed);
    return 0;
}

static int finish_get(struct req *r, struct err *e)
{
    struct jw w;
    if (states_reply_record(r, 200, &w, e) < 0)
        return e->code;
    const struct state_info *s = &states_call_of(r)->states[0];
    if (precondition_not_modified(r, s))
        r->reply.status = 304;
    else
        write_state(&w, NULL, s);
    return 0;
}

static int finish_patch(struct req *r, struct err *e)
{
    struct jw w;
    if (states_reply_record(r, 200, &w, e) < 0)
        return e->code;
    write_state(&w, NULL, &states_call_of(r)->states[0]);
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
    const struct state_call *c = states_call_of(r);
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

static const struct task get_task = {states_no_record, states_no_end, finish_get, NULL, false};
static const struct task patch_task = {states_no_record, states_no_end, finish_patch, NULL, false};
static const struct task delete_task = {states_no_record, states_no_end, finish_delete, NULL,
                                        false};
static const struct task list_task = {states_no_record, states_no_end, finish_list, NULL, false};

/* ---- one record ---- */

int handle_state_get(struct req *r, struct err *e)
{
    struct state_call *c = states_call_of_path(r, STATE_GET, true, e);
    return c ? states_submit(r, c, &get_task, 0, e) : e->code;
}

int handle_state_delete(struct req *r, struct err *e)
{
    struct state_call *c = states_call_of_path(r, STATE_DELETE, true, e);
    if (!c)
        return e->code;
    int rc = precondition_if_match(r, &c->write.if_revision, e);
    return states_submit(r, c, &delete_task, rc, e);
}

static int decode_patch(const json_t *o, struct state_change *c, struct err *e)
{
    if (states_decode_change(o, true, c, e) < 0)
        return e->code;
    if (!c->description && !c->tags && !c->set_pinned && !c->set_expires)
        return err_set(e, ERR_INVALID,
                       "nothing to change: none of description, tags, pinned, expires_at and "
                       "expires_in is given");
    return 0;
}

int handle_state_patch(struct req *r, struct err *e)
{
    struct state_call *c = states_call_of_path(r, STATE_PATCH, true, e);
    if (!c)
        return e->code;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode_patch(o, &c->change, e) : e->code;
    json_decref(o);
    if (rc == 0)
        rc = precondition_if_match(r, &c->write.if_revision, e);
    return states_submit(r, c, &patch_task, rc, e);
}

/* ---- lists ---- */

int states_query_limit(struct req *r, size_t min, size_t *limit, struct err *e)
{
    char text[16];
    bool found;
    if (req_query(r, "limit", text, sizeof text, &found, e) < 0)
        return e->code;
    *limit = 100;
    if (!found)
        return 0;
    size_t n = strspn(text, "0123456789");
    unsigned long v = n && n < 5 && !text[n] ? strtoul(text, NULL, 10) : ULONG_MAX;
    if (v < min || v > 1000)
        return err_set_param(e, ERR_INVALID, "limit", "limit is not a number from %zu to 1000",
                             min);
    *limit = v;
    return 0;
}

static int query_text(struct req *r, const char *name, size_t most, char **out, struct err *e)
{
    char text[160];
    bool found;
    if (req_query(r, name, text, sizeof text, &found, e) < 0)
        return e->code;
    if (strlen(text) > most)
        return err_set_param(e, ERR_INVALID, name, "%s is longer than %zu bytes", name, most);
    *out = strdup(text);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
}

int handle_state_list(struct req *r, struct err *e)
{
    struct state_call *c = states_call(STATE_LIST, e);
    if (!c)
        return e->code;
    int rc = states_query_limit(r, 1, &c->limit, e);
    if (rc == 0)
        rc = query_text(r, "after", 150, &c->after, e);
    if (rc == 0) { /* the last_id of a page is a name with its version */
        c->after[strcspn(c->after, "@")] = 0;
        rc = query_text(r, "prefix", 128, &c->prefix, e);
    }
    if (rc == 0)
        rc = query_text(r, "tag", MAX_TAG_BYTES, &c->tag, e);
    if (rc == 0)
        rc = query_text(r, "model", 128, &c->of_model, e);
    return states_submit(r, c, &list_task, rc, e);
}

/* A version, alone or as the last_id of a page. */
static int query_before(struct req *r, uint64_t *before, struct err *e)
{
    char text[160], name[129], ref[160];
    bool found;
    if (req_query(r, "after", text, sizeof text, &found, e) < 0)
        return e->code;
    if (!found)
        return 0;
    const char *at = strchr(text, '@');
    snprintf(ref, sizeof ref, "v@%.30s", at ? at + 1 : text);
    return state_ref_parse(ref, name, before, e) == 0
               ? 0
               : err_set_param(e, ERR_INVALID, "after", "after is not a version");
}

int handle_state_versions(struct req *r, struct err *e)
{
    struct state_call *c = states_call_of_path(r, STATE_VERSIONS, false, e);
    if (!c)
        return e->code;
    int rc = states_query_limit(r, 1, &c->limit, e);
    if (rc == 0)
        rc = query_before(r, &c->before, e);
    return states_submit(r, c, &list_task, rc, e);
}
