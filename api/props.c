/* GET /props and GET /slots: llama-server's words, and below "dreamstate" what it has no words for. No
 * path of this machine and no text of a request is shown. */
#include "api/http.h"
#include "api/messages.h"
#include "api/prompt.h"
#include "api/route.h"

#include <stdlib.h>
#include <string.h>

/* ?model=NAME, or the default model. */
static const struct model_info *query_model(struct req *r, struct err *e)
{
    char name[160];
    bool found;
    if (req_query(r, "model", name, sizeof name, &found, e) < 0)
        return NULL;
    const struct model_info *m = service_find_model(r->svc, name);
    if (!m)
        err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'", name);
    return m;
}

/* n_predict -1: no limit of its own; seed -1: a new one for each request. */
static void write_params(struct jw *w, const struct sampling_params *p, int64_t n_predict,
                         int64_t seed)
{
    jw_object(w, "params");
    jw_int(w, "n_predict", n_predict);
    jw_int(w, "seed", seed);
    jw_number(w, "temperature", (double)p->temperature);
    jw_uint(w, "top_k", p->top_k);
    jw_number(w, "top_p", (double)p->top_p);
    jw_number(w, "min_p", (double)p->min_p);
    jw_number(w, "typical_p", (double)p->typical_p);
    jw_number(w, "presence_penalty", (double)p->presence_penalty);
    jw_number(w, "frequency_penalty", (double)p->frequency_penalty);
    jw_number(w, "penalty_decay", (double)p->penalty_decay);
    jw_number(w, "repeat_penalty", (double)p->repeat_penalty);
    jw_end_object(w);
}

/* ---- /props ---- */

/* The template as Jinja, for clients that render messages themselves: the same text as
 * /apply-template gives. A JSON string is a Jinja string too. */
static void jinja_template(struct buf *out, const struct chat_template *t)
{
    struct messages_role roles[MESSAGES_ROLES];
    messages_roles(t, roles);
    buf_puts(out, "{%- set colon = ");
    json_quote(out, t->colon, strlen(t->colon));
    buf_puts(out, " -%}{%- set separator = ");
    json_quote(out, t->separator, strlen(t->separator));
    buf_puts(out, " -%}{%- set names = {");
    for (size_t i = 0; i < MESSAGES_ROLES; i++) {
        buf_printf(out, "%s\"%s\": ", i ? ", " : "", roles[i].role);
        json_quote(out, roles[i].name, strlen(roles[i].name));
    }
    buf_puts(out, "} -%}"
                  "{%- for m in messages -%}"
                  "{%- if not loop.first -%}{{- separator -}}{%- endif -%}"
                  "{{- names[m.role] + colon -}}"
                  "{%- if m.content is string -%}{%- set text = m.content -%}{%- else -%}"
                  "{%- set text = (m.content or []) | map(attribute=\"text\") | join(\"\") -%}"
                  "{%- endif -%}"
                  "{%- set ns = namespace(before=\" \") -%}"
                  "{%- for line in (text | trim).replace(\"\\r\", \"\\n\").split(\"\\n\") -%}"
                  "{%- if line | trim -%}{{- ns.before + line -}}{%- set ns.before = \"\\n\" -%}"
                  "{%- endif -%}{%- endfor -%}{%- endfor -%}"
                  "{%- if add_generation_prompt and messages[-1].role != \"assistant\" -%}"
                  "{{- separator + names[\"assistant\"] + colon -}}{%- endif -%}");
}

static void write_limits(struct req *r, struct jw *w, const struct service_limits *l)
{
    const struct api_options *o = &r->api->opt;
    jw_object(w, "limits");
    jw_uint(w, "max_sequences", l->max_sequences);
    jw_uint(w, "max_queue", l->max_queue);
    jw_uint(w, "max_prompt_tokens", l->max_prompt);
    jw_uint(w, "max_choices", REQ_SOURCES);
    jw_uint(w, "max_body_bytes", o->max_body);
    jw_uint(w, "max_connections", o->connections);
    jw_uint(w, "max_states", l->max_states);
    jw_uint(w, "max_state_bytes", l->max_bytes);
    jw_uint(w, "state_cache_bytes", l->cache_bytes);
    jw_end_object(w);
}

static void write_ours(struct req *r, struct jw *w, const struct model_info *m,
                       const struct service_limits *l)
{
    struct store_info store;
    const struct model_info *all;
    size_t n = service_models(r->svc, &all);
    service_get_store(r->svc, &store);
    jw_object(w, "dreamstate");
    jw_string(w, "version", service_version());
    jw_object(w, "store");
    jw_string(w, "backend", store.backend);
    jw_uint(w, "states", store.states);
    jw_uint(w, "blobs", store.blobs);
    jw_uint(w, "blob_bytes", store.blob_bytes);
    jw_end_object(w);
    write_limits(r, w, l);
    jw_array(w, "models");
    for (size_t i = 0; i < n; i++)
        jw_string(w, NULL, all[i].name);
    jw_end_array(w);
    write_model_meta(w, "model", r->svc, m);
    jw_end_object(w);
}

int handle_props(struct req *r, struct err *e)
{
    struct service_limits limits;
    struct buf template;
    const struct model_info *m = query_model(r, e);
    if (!m)
        return e->code;
    service_get_limits(r->svc, &limits);
    buf_init(&template, 1 << 16);
    jinja_template(&template, &m->chat);
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_object(&w, "default_generation_settings");
    jw_uint(&w, "n_ctx", limits.max_prompt);
    write_params(&w, &SAMPLING_DEFAULT, -1, -1);
    jw_end_object(&w);
    jw_uint(&w, "total_slots", limits.max_sequences);
    jw_string(&w, "model_alias", m->name);
    jw_string(&w, "model_path", m->name);
    jw_text(&w, "chat_template", template.data ? template.data : "", template.len);
    jw_object(&w, "modalities");
    jw_bool(&w, "vision", false);
    jw_bool(&w, "audio", false);
    jw_end_object(&w);
    buf_reset(&template);
    buf_printf(&template, "dreamstate %s", service_version());
    jw_text(&w, "build_info", template.data ? template.data : "", template.len);
    jw_bool(&w, "is_sleeping", false);
    jw_bool(&w, "endpoint_slots", true);
    jw_bool(&w, "endpoint_props", false);
    jw_bool(&w, "endpoint_metrics", true);
    write_ours(r, &w, m, &limits);
    jw_end_object(&w);
    bool failed = template.failed;
    buf_fini(&template);
    return failed ? err_set(e, ERR_NOMEM, "no memory for the answer") : 0;
}

/* ---- /slots ---- */

static void write_slot(struct jw *w, size_t id, const struct model_info *m,
                       const struct slot_info *s, size_t n_ctx)
{
    static const char *const phases[] = {"idle", "loading", "prompt", "generating"};
    static const char *const kinds[] = {"completion", "bake", "embedding", "context"};
    bool idle = s->phase == SLOT_IDLE;
    jw_object(w, NULL);
    jw_uint(w, "id", id);
    jw_int(w, "id_task", idle ? -1 : (int64_t)s->task);
    jw_uint(w, "n_ctx", n_ctx);
    jw_bool(w, "speculative", false);
    jw_bool(w, "is_processing", !idle);
    jw_string(w, "model", m->name);
    jw_string(w, "phase", phases[s->phase]);
    if (!idle) {
        jw_string(w, "kind", kinds[s->kind]);
        jw_uint(w, "cache_n", s->cache_n);
        jw_uint(w, "prompt_n", s->prompt_n);
        jw_uint(w, "n_prompt", s->n_prompt);
    }
    if (!idle && s->kind == SLOT_COMPLETION) {
        write_params(w, &s->sampling, (int64_t)s->max_tokens, (int64_t)s->sampling.seed);
        jw_object(w, "next_token");
        jw_bool(w, "has_next_token", s->predicted_n < s->max_tokens);
        jw_uint(w, "n_remain", s->max_tokens - s->predicted_n);
        jw_uint(w, "n_decoded", s->predicted_n);
        jw_end_object(w);
    }
    jw_end_object(w);
}

int handle_slots(struct req *r, struct err *e)
{
    struct service_limits limits;
    const struct model_info *models;
    char flag[8];
    bool given;
    if (req_query(r, "fail_on_no_slot", flag, sizeof flag, &given, e) < 0)
        return e->code;
    service_get_limits(r->svc, &limits);
    size_t n_models = service_models(r->svc, &models), idle = 0;
    struct slot_info *slots = calloc(limits.max_sequences, sizeof *slots);
    if (!slots)
        return err_set(e, ERR_NOMEM, "no memory for the slots");
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_array(&w, NULL);
    for (size_t i = 0; i < n_models; i++) {
        size_t n = service_slots(r->svc, &models[i], slots);
        for (size_t k = 0; k < n; k++) {
            idle += slots[k].phase == SLOT_IDLE;
            write_slot(&w, i * n + k, &models[i], &slots[k], limits.max_prompt);
        }
    }
    jw_end_array(&w);
    free(slots);
    if (given && strcmp(flag, "0") != 0 && !idle)
        return err_set(e, ERR_UNAVAILABLE, "no slot is free");
    return 0;
}
