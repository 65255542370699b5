/* GET /v1/models, /v1/models/{id}: the models, and each named state as the id model@state, by which
 * clients that know nothing of states can choose one. */
#include "api/states.h"

#include <stdio.h>
#include <string.h>

/* One entry; s: the state that `id` names, or NULL. */
static void write_model(const struct req *r, struct jw *w, const char *id,
                        const struct model_info *m, const struct state_info *s)
{
    char ref[160];
    jw_object(w, NULL);
    jw_string(w, "id", id);
    jw_string(w, "object", "model");
    jw_int(w, "created", s ? s->created_ms / 1000 : m->created);
    jw_string(w, "owned_by", "dreamstate");
    write_model_meta(w, "meta", r->svc, m);
    if (s) {
        snprintf(ref, sizeof ref, "%s@%llu", s->name, (unsigned long long)s->version);
        jw_object(w, "state");
        jw_string(w, "ref", ref);
        jw_string(w, "description", s->description);
        jw_uint(w, "n_tokens", s->n_tokens);
        jw_end_object(w);
    }
    jw_end_object(w);
}

/* The model that goes on from a state: of its name if that has these weights, else any that has. */
static const struct model_info *model_of(struct req *r, const struct state_info *s)
{
    const struct model_info *models, *found = service_find_model(r->svc, s->model);
    size_t n = service_models(r->svc, &models);
    if (s->damaged)
        return NULL;
    if (found && !strcmp(found->fingerprint, s->fingerprint))
        return found;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(models[i].fingerprint, s->fingerprint))
            return &models[i];
    return NULL;
}

static void write_list(struct req *r, const struct state_call *c)
{
    const struct model_info *models, *m;
    size_t n = service_models(r->svc, &models);
    struct jw w = {&r->reply.body, false};
    char id[400];
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < n; i++)
        write_model(r, &w, models[i].name, &models[i], NULL);
    for (size_t i = 0; c && i < c->n_states; i++)
        if ((m = model_of(r, &c->states[i])) &&
            (size_t)snprintf(id, sizeof id, "%s@%s", m->name, c->states[i].name) < sizeof id)
            write_model(r, &w, id, m, &c->states[i]);
    jw_end_array(&w);
    jw_bool(&w, "has_more", c && c->has_more);
    jw_end_object(&w);
}

static int finish_list(struct req *r, struct err *e)
{
    (void)e;
    write_list(r, states_call_of(r));
    return 0;
}

static int finish_state(struct req *r, struct err *e)
{
    const char *ref;
    const struct model_info *m = prompt_model_id(r, r->params[0], &ref);
    const struct state_call *c = states_call_of(r);
    struct jw w;
    if (states_reply_record(r, 200, &w, e) < 0)
        return e->code;
    if (strcmp(m->fingerprint, c->states[0].fingerprint) != 0)
        return err_set(e, ERR_STATE_INCOMPATIBLE, "the state %s is of the model %s, not of %s", ref,
                       c->states[0].model, m->name);
    write_model(r, &w, r->params[0], m, &c->states[0]);
    return 0;
}

static const struct task list_task = {states_no_record, states_no_end, finish_list, NULL, false};
static const struct task state_task = {states_no_record, states_no_end, finish_state, NULL, false};

int handle_models(struct req *r, struct err *e)
{
    size_t limit;
    if (states_query_limit(r, 0, &limit, e) < 0)
        return e->code;
    if (limit == 0) {
        write_list(r, NULL);
        return 0;
    }
    struct state_call *c = states_call(STATE_LIST, e);
    if (!c)
        return e->code;
    c->limit = limit;
    c->newest = true;
    return states_submit(r, c, &list_task, 0, e);
}

int handle_model(struct req *r, struct err *e)
{
    const char *ref;
    const struct model_info *m = prompt_model_id(r, r->params[0], &ref);
    if (!m)
        return err_set(e, ERR_MODEL_NOT_FOUND, "there is no model '%s'", r->params[0]);
    if (ref) {
        struct state_call *c = states_call(STATE_GET, e);
        if (!c)
            return e->code;
        int rc = (c->ref = strdup(ref)) ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
        return states_submit(r, c, &state_task, rc, e);
    }
    req_reply_json(r, 200);
    struct jw w = {&r->reply.body, false};
    write_model(r, &w, m->name, m, NULL);
    return 0;
}
