/* A job as JSON: what the API shows is what the store keeps. */
#include "daemon/job_impl.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[JOB_STATUSES] = {
    [JOB_QUEUED] = "queued", [JOB_RUNNING] = "running",     [JOB_SUCCEEDED] = "succeeded",
    [JOB_FAILED] = "failed", [JOB_CANCELLED] = "cancelled", [JOB_INTERRUPTED] = "interrupted",
};

const char *job_status_word(enum job_status s)
{
    return words[s];
}

static json_t *time_or_null(int64_t ms)
{
    return ms ? json_integer(ms / 1000) : json_null();
}

static json_t *text_or_null(const char *json)
{
    json_t *o = json ? json_loads(json, 0, NULL) : NULL;
    return o ? o : json_null();
}

static json_t *error_or_null(const struct err *e)
{
    if (!e->code)
        return json_null();
    return json_pack("{s:s, s:s, s:o, s:s}", "message", e->msg, "type", err_type_name(e->code),
                     "param", e->param[0] ? json_string(e->param) : json_null(), "code",
                     err_code_name(e->code));
}

static json_t *build(const struct job *j)
{
    double part = j->steps ? (double)j->step / (double)j->steps : 0;
    bool eta = j->status == JOB_RUNNING && isfinite(j->eta_s);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:f, s:I, s:o, s:o, s:b, s:b, s:I, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o}",
        "id", j->id, "object", "job", "kind", j->kind->name, "status", words[j->status], "progress",
        j->status == JOB_SUCCEEDED ? 1 : part, "step", (json_int_t)j->step, "total_steps",
        j->steps ? json_integer((json_int_t)j->steps) : json_null(), "eta_seconds",
        eta ? json_real(ceil(j->eta_s)) : json_null(), "cancel_requested", j->cancel, "resumed",
        j->resumed, "attempts", (json_int_t)j->attempts, "created", time_or_null(j->created_ms),
        "started", time_or_null(j->started_ms), "ended", time_or_null(j->ended_ms), "plan",
        text_or_null(j->plan), "metrics", text_or_null(j->metrics), "result",
        text_or_null(j->result), "error", error_or_null(&j->err));
}

/* For people: a number of up to 15 digits is shown as it was written. */
#define SHOWN 15
/* For us: every number comes back as it was. */
#define EXACT 17

static char *dump(const json_t *v, int digits)
{
    return json_is_object(v) ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(digits)) : NULL;
}

char *job_json(const struct job *j)
{
    json_t *o = build(j);
    char *text = dump(o, SHOWN);
    json_decref(o);
    return text;
}

char *job_record(const struct job *j)
{
    json_t *o = build(j);
    if (o) {
        json_object_set_new(o, "request", text_or_null(j->request));
        json_object_set_new(o, "killed", json_integer((json_int_t)j->killed));
    }
    char *text = dump(o, EXACT);
    json_decref(o);
    return text;
}

char *job_shown(const char *record)
{
    json_t *o = json_loads(record, 0, NULL);
    json_object_del(o, "request");
    json_object_del(o, "killed");
    char *text = dump(o, SHOWN);
    json_decref(o);
    return text;
}

struct store_item job_item(const struct job *j, const char *json)
{
    struct store_item i = {.kind = STORE_JOB, .meta = json};
    snprintf(i.name, sizeof i.name, "%s", j->id);
    snprintf(i.type, sizeof i.type, "%s", j->kind->name);
    snprintf(i.status, sizeof i.status, "%s", words[j->status]);
    return i;
}

int job_read(struct service *s, const struct item_info *i, struct job **out, struct err *e)
{
    json_t *o = i->meta ? json_loads(i->meta, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const struct job_kind *k = job_kind_find(i->type);
    char *request = dump(json_object_get(o, "request"), EXACT);
    int rc = o && request
                 ? 0
                 : err_set(e, ERR_STATE_CORRUPT, "the record of the job %s is damaged", i->name);
    if (rc == 0 && !k)
        rc = err_set(e, ERR_UNSUPPORTED, "this program has no jobs of the kind %s", i->type);
    struct job *j = rc == 0 ? job_new(s, k, request) : NULL;
    if (rc == 0 && !j)
        rc = err_set(e, ERR_NOMEM, "no memory for a job");
    if (j) {
        snprintf(j->id, sizeof j->id, "%.39s", i->name);
        j->seq = i->seq;
        j->created_ms = i->created_ms;
        j->attempts = (uint64_t)json_integer_value(json_object_get(o, "attempts"));
        j->killed = (uint64_t)json_integer_value(json_object_get(o, "killed"));
        j->step = (uint64_t)json_integer_value(json_object_get(o, "step"));
        j->steps = (uint64_t)json_integer_value(json_object_get(o, "total_steps"));
        j->started_ms = json_integer_value(json_object_get(o, "started")) * 1000;
        j->cancel = json_is_true(json_object_get(o, "cancel_requested"));
        j->metrics = dump(json_object_get(o, "metrics"), EXACT);
        j->plan = dump(json_object_get(o, "plan"), EXACT);
    }
    free(request);
    json_decref(o);
    *out = j;
    return rc;
}
