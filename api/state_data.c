/* GET /v1/states/{ref}/data: the state as a safetensors file.
 *
 * First the record is asked for, which tells the entity tag (the file's SHA-256) and the length; then,
 * unless the client has the file already, the file itself, checked as a whole before any of it is
 * sent. */
#include "api/etag.h"
#include "api/json.h"
#include "api/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct data {
    char etag[68];
    int status; /* 200, 206, 304, 416 */
    uint64_t from, n, total;
};

static struct state_call *call_of(struct req *r, size_t source)
{
    return (struct state_call *)(void *)r->sources[source].call;
}

static void no_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)r;
    (void)source;
    (void)record;
    (void)bytes;
}

static int ask(struct req *r, enum state_op op, const char *ref, struct err *e)
{
    struct state_call *c = state_call_new(op);
    int rc = c && (c->ref = strdup(ref)) ? service_state(r->svc, c, e)
                                         : err_set(e, ERR_NOMEM, "no memory for a request");
    if (rc == 0 && !req_add_source(r, &c->call))
        rc = err_set(e, ERR_INTERNAL, "too many calls");
    if (rc < 0)
        call_unref(c ? &c->call : NULL);
    return rc;
}

/* What is to be sent of a file with this tag and length. */
static void choose(struct req *r, struct data *d)
{
    const char *if_range = req_header(r, "If-Range");
    d->n = d->total;
    d->status = 200;
    if (etag_listed(req_header(r, "If-None-Match"), d->etag, true)) {
        d->status = 304;
        return;
    }
    /* A HEAD has no ranges; a tag (or a date) of other bytes asks for the whole. */
    if (r->head || (if_range && strcmp(if_range, d->etag) != 0))
        return;
    switch (range_parse(req_header(r, "Range"), d->total, &d->from, &d->n)) {
    case RANGE_PART:
        d->status = 206;
        break;
    case RANGE_BEYOND:
        d->status = 416;
        break;
    case RANGE_NONE:
        break;
    }
}

static int data_ended(struct req *r, size_t source, struct err *e)
{
    const struct state_call *c = call_of(r, source);
    struct data *d = r->data;
    char ref[160];
    if (source > 0)
        return 0;
    if (c->n_states != 1)
        return err_set(e, ERR_INTERNAL, "the store gave no record");
    const struct state_info *i = &c->states[0];
    snprintf(d->etag, sizeof d->etag, "\"%s\"", i->sha256);
    d->total = i->bytes;
    choose(r, d);
    if (d->status != 200 && d->status != 206)
        return 0;
    snprintf(ref, sizeof ref, "%s@%llu", i->name, (unsigned long long)i->version);
    return ask(r, STATE_DATA, ref, e);
}

static void reply_beyond(struct req *r, const struct data *d)
{
    struct err e;
    err_set_param(&e, ERR_RANGE, "Range", "the file has %llu bytes: none of the range is there",
                  (unsigned long long)d->total);
    req_reply_json(r, err_http(e.code));
    req_reply_header(r, "Content-Range", "bytes */%llu", (unsigned long long)d->total);
    json_error_body(&r->reply.body, &e, r->id);
}

static int reply_bytes(struct req *r, const struct data *d, struct err *e)
{
    const struct state_call *c = call_of(r, 1);
    if (!c->data || c->data_bytes != d->total)
        return err_set(e, ERR_STATE_CORRUPT, "damaged: it has %zu bytes, recorded are %llu",
                       c->data_bytes, (unsigned long long)d->total);
    if (req_hold(r, c->data_bytes, e) < 0)
        return e->code;
    r->reply.still = (const char *)c->data + d->from;
    r->reply.still_bytes = (size_t)d->n;
    r->reply.still_held = true;
    return 0;
}

static int data_finish(struct req *r, struct err *e)
{
    const struct state_info *i = &call_of(r, 0)->states[0];
    const struct data *d = r->data;
    if (d->status == 416) {
        reply_beyond(r, d);
        return 0;
    }
    r->reply.status = d->status;
    r->reply.type = "application/octet-stream";
    r->reply.cache = "private, no-cache";
    req_reply_header(r, "ETag", "%s", d->etag);
    req_reply_header(r, "Accept-Ranges", "bytes");
    if (d->status == 304) {
        r->reply.still = "";
        return 0;
    }
    req_reply_header(r, "Content-Disposition", "attachment; filename=\"%s@%llu.safetensors\"",
                     i->name, (unsigned long long)i->version);
    if (d->status == 206)
        req_reply_header(r, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)d->from,
                         (unsigned long long)(d->from + d->n - 1), (unsigned long long)d->total);
    return reply_bytes(r, d, e);
}

static const struct task data_task = {no_record, data_ended, data_finish, free, false};

int handle_state_data(struct req *r, struct err *e)
{
    char name[129];
    uint64_t version;
    if (state_ref_parse(r->params[0], name, &version, e) < 0) {
        snprintf(e->param, sizeof e->param, "ref");
        return e->code;
    }
    struct data *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    req_await(r, &data_task, d);
    return ask(r, STATE_GET, r->params[0], e);
}
