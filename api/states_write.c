/* What adds versions of states: POST /v1/states, .../append, .../fork, .../rollback. */
#include "api/adjustment.h"
#include "api/messages.h"
#include "api/sse.h"
#include "api/states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers ---- */

static void write_read(struct jw *w, const struct state_call *c)
{
    jw_object(w, NULL);
    write_state_fields(w, &c->states[0]);
    write_timings(w, "timings", &c->timings);
    jw_end_object(w);
}

static int finish_read(struct req *r, struct err *e)
{
    const struct state_call *c = states_call_of(r);
    struct jw w;
    if (states_reply_record(r, 201, &w, e) < 0)
        return e->code;
    write_read(&w, c);
    return 0;
}

static int finish_copy(struct req *r, struct err *e)
{
    struct jw w;
    if (states_reply_record(r, 201, &w, e) < 0)
        return e->code;
    write_state(&w, NULL, &states_call_of(r)->states[0]);
    return 0;
}

/* A stream: events of progress, then the record. */
static void stream_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    struct prompt_progress p;
    struct jw w = {&r->out, false};
    (void)source;
    memcpy(&p, record, bytes < sizeof p ? bytes : sizeof p);
    sse_begin(&r->out);
    jw_object(&w, NULL);
    jw_object(&w, "prompt_progress");
    jw_uint(&w, "total", p.total);
    jw_uint(&w, "cache", p.cache);
    jw_uint(&w, "processed", p.processed);
    jw_number(&w, "time_ms", p.time_ms);
    jw_end_object(&w);
    jw_end_object(&w);
    sse_end(&r->out);
}

static int finish_stream(struct req *r, struct err *e)
{
    const struct state_call *c = states_call_of(r);
    struct jw w = {&r->out, false};
    if (c->n_states != 1)
        return err_set(e, ERR_INTERNAL, "the store gave no record");
    if (c->replayed) /* nothing was sent yet */
        req_reply_header(r, "Idempotent-Replayed", "true");
    sse_begin(&r->out);
    write_read(&w, c);
    sse_end(&r->out);
    sse_done(&r->out);
    return 0;
}

static const struct task stream_task = {stream_record, states_no_end, finish_stream, NULL, true};
static const struct task read_task = {states_no_record, states_no_end, finish_read, NULL, false};
static const struct task copy_task = {states_no_record, states_no_end, finish_copy, NULL, false};

/* ---- what they share ---- */

/* Decodes the body into c with `decode`, then the headers; submits. */
static int submit_body(struct req *r, struct state_call *c, const struct task *t,
                       int (*decode)(struct req *r, const json_t *o, struct state_call *c,
                                     struct err *e),
                       struct err *e)
{
    if (!c)
        return e->code;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode(r, o, c, e) : e->code;
    json_decref(o);
    if (rc == 0)
        rc = precondition_key(r, &c->write, e);
    return states_submit(r, c, c->progress ? &stream_task : t, rc, e);
}

/* The text of chat messages, without the beginning of an answer; behind a state it begins with the
 * template's separator. */
static int messages_ids(struct req *r, const json_t *v, struct state_call *c, struct err *e)
{
    struct buf text;
    bool continued;
    const struct messages_how how = {.follows = c->op == STATE_APPEND || c->base_state};
    buf_init(&text, MESSAGES_LIMIT);
    int rc = messages_render(v, &c->model->chat, how, &text, &continued, e);
    if (rc == 0)
        rc = service_tokenize(r->svc, c->model, text.data, text.len, &c->prompt, &c->n_prompt, e);
    buf_fini(&text);
    return rc;
}

/* What is to be read: one of text, tokens, messages. */
static int decode_source(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    const json_t *text = decode_field(o, "text"), *tokens = decode_field(o, "tokens");
    const json_t *messages = decode_field(o, "messages"), *ids = text ? text : tokens;
    const char *param = text ? "text" : tokens ? "tokens" : "messages";
    if ((text != NULL) + (tokens != NULL) + (messages != NULL) > 1)
        return err_set_param(e, ERR_INVALID, messages ? "messages" : "tokens",
                             "of text, tokens and messages one is wanted");
    if (!ids && !messages)
        return err_set_param(e, ERR_INVALID, "text", "none of text, tokens and messages is given");
    if (text && !json_is_string(text))
        return err_set_param(e, ERR_INVALID, "text", "text is not a string");
    if (tokens && !json_is_array(tokens))
        return err_set_param(e, ERR_INVALID, "tokens", "tokens is not an array of token ids");
    if (decode_bool(o, "stream", &c->progress, e) < 0 ||
        adjustment_decode(r, c->model, o, -1, &c->adjustment, e) < 0)
        return e->code;
    int rc = ids ? prompt_ids(r, c->model, ids, param, &c->prompt, &c->n_prompt, e)
                 : messages_ids(r, messages, c, e);
    if (rc == 0 && !c->n_prompt)
        rc = err_set_param(e, ERR_INVALID, param, "there is nothing to read");
    return rc;
}

/* ---- POST /v1/states ---- */

static int decode_create(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    if (!(c->model = prompt_model(r, o, e)) || prompt_state_ref(o, "name", false, &c->ref, e) < 0 ||
        prompt_state_ref(o, "base_state", true, &c->base_state, e) < 0 ||
        prompt_model_state(r, o, "base_state", &c->base_state, e) < 0 ||
        prompt_if_exists(o, &c->write.new_version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0)
        return e->code;
    if (!c->ref)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    return decode_source(r, o, c, e);
}

int handle_state_create(struct req *r, struct err *e)
{
    return submit_body(r, states_call(STATE_BAKE, e), &read_task, decode_create, e);
}

/* ---- POST .../append ---- */

static int decode_append(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    if (!(c->model = prompt_model(r, o, e)) || states_decode_change(o, false, &c->change, e) < 0 ||
        decode_source(r, o, c, e) < 0)
        return e->code;
    return precondition_if_match(r, &c->write.if_revision, e);
}

int handle_state_append(struct req *r, struct err *e)
{
    return submit_body(r, states_call_of_path(r, STATE_APPEND, false, e), &read_task, decode_append,
                       e);
}

/* ---- POST .../fork ---- */

static int decode_fork(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    if (prompt_state_ref(o, "name", false, &c->to, e) < 0 ||
        prompt_if_exists(o, &c->write.new_version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0)
        return e->code;
    if (!c->to)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    return precondition_if_match(r, &c->write.if_revision, e);
}

int handle_state_fork(struct req *r, struct err *e)
{
    return submit_body(r, states_call_of_path(r, STATE_FORK, true, e), &copy_task, decode_fork, e);
}

/* ---- POST .../rollback ---- */

static int decode_rollback(struct req *r, const json_t *o, struct state_call *c, struct err *e)
{
    int64_t version = 0;
    char ref[160];
    if (decode_int(o, "version", 1, INT64_MAX, &version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0)
        return e->code;
    if (!version)
        return err_set_param(e, ERR_INVALID, "version", "version is missing");
    snprintf(ref, sizeof ref, "%s@%lld", c->ref, (long long)version);
    free(c->ref);
    if (!(c->ref = strdup(ref)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    return precondition_if_match(r, &c->write.if_revision, e);
}

int handle_state_rollback(struct req *r, struct err *e)
{
    return submit_body(r, states_call_of_path(r, STATE_ROLLBACK, false, e), &copy_task,
                       decode_rollback, e);
}
