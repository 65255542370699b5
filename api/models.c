/* GET /v1/models, /v1/models/{id}. */
#include "api/json.h"
#include "api/route.h"

#include <string.h>

static void write_model(struct jw *w, const struct model_info *m)
{
    jw_object(w, NULL);
    jw_string(w, "id", m->name);
    jw_string(w, "object", "model");
    jw_int(w, "created", m->created);
    jw_string(w, "owned_by", "dreamstate");
    jw_object(w, "meta");
    jw_uint(w, "n_vocab", m->n_vocab);
    jw_uint(w, "n_embd", m->n_embd);
    jw_uint(w, "n_layer", m->n_layer);
    jw_uint(w, "head_size", m->head_size);
    jw_uint(w, "n_params", m->n_params);
    jw_uint(w, "size", m->weight_bytes);
    jw_uint(w, "state_size", m->state_bytes);
    jw_string(w, "weights_type", m->weights_type);
    jw_string(w, "tokenizer", m->tokenizer);
    jw_string(w, "fingerprint", m->fingerprint);
    jw_end_object(w);
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
