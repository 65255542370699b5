/* POST /v1/states/generations: states made by a diffuser from a condition. */
#include "api/diffusion.h"
#include "api/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARAMS_BYTES ((size_t)64 << 10) /* as the record keeps them */

/* What says how the states are made, in the order of the answer. */
static const char *const params[] = {"condition", "negative_condition", "num_inference_steps",
                                     "scheduler", "products",           "guidance_scale",
                                     "eta",       "seed"};

static int keep_params(const json_t *o, struct state_generation *c, struct err *e)
{
    json_t *p = json_object();
    for (size_t i = 0; p && i < sizeof params / sizeof params[0]; i++) {
        json_t *v = decode_field(o, params[i]);
        if (v && json_object_set(p, params[i], v) < 0) {
            json_decref(p);
            p = NULL;
        }
    }
    c->params_json = p ? json_dumps(p, JSON_COMPACT) : NULL;
    json_decref(p);
    if (!c->params_json)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    if (strlen(c->params_json) > MAX_PARAMS_BYTES)
        return err_set_param(e, ERR_INVALID, "condition",
                             "the conditions are longer than %zu bytes: name them",
                             MAX_PARAMS_BYTES);
    return 0;
}

static int decode_generation(struct req *r, json_t *o, struct state_generation *c, struct err *e)
{
    int64_t n = 1, first = 0;
    if (!(c->errand.model = prompt_model(r, o, e)) ||
        prompt_state_ref(o, "name", false, &c->name, e) < 0 ||
        prompt_if_exists(o, &c->write.new_version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0 ||
        decode_int(o, "num_states", 1, GENERATE_MAX_STATES, &n, e) < 0 ||
        decode_int(o, "first", 0, INT32_MAX, &first, e) < 0)
        return e->code;
    if (!c->name)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    c->n_states = (size_t)n;
    c->first = (uint32_t)first;
    int rc = diffusion_decode(r, c->errand.model, o, "", false, &c->diffusion, e);
    return rc < 0 ? rc : keep_params(o, c, e);
}

static int write_info(struct jw *w, const struct state_generation *c, struct err *e)
{
    char *text = generation_info(c);
    if (!text)
        return err_set(e, ERR_NOMEM, "no memory for an answer");
    jw_raw(w, "info", text, strlen(text));
    free(text);
    return 0;
}

static int finish_generation(struct req *r, struct err *e)
{
    const struct state_generation *c = (const struct state_generation *)(void *)r->sources[0].call;
    struct jw w = {&r->reply.body, false};
    int rc = 0;
    states_reply_info(r, 201, &c->saved[0], c->replayed);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_states; i++)
        write_state(&w, NULL, &c->saved[i]);
    jw_end_array(&w);
    if (!c->replayed) /* the record's origin says it */
        rc = write_info(&w, c, e);
    jw_end_object(&w);
    return rc;
}

/* Is it to be a job? As the request has it, or where it does not say, as long as it is. */
static int decode_background(struct req *r, const json_t *o, const struct state_generation *c,
                             bool *background, struct err *e)
{
    *background = service_generation_is_long(r->svc, c);
    if (decode_bool(o, "background", background, e) < 0)
        return e->code;
    return *background && c->write.key
               ? err_set_param(e, ERR_INVALID, "Idempotency-Key",
                               "a job takes no idempotency key: \"background\": false waits for "
                               "the states")
               : 0;
}

static int decode_all(struct req *r, struct state_generation *c, bool *background, struct err *e)
{
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode_generation(r, o, c, e) : e->code;
    if (rc == 0)
        rc = precondition_key(r, &c->write, e);
    if (rc == 0)
        rc = decode_background(r, o, c, background, e);
    json_decref(o);
    return rc;
}

int handle_state_generations(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_generation, NULL,
                                     false};
    struct state_generation *c = state_generation_new();
    bool background = false;
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    int rc = decode_all(r, c, &background, e);
    if (rc < 0 || !background)
        return errands_submit(r, &c->errand, &task, rc, e);
    char *request = generation_request(c);
    call_unref(&c->errand.call);
    return jobs_create_take(r, request, true, e);
}
