/* POST /admin/backup: the store's copy of itself. */
#include "api/json.h"
#include "api/route.h"

#include <string.h>

static void backup_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)r;
    (void)source;
    (void)record;
    (void)bytes;
}

static int backup_ended(struct req *r, size_t source, struct err *e)
{
    (void)r;
    (void)source;
    (void)e;
    return 0;
}

static int backup_finish(struct req *r, struct err *e)
{
    const struct backup_call *c = (const struct backup_call *)r->sources[0].call;
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 201);
    jw_object(&w, NULL);
    jw_string(&w, "object", "backup");
    jw_string(&w, "name", c->name);
    jw_uint(&w, "bytes", c->bytes);
    jw_end_object(&w);
    return 0;
}

static const struct task backup_task = {backup_record, backup_ended, backup_finish, NULL, false};

int handle_backup(struct req *r, struct err *e)
{
    const char *name = NULL;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    struct backup_call *c = o ? backup_call_new() : NULL;
    if (o && !c)
        err_set(e, ERR_NOMEM, "no memory for a backup");
    if (c) {
        req_add_source(r, &c->call);
        req_await(r, &backup_task, NULL);
        if (decode_word(o, "name", &name, e) == 0 && name && !(c->name = strdup(name)))
            err_set(e, ERR_NOMEM, "no memory for a backup");
        if (!e->code)
            service_backup(r->svc, c, e);
    }
    json_decref(o);
    return e->code;
}
