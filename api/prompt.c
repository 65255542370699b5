#include "api/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct model_info *prompt_model_id(struct req *r, const char *id, const char **ref)
{
    const struct model_info *m = service_find_model(r->svc, id);
    char name[256], state[129];
    uint64_t version;
    struct err e;
    *ref = NULL;
    for (const char *at = id ? strchr(id, '@') : NULL; !m && at; at = strchr(at + 1, '@')) {
        size_t n = (size_t)(at - id);
        if (n == 0 || n >= sizeof name || state_ref_parse(at + 1, state, &version, &e) < 0)
            continue;
        memcpy(name, id, n);
        name[n] = 0;
        if ((m = service_find_model(r->svc, name)))
            *ref = at + 1;
    }
    return m;
}

const struct model_info *prompt_model(struct req *r, const json_t *o, struct err *e)
{
    const char *name = NULL, *ref;
    if (decode_word(o, "model", &name, e) < 0)
        return NULL;
    const struct model_info *m = prompt_model_id(r, name, &ref);
    if (!m)
        err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'",
                      name && *name ? name : "(default)");
    return m;
}

int prompt_ids(struct req *r, const struct model_info *m, const json_t *v, const char *param,
               uint32_t **ids, size_t *n, struct err *e)
{
    if (!json_is_string(v))
        return decode_token_ids(v, param, m->n_vocab, ids, n, e);
    int rc = service_tokenize(r->svc, m, json_string_value(v), json_string_length(v), ids, n, e);
    if (rc < 0 && !e->param[0])
        snprintf(e->param, sizeof e->param, "%s", param);
    return rc;
}

int prompt_model_state(struct req *r, const json_t *o, const char *key, char **ref, struct err *e)
{
    const char *name = NULL, *of_model;
    if (decode_word(o, "model", &name, e) < 0)
        return e->code;
    prompt_model_id(r, name, &of_model);
    if (!of_model)
        return 0;
    if (*ref && strcmp(*ref, of_model) != 0)
        return err_set_param(e, ERR_INVALID, key, "model names the state %s, %s names %s", of_model,
                             key, *ref);
    if (!*ref && !(*ref = strdup(of_model)))
        return err_set(e, ERR_NOMEM, "no memory for a name");
    return 0;
}

/* {"name": "x", "version": 2} as "x@2". */
static int ref_of_object(const json_t *v, const char *key, char ref[160], struct err *e)
{
    const char *name = NULL;
    int64_t version = 0;
    if (decode_word(v, "name", &name, e) < 0 ||
        decode_int(v, "version", 1, INT64_MAX, &version, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", key);
        return e->code;
    }
    if (!name)
        return err_set_param(e, ERR_INVALID, key, "%s is an object without a name", key);
    if (strlen(name) > 128)
        return err_set_param(e, ERR_INVALID, key, "%s.name is longer than 128 bytes", key);
    snprintf(ref, 160, version ? "%s@%lld" : "%s", name, (long long)version);
    return 0;
}

int prompt_state_ref(const json_t *o, const char *key, bool versioned, char **ref, struct err *e)
{
    const json_t *v = decode_field(o, key);
    const char *s = NULL;
    char name[129], built[160];
    uint64_t version;
    if (versioned && json_is_object(v)) {
        if (ref_of_object(v, key, built, e) < 0)
            return e->code;
        s = built;
    } else if (decode_word(o, key, &s, e) < 0) {
        return e->code;
    }
    if (!s)
        return 0;
    if (state_ref_parse(s, name, &version, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", key);
        return e->code;
    }
    if (version && !versioned)
        return err_set_param(e, ERR_INVALID, key,
                             "%s names a state without a version: versions are given by the daemon",
                             key);
    *ref = strdup(s);
    return *ref ? 0 : err_set(e, ERR_NOMEM, "no memory for a name");
}

int prompt_if_exists(const json_t *o, bool *new_version, struct err *e)
{
    const char *s = NULL;
    if (decode_word(o, "if_exists", &s, e) < 0)
        return e->code;
    if (!s)
        return 0;
    *new_version = strcmp(s, "new_version") == 0;
    if (!*new_version && strcmp(s, "error") != 0)
        return err_set_param(e, ERR_INVALID, "if_exists",
                             "if_exists is neither \"error\" nor \"new_version\"");
    return 0;
}

/* Text that the store kept for us: written only if it still is JSON. */
static void write_kept(struct jw *w, const char *key, const char *text)
{
    json_t *v = text ? json_loads(text, 0, NULL) : NULL;
    if (v)
        jw_raw(w, key, text, strlen(text));
    else
        jw_null(w, key);
    json_decref(v);
}

void write_state_fields(struct jw *w, const struct state_info *s)
{
    char ref[160];
    snprintf(ref, sizeof ref, "%s@%llu", s->name, (unsigned long long)s->version);
    jw_string(w, "id", ref);
    jw_string(w, "object", "state");
    jw_string(w, "ref", ref);
    jw_string(w, "name", s->name);
    jw_uint(w, "version", s->version);
    if (s->damaged) {
        jw_bool(w, "damaged", true);
        return;
    }
    jw_uint(w, "revision", s->revision);
    jw_string(w, "model", s->model);
    jw_string(w, "fingerprint", s->fingerprint);
    jw_string(w, "weights_type", s->weights_type);
    jw_uint(w, "n_layer", s->n_layer);
    jw_uint(w, "n_embd", s->n_embd);
    jw_uint(w, "head_size", s->head_size);
    jw_uint(w, "bytes", s->bytes);
    jw_string(w, "sha256", s->sha256);
    jw_uint(w, "n_tokens", s->n_tokens);
    jw_bool(w, "has_logits", s->has_logits);
    write_kept(w, "parents", s->parents);
    write_kept(w, "origin", s->origin);
    jw_string(w, "description", s->description);
    write_kept(w, "tags", s->tags);
    jw_bool(w, "pinned", s->pinned);
    if (s->expires_ms)
        jw_int(w, "expires_at", s->expires_ms / 1000);
    else
        jw_null(w, "expires_at");
    write_kept(w, "norms", s->norms);
    jw_int(w, "created", s->created_ms / 1000);
}

void write_state(struct jw *w, const char *key, const struct state_info *s)
{
    jw_object(w, key);
    write_state_fields(w, s);
    jw_end_object(w);
}

void write_model_meta(struct jw *w, const char *key, const struct service *s,
                      const struct model_info *m)
{
    char hybrid[65];
    jw_object(w, key);
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
    jw_bool(w, "has_time_state", m->has_time_state);
    jw_string(w, "hybrid", service_model_hybrid(s, m, hybrid) ? hybrid : NULL);
    jw_end_object(w);
}

void write_started_from(struct jw *w, const char *ref, bool other_weights_type)
{
    if (!ref[0])
        return;
    jw_object(w, "started_from");
    jw_string(w, "ref", ref);
    jw_bool(w, "other_weights_type", other_weights_type);
    jw_end_object(w);
}

/* llama-server's names; rates of nothing are zero. */
static void write_rates(struct jw *w, const char *part, uint64_t n, double ms)
{
    char key[40];
    snprintf(key, sizeof key, "%s_n", part);
    jw_uint(w, key, n);
    snprintf(key, sizeof key, "%s_ms", part);
    jw_number(w, key, ms);
    snprintf(key, sizeof key, "%s_per_token_ms", part);
    jw_number(w, key, n ? ms / (double)n : 0);
    snprintf(key, sizeof key, "%s_per_second", part);
    jw_number(w, key, ms > 0 ? 1e3 * (double)n / ms : 0);
}

void write_timings(struct jw *w, const char *key, const struct timings *t)
{
    jw_object(w, key);
    jw_uint(w, "cache_n", t->cache_n);
    write_rates(w, "prompt", t->prompt_n, t->prompt_ms);
    write_rates(w, "predicted", t->predicted_n, t->predicted_ms);
    jw_end_object(w);
}
