/* GET /v1/models, /v1/models/{id}. */
#include "api/prompt.h"
#include "api/route.h"

#include <string.h>

static void write_model(struct jw *w, const struct model_info *m)
{
    jw_object(w, NULL);
    jw_string(w, "id", m->name);
    jw_string(w, "object", "model");
    jw_int(w, "created", m->created);
    jw_string(w, "owned_by", "dreamstate");
    write_model_meta(w, "meta", m);
    jw_end_object(w);
}

int handle_models(struct req *r, struct err *e)
{
    (void)e;
    const struct model_info *models;
    size_t n = service_models(r->svc, &models);
    req_reply_json(r, 200);
    struct jw w = {&r->reply.body, false};
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_array(&w, "data");
    for (size_t i = 0; i < n; i++)
        write_model(&w, &models[i]);
    jw_end_array(&w);
    jw_end_object(&w);
    return 0;
}

int handle_model(struct req *r, struct err *e)
{
    const struct model_info *m = service_find_model(r->svc, r->params[0]);
    if (!m)
        return err_set(e, ERR_MODEL_NOT_FOUND, "there is no model '%s'", r->params[0]);
    req_reply_json(r, 200);
    struct jw w = {&r->reply.body, false};
    write_model(&w, m);
    return 0;
}
