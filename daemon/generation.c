#include "daemon/generation.h"

#include "daemon/job_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATES_BYTES ((size_t)1 << 30)
#define ORIGIN_BYTES ((size_t)1 << 20)

/* Of a pass of a diffuser for a number of the state, on one thread: SPEED.md has 22 to 90 ns. */
#define PASS_SECONDS 50e-9

static const char *const schedulers[] = {"ddim", "ddpm", "dpmsolver++"};

/* ---- its cost ---- */

bool service_generation_is_long(const struct service *s, const struct state_generation *c)
{
    const struct diffusion *d = &c->diffusion;
    const double passes = (double)c->n_states * (double)d->steps * (d->guidance == 1 ? 1 : 2);
    const double numbers = (double)c->errand.model->state_bytes / sizeof(float);
    const uint64_t most = s->options.generation_seconds;
    return most && passes * numbers * PASS_SECONDS > (double)most;
}

/* ---- as JSON ---- */

char *generation_info(const struct state_generation *c)
{
    const struct diffusion *d = &c->diffusion;
    json_t *o = json_loads(c->params_json, 0, NULL);
    json_t *more =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s}", "model", c->errand.model->name,
                  "name", c->name, "if_exists", "new_version", "num_states",
                  (json_int_t)c->n_states, "first", (json_int_t)c->first, "diffuser", d->used,
                  "diffuser_sha256", d->diffuser_sha256, "condition_sha256", d->condition_sha256);
    char *text = o && more && json_object_update(o, more) == 0 ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    json_decref(more);
    return text;
}

char *generation_request(const struct state_generation *c)
{
    const struct diffusion *d = &c->diffusion;
    const struct state_change *h = &c->change;
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:I, s:s*, s:s, s:s, s:s*, s:o, s:o, s:o, s:o}",
                  "kind", GENERATION_JOB, "model", c->errand.model->name, "name", c->name,
                  "new_version", c->write.new_version, "num_states", (json_int_t)c->n_states,
                  "first", (json_int_t)c->first, "diffuser", d->diffuser, "diffuser_sha256",
                  d->want_diffuser, "condition_sha256", d->want_condition, "description",
                  h->description, "tags", h->tags ? json_loads(h->tags, 0, NULL) : json_null(),
                  "pinned", h->set_pinned ? json_boolean(h->pinned) : json_null(), "expires_ms",
                  h->set_expires ? json_integer(h->expires_ms) : json_null(), "params",
                  json_loads(c->params_json, 0, NULL));
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

/* ---- out of it ---- */

/* A text of the object, copied: *out stays NULL where there is none. */
static int copy_text(const json_t *o, const char *key, size_t most, char **out, struct err *e)
{
    const char *s = NULL;
    int rc = job_decode_text(o, key, most, &s, e);
    if (rc == 0 && s && !(*out = strdup(s)))
        rc = err_set(e, ERR_NOMEM, "no memory for a generation");
    return rc;
}

static int read_part(const struct service *s, const struct model_info *m, const json_t *v,
                     struct mix_part *p, struct err *e)
{
    const json_t *text = json_object_get(v, "text"), *weight = json_object_get(v, "weight");
    uint32_t *ids = NULL;
    size_t n = 0;
    int rc = 0;
    p->weight = weight ? json_number_value(weight) : 1;
    if (!(p->weight > 0))
        return err_set(e, ERR_INVALID, "a condition's weight is not above 0");
    if (json_is_string(v)) {
        p->name = strdup(json_string_value(v));
        return p->name ? 0 : err_set(e, ERR_NOMEM, "no memory for a generation");
    }
    if (!text) {
        rc = copy_text(v, "name", 256, &p->name, e);
        if (rc == 0)
            rc = copy_text(v, "label", 256, &p->label, e);
        return rc < 0 || p->name || p->label
                   ? rc
                   : err_set(e, ERR_INVALID, "a condition has no name, text or label");
    }
    if (!json_is_string(text))
        return err_set(e, ERR_INVALID, "a condition's text is no text");
    rc = service_tokenize(s, m, json_string_value(text), json_string_length(text), &ids, &n, e);
    if (rc == 0)
        rc = condition_tokens(s, m, ids, n, &p->text, e);
    free(ids);
    return rc;
}

static int read_mix(const struct service *s, const struct model_info *m, const json_t *v,
                    struct mix *out, struct err *e)
{
    const bool list = json_is_array(v);
    const size_t n = list ? json_array_size(v) : 1;
    if (!v)
        return 0;
    if (n < 1 || n > MIX_MAX)
        return err_set(e, ERR_INVALID, "a condition has %zu parts", n);
    if (!(out->parts = calloc(n, sizeof *out->parts)))
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    int rc = 0;
    for (out->n = 0; rc == 0 && out->n < n; out->n++)
        rc = read_part(s, m, list ? json_array_get(v, out->n) : v, &out->parts[out->n], e);
    return rc;
}

static int read_sha256(const json_t *o, const char *key, char out[65], struct err *e)
{
    const char *s = "";
    int rc = job_decode_text(o, key, 64, &s, e);
    snprintf(out, 65, "%s", rc == 0 ? s : "");
    return rc;
}

static int read_diffusion(const struct service *s, const struct model_info *m, const json_t *o,
                          struct diffusion *d, struct err *e)
{
    const json_t *p = json_object_get(o, "params");
    const char *scheduler = "", *products = "";
    uint64_t steps = 0;
    d->strength = 1;
    if (read_mix(s, m, json_object_get(p, "condition"), &d->condition, e) < 0 ||
        read_mix(s, m, json_object_get(p, "negative_condition"), &d->negative, e) < 0 ||
        copy_text(o, "diffuser", 256, &d->diffuser, e) < 0 ||
        read_sha256(o, "diffuser_sha256", d->want_diffuser, e) < 0 ||
        read_sha256(o, "condition_sha256", d->want_condition, e) < 0 ||
        job_decode_uint(p, "num_inference_steps", 0, DIFFUSION_MAX_STEPS, &steps, e) < 0 ||
        job_decode_uint(p, "seed", 0, (uint64_t)1 << 53, &d->seed, e) < 0 ||
        job_decode_real(p, "guidance_scale", 0, 100, &d->guidance, e) < 0 ||
        job_decode_real(p, "eta", 0, 1, &d->eta, e) < 0 ||
        job_decode_text(p, "scheduler", 16, &scheduler, e) < 0 ||
        job_decode_text(p, "products", 16, &products, e) < 0)
        return e->code;
    d->steps = steps;
    d->bf16 = !strcmp(products, "bf16"); /* without the word: accepted before there was one */
    for (size_t i = 0; i < sizeof schedulers / sizeof *schedulers; i++)
        if (!strcmp(scheduler, schedulers[i])) {
            d->scheduler = (enum diffusion_scheduler)i;
            return 0;
        }
    return err_set_param(e, ERR_INVALID, "scheduler", "there is no scheduler %s", scheduler);
}

static int read_change(const json_t *o, struct state_change *h, struct err *e)
{
    const json_t *tags = json_object_get(o, "tags"), *pinned = json_object_get(o, "pinned");
    const json_t *expires = json_object_get(o, "expires_ms");
    if (copy_text(o, "description", SIZE_MAX, &h->description, e) < 0)
        return e->code;
    if (json_is_array(tags) && !(h->tags = json_dumps(tags, JSON_COMPACT)))
        return err_set(e, ERR_NOMEM, "no memory for a generation");
    h->set_pinned = json_is_boolean(pinned);
    h->pinned = json_is_true(pinned);
    h->set_expires = json_is_integer(expires);
    h->expires_ms = json_integer_value(expires);
    return 0;
}

static int read_all(const struct service *s, const json_t *o, struct state_generation *c,
                    struct err *e)
{
    const char *model = NULL;
    uint64_t n = 1, first = 0;
    if (job_decode_text(o, "model", 128, &model, e) < 0 ||
        copy_text(o, "name", 128, &c->name, e) < 0 ||
        job_decode_uint(o, "num_states", 1, GENERATE_MAX_STATES, &n, e) < 0 ||
        job_decode_uint(o, "first", 0, INT32_MAX, &first, e) < 0)
        return e->code;
    c->n_states = n;
    c->first = (uint32_t)first;
    c->write.new_version = json_is_true(json_object_get(o, "new_version"));
    if (!(c->errand.model = service_find_model(s, model)))
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'", model);
    if (!c->name)
        return err_set_param(e, ERR_INVALID, "name", "name is missing");
    int rc = read_diffusion(s, c->errand.model, o, &c->diffusion, e);
    if (rc == 0)
        rc = read_change(o, &c->change, e);
    if (rc == 0 && !(c->params_json = json_dumps(json_object_get(o, "params"), JSON_COMPACT)))
        rc = err_set(e, ERR_NOMEM, "no memory for a generation");
    return rc;
}

int generation_read(const struct service *s, const char *request, struct state_generation **out,
                    struct err *e)
{
    json_t *o = job_decode(request, e);
    struct state_generation *c = *out = o ? state_generation_new() : NULL;
    if (o && !c)
        err_set(e, ERR_NOMEM, "no memory for a generation");
    if (c && read_all(s, o, c, e) == 0 && !(c->saved = calloc(c->n_states, sizeof *c->saved)))
        err_set(e, ERR_NOMEM, "no memory for a generation");
    json_decref(o);
    return e->code;
}

/* ---- the states ---- */

int generation_check(const struct state_generation *c, struct err *e)
{
    size_t most = STATES_BYTES / c->errand.model->state_bytes;
    char name[129];
    uint64_t version;
    most = most < GENERATE_MAX_STATES ? most : GENERATE_MAX_STATES;
    int rc = state_ref_parse(c->name, name, &version, e);
    if (rc == 0 && (version || strlen(c->name) > (c->n_states > 1 ? 125 : 128)))
        rc = err_set_param(e, ERR_INVALID, "name",
                           "name is not a state's name without version, with room for a number");
    if (rc == 0 && (c->n_states < 1 || c->n_states > most))
        rc = err_set_param(e, ERR_INVALID, "num_states", "num_states is not from 1 to %zu", most);
    if (rc == 0 && c->write.key && c->n_states > 1)
        rc = err_set_param(e, ERR_INVALID, "Idempotency-Key",
                           "an idempotency key names one state, not several");
    return rc < 0 ? rc : diffusion_check(&c->diffusion, "", e);
}

void generation_name(const struct state_generation *c, size_t i, char name[160])
{
    if (i)
        snprintf(name, 160, "%s-%zu", c->name, i + 1);
    else
        snprintf(name, 160, "%s", c->name);
}

int generation_check_free(const struct errand_run *r, const struct state_generation *c,
                          const char *name, struct err *e)
{
    struct fetched at;
    struct err found = {0};
    if (c->write.new_version)
        return 0;
    int rc = fetch_state(r->svc, r->model, name, NULL, &at, &found);
    fetched_fini(&at);
    return rc == ERR_STATE_NOT_FOUND /* whatever is there */
               ? 0
               : err_set(e, ERR_STATE_EXISTS, "state %s exists", name);
}

int generation_save(const struct errand_run *r, struct state_generation *c, size_t i,
                    const float *state, const struct state_write *key, const char *job,
                    struct err *e)
{
    const struct diffusion *d = &c->diffusion;
    struct buf origin;
    char name[160];
    generation_name(c, i, name);
    buf_init(&origin, ORIGIN_BYTES);
    buf_puts(&origin, "{\"kind\": \"generate\"");
    if (job)
        buf_printf(&origin, ", \"job\": \"%s\"", job);
    buf_printf(&origin,
               ", \"diffuser\": \"%s\", \"diffuser_sha256\": \"%s\", "
               "\"condition_sha256\": \"%s\", \"first\": %lu, \"params\": %s}",
               d->used, d->diffuser_sha256, d->condition_sha256,
               (unsigned long)c->first + (unsigned long)i, c->params_json);
    const struct state_put put = {.model = r->model,
                                  .name = name,
                                  .weights_type = r->model->weights_type,
                                  .parents = "[]",
                                  .origin = origin.data,
                                  .state = state,
                                  .change = &c->change};
    const struct store_write how = {.if_exists = c->write.new_version ? STORE_EXISTS_NEW_VERSION
                                                                      : STORE_EXISTS_ERROR,
                                    .key = key->key,
                                    .request_sha256 = key->request_sha256};
    int rc = origin.failed ? err_set(e, ERR_NOMEM, "no memory for a state's record")
                           : fetch_put(r->svc, &put, &how, &c->saved[i], e);
    buf_fini(&origin);
    return rc;
}
