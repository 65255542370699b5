/* What text and chat completions ask in the same words, and the choices made of it. */
#include "api/adjustment.h"
#include "api/completions.h"

#include "daemon/base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_STOPS      16
#define MAX_STOP_BYTES 4096
#define MAX_BIASES     1024
#define MAX_SEED       INT64_MAX
#define PENALTY        100.0

/* ---- fields ---- */

/* alpha_* are what RWKV's own tools call the penalties; OpenAI's words go before them. */
static int decode_sampling(const json_t *o, struct sampling_params *p, struct err *e)
{
    int64_t top_k = 0;
    if (decode_number(o, "temperature", 0, 100, &p->temperature, e) < 0 ||
        decode_number(o, "top_p", 0, 1, &p->top_p, e) < 0 ||
        decode_number(o, "min_p", 0, 1, &p->min_p, e) < 0 ||
        decode_number(o, "typical_p", 0, 1, &p->typical_p, e) < 0 ||
        decode_int(o, "top_k", -1, UINT32_MAX, &top_k, e) < 0 ||
        decode_number(o, "alpha_presence", -PENALTY, PENALTY, &p->presence_penalty, e) < 0 ||
        decode_number(o, "alpha_frequency", -PENALTY, PENALTY, &p->frequency_penalty, e) < 0 ||
        decode_number(o, "alpha_decay", 0, 1, &p->penalty_decay, e) < 0 ||
        decode_number(o, "presence_penalty", -PENALTY, PENALTY, &p->presence_penalty, e) < 0 ||
        decode_number(o, "frequency_penalty", -PENALTY, PENALTY, &p->frequency_penalty, e) < 0 ||
        decode_number(o, "penalty_decay", 0, 1, &p->penalty_decay, e) < 0 ||
        decode_number(o, "repeat_penalty", 0, PENALTY, &p->repeat_penalty, e) < 0)
        return e->code;
    if (p->repeat_penalty <= 0)
        return err_set_param(e, ERR_INVALID, "repeat_penalty", "repeat_penalty is not above 0");
    p->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    return 0;
}

static int check_stop(const json_t *s, size_t i, struct err *e)
{
    if (!json_is_string(s) || !json_string_length(s) || json_string_length(s) > MAX_STOP_BYTES)
        return err_set_param(e, ERR_INVALID, "stop", "stop[%zu] is not a string of 1 to %d bytes",
                             i, MAX_STOP_BYTES);
    return 0;
}

static int decode_stop(const json_t *o, const json_t **out, struct err *e)
{
    const json_t *v = decode_field(o, "stop");
    size_t n = json_array_size(v);
    *out = v;
    if (!v)
        return 0;
    if (json_is_string(v)) {
        if (!json_string_length(v))
            *out = NULL; /* some front ends send "" for none */
        return *out ? check_stop(v, 0, e) : 0;
    }
    if (!json_is_array(v) || n > MAX_STOPS)
        return err_set_param(e, ERR_INVALID, "stop",
                             "stop is not a string or an array of at most %d strings", MAX_STOPS);
    for (size_t i = 0; i < n; i++)
        if (check_stop(json_array_get(v, i), i, e) < 0)
            return e->code;
    return 0;
}

static int decode_bias(const json_t *o, const json_t **out, struct err *e)
{
    *out = decode_field(o, "logit_bias");
    size_t n = json_is_array(*out) ? json_array_size(*out) : json_object_size(*out);
    if (*out && ((!json_is_object(*out) && !json_is_array(*out)) || n > MAX_BIASES))
        return err_set_param(
            e, ERR_INVALID, "logit_bias",
            "logit_bias is not an object, or an array of pairs, of at most %d token ids",
            MAX_BIASES);
    return 0;
}

static int decode_stream(const json_t *o, struct completions *t, struct err *e)
{
    if (decode_bool(o, "stream", &t->stream, e) < 0)
        return e->code;
    const json_t *options = decode_field(o, "stream_options");
    if (!options)
        return 0;
    if (!json_is_object(options))
        return err_set_param(e, ERR_INVALID, "stream_options", "stream_options is not an object");
    return decode_bool(options, "include_usage", &t->include_usage, e);
}

/* A schema, the value v of the field `param`; NULL: any object. */
static int compile_schema(const json_t *v, const char *param, struct asked *a, struct err *e)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (v && !text)
        return err_set(e, ERR_NOMEM, "no memory for a schema");
    int rc = schema_new(text, text ? strlen(text) : 0, &a->schema, e);
    free(text);
    if (rc < 0 && e->param[0])
        snprintf(e->param, sizeof e->param, "%s", param);
    return rc;
}

/* response_format: {type: text | json_object | json_schema, json_schema: {schema, name, strict}};
 * beside json_object also llama-server's {schema}. */
static int decode_response_format(const json_t *v, struct asked *a, struct err *e)
{
    static const char param[] = "response_format";
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *outer = json_object_get(v, "json_schema");
    if (!type)
        return err_set_param(e, ERR_INVALID, param, "response_format is not an object with a type");
    if (!strcmp(type, "text"))
        return 0;
    if (!strcmp(type, "json_object"))
        return compile_schema(decode_field(v, "schema"), param, a, e);
    if (strcmp(type, "json_schema") != 0)
        return err_set_param(e, ERR_INVALID, param,
                             "response_format.type is not text, json_object or json_schema");
    const char *text;
    size_t bytes;
    bool strict;
    if (!json_object_get(outer, "schema"))
        return err_set_param(e, ERR_INVALID, param,
                             "response_format.json_schema is not an object with a schema");
    if (decode_text(outer, "name", &text, &bytes, e) < 0 ||
        decode_text(outer, "description", &text, &bytes, e) < 0 ||
        decode_bool(outer, "strict", &strict, e) < 0) {
        snprintf(e->param, sizeof e->param, "%s", param);
        return e->code;
    }
    return compile_schema(json_object_get(outer, "schema"), param, a, e);
}

/* response_format, or llama-server's json_schema. */
static int decode_schema(const json_t *o, struct asked *a, struct err *e)
{
    const json_t *format = decode_field(o, "response_format");
    const json_t *schema = decode_field(o, "json_schema");
    if (format && schema)
        return err_set_param(e, ERR_INVALID, "json_schema",
                             "both response_format and json_schema are given: one is wanted");
    return format   ? decode_response_format(format, a, e)
           : schema ? compile_schema(schema, "json_schema", a, e)
                    : 0;
}

/* cache_prompt: false and no_cache: true are two words for one thing. What is left behind is shared
 * only by requests with the same key and the same `user`. */
static int decode_reuse(struct req *r, const json_t *o, struct asked *a, struct err *e)
{
    const char *user = NULL;
    size_t bytes = 0;
    if (decode_bool(o, "cache_prompt", &a->reuse, e) < 0 ||
        decode_bool(o, "no_cache", &a->no_cache, e) < 0 ||
        decode_text(o, "user", &user, &bytes, e) < 0)
        return e->code;
    a->reuse = a->reuse && !a->no_cache;
    if (!a->reuse)
        return 0;
    size_t key = strlen(r->grant.name);
    if (!(a->scope = malloc(key + 1 + bytes + 1)))
        return err_set(e, ERR_NOMEM, "no memory for a name");
    memcpy(a->scope, r->grant.name, key);
    a->scope[key] = '\n';
    if (bytes)
        memcpy(a->scope + key + 1, user, bytes);
    a->scope[key + 1 + bytes] = 0;
    return 0;
}

/* {"data": base64 of a state's file}. */
static int decode_inline(struct req *r, const json_t *v, struct asked *a, struct err *e)
{
    const char *orientation = NULL;
    void *data = NULL;
    size_t n = 0;
    req_keep_count(r);
    if (decode_base64(v, "data", &data, &n, e) < 0 ||
        decode_word(v, "orientation", &orientation, e) < 0) {
        free(data);
        snprintf(e->param, sizeof e->param, "state");
        return e->code;
    }
    if (!n) {
        free(data);
        return err_set_param(e, ERR_INVALID, "state",
                             "state is an object without data: a state's file in base64");
    }
    if (!(a->state_file = state_file_new_take(data, n)) ||
        (orientation && !(a->state_file->orientation = strdup(orientation))))
        return err_set(e, ERR_NOMEM, "no memory for a state");
    return 0;
}

/* The state to start from: named by "state" or by "model", or brought along. */
static int decode_state(struct req *r, const json_t *o, struct asked *a, struct err *e)
{
    const json_t *v = decode_field(o, "state");
    bool brought = json_is_object(v) && !decode_field(v, "name");
    if (json_is_object(v) && !brought && decode_field(v, "data"))
        return err_set_param(e, ERR_INVALID, "state",
                             "both name and data of a state are given: one is wanted");
    int rc = brought ? decode_inline(r, v, a, e) : prompt_state_ref(o, "state", true, &a->state, e);
    if (rc < 0 || (rc = prompt_model_state(r, o, "state", &a->state, e)) < 0)
        return rc;
    if (brought && a->state)
        return err_set_param(e, ERR_INVALID, "state",
                             "model names the state %s, and another comes in state", a->state);
    return 0;
}

/* false, true, or "base64", which is what true means. */
static int decode_return_state(const json_t *o, bool *out, struct err *e)
{
    const json_t *v = decode_field(o, "return_state");
    *out = json_is_true(v) || (json_is_string(v) && !strcmp(json_string_value(v), "base64"));
    if (!v || json_is_boolean(v) || *out)
        return 0;
    return err_set_param(e, ERR_INVALID, "return_state",
                         "return_state is not true, false or \"base64\"");
}

int asked_decode(struct req *r, const json_t *o, struct completions *t, struct asked *a,
                 struct err *e)
{
    a->sampling = SAMPLING_DEFAULT;
    a->n = 1;
    a->seed = -1;
    if (!(a->model = prompt_model(r, o, e)) || decode_sampling(o, &a->sampling, e) < 0 ||
        decode_int(o, "n", 1, REQ_SOURCES, &a->n, e) < 0 ||
        decode_int(o, "seed", -1, MAX_SEED, &a->seed, e) < 0 || decode_stop(o, &a->stop, e) < 0 ||
        decode_bias(o, &a->bias, e) < 0 || decode_schema(o, a, e) < 0 ||
        decode_reuse(r, o, a, e) < 0 || decode_bool(o, "return_tokens", &t->return_tokens, e) < 0 ||
        decode_stream(o, t, e) < 0 || decode_state(r, o, a, e) < 0 ||
        adjustment_decode(r, a->model, o, a->seed, &a->adjustment, e) < 0 ||
        decode_return_state(o, &a->return_state, e) < 0 ||
        prompt_state_ref(o, "save_state", false, &a->save_state, e) < 0 ||
        prompt_if_exists(o, &a->new_version, e) < 0)
        return e->code;
    if (!a->save_state)
        return 0;
    /* Told, not ignored: a client that sends the request again must not count on it. */
    if (req_header(r, "Idempotency-Key"))
        return err_set_param(e, ERR_INVALID, "Idempotency-Key",
                             "a completion with save_state takes no Idempotency-Key");
    return req_allow(r, SCOPE_WRITE, e);
}

void asked_fini(struct asked *a)
{
    for (size_t i = 0; i < a->n_prompts; i++)
        free(a->prompt[i].ids);
    schema_unref(a->schema);
    free(a->scope);
    free(a->state);
    free(a->save_state);
    state_file_unref(a->state_file);
    adjustment_unref(a->adjustment);
}

/* ---- building ---- */

static int add_stop(struct completion *c, const char *p, size_t bytes, struct err *e)
{
    size_t i = c->n_stops;
    if (!(c->stops[i] = malloc(bytes + 1)))
        return err_set(e, ERR_NOMEM, "no memory for the stop strings");
    memcpy(c->stops[i], p, bytes + 1);
    c->stop_lens[i] = bytes;
    c->n_stops = i + 1;
    return 0;
}

static int copy_stops(struct completion *c, const struct asked *a, struct err *e)
{
    size_t own = json_is_array(a->stop) ? json_array_size(a->stop) : a->stop != NULL;
    size_t n = own + a->n_stops;
    if (!n)
        return 0;
    c->stops = calloc(n, sizeof *c->stops);
    c->stop_lens = calloc(n, sizeof *c->stop_lens);
    if (!c->stops || !c->stop_lens)
        return err_set(e, ERR_NOMEM, "no memory for the stop strings");
    for (size_t i = 0; i < own; i++) {
        const json_t *s = json_is_array(a->stop) ? json_array_get(a->stop, i) : a->stop;
        if (add_stop(c, json_string_value(s), json_string_length(s), e) < 0)
            return e->code;
    }
    for (size_t i = 0; i < a->n_stops; i++)
        if (add_stop(c, a->stops[i], strlen(a->stops[i]), e) < 0)
            return e->code;
    return 0;
}

static int add_bias(struct completion *c, json_int_t id, const json_t *v, struct err *e)
{
    /* llama-server's false: never this token */
    bool never = json_is_false(v);
    if (id < 0 || id >= c->model->n_vocab)
        return err_set_param(e, ERR_INVALID, "logit_bias",
                             "logit_bias: %lld is not a token id of this model", (long long)id);
    if (!never && (!json_is_number(v) || !(fabs(json_number_value(v)) <= PENALTY)))
        return err_set_param(e, ERR_INVALID, "logit_bias",
                             "logit_bias: the bias of %lld is not a number from -%g to %g",
                             (long long)id, PENALTY, PENALTY);
    c->bias[c->n_bias++] =
        (struct logit_bias){(uint32_t)id, never ? -INFINITY : (float)json_number_value(v)};
    return 0;
}

/* The key of an object as a token id; -1 if it is none. */
static json_int_t key_id(const char *key)
{
    size_t digits = strspn(key, "0123456789");
    return digits && digits < 11 && !key[digits] ? strtoll(key, NULL, 10) : -1;
}

/* {"token id": number}, OpenAI's form, or [[id, number or false], ...], llama-server's. */
static int copy_bias(struct completion *c, const json_t *bias, struct err *e)
{
    bool pairs = json_is_array(bias);
    size_t n = pairs ? json_array_size(bias) : json_object_size(bias);
    const char *key;
    json_t *v;
    if (!n)
        return 0;
    if (!(c->bias = calloc(n, sizeof *c->bias)))
        return err_set(e, ERR_NOMEM, "no memory for the biases");
    for (size_t i = 0; pairs && i < n; i++) {
        const json_t *pair = json_array_get(bias, i), *id = json_array_get(pair, 0);
        if (json_array_size(pair) != 2 || !json_is_integer(id))
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias[%zu] is not a pair of a token id and a number", i);
        if (add_bias(c, json_integer_value(id), json_array_get(pair, 1), e) < 0)
            return e->code;
    }
    json_object_foreach((json_t *)(uintptr_t)bias, key, v)
    {
        if (key_id(key) < 0)
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias: '%.40s' is not a token id", key);
        if (add_bias(c, key_id(key), v, e) < 0)
            return e->code;
    }
    return 0;
}

static int copy_name(char **to, const char *from, struct err *e)
{
    if (from && !(*to = strdup(from)))
        return err_set(e, ERR_NOMEM, "no memory for a name");
    return 0;
}

/* The last choice of a prompt takes its ids over. */
static int copy_prompt(struct completion *c, struct asked *a, size_t prompt, bool last,
                       struct err *e)
{
    size_t n = a->prompt[prompt].n;
    c->prompt = last ? a->prompt[prompt].ids : calloc(n ? n : 1, sizeof *c->prompt);
    if (!c->prompt && n)
        return err_set(e, ERR_NOMEM, "no memory for a prompt");
    if (!last && n)
        memcpy(c->prompt, a->prompt[prompt].ids, n * sizeof *c->prompt);
    if (last)
        a->prompt[prompt].ids = NULL;
    c->n_prompt = n;
    return 0;
}

static int fill(struct completion *c, const struct asked *a, struct err *e)
{
    c->model = a->model;
    c->max_tokens = (uint32_t)a->max_tokens;
    c->sampling = a->sampling;
    c->echo = a->echo;
    c->n_logprobs = (int)a->logprobs;
    if (a->schema)
        schema_ref(a->schema);
    c->schema = a->schema;
    c->save_new_version = a->new_version;
    c->reuse = a->reuse;
    c->return_state = a->return_state;
    c->no_cache = a->no_cache;
    if (a->state_file)
        state_file_ref(a->state_file);
    c->state_file = a->state_file;
    if (a->adjustment)
        adjustment_ref(a->adjustment);
    c->adjustment = a->adjustment;
    return copy_name(&c->scope, a->scope, e) < 0 || copy_name(&c->state, a->state, e) < 0 ||
                   copy_name(&c->save_state, a->save_state, e) < 0 || copy_stops(c, a, e) < 0 ||
                   copy_bias(c, a->bias, e) < 0
               ? e->code
               : 0;
}

/* The choices of one prompt read it once. */
static int share_prompt(struct completions *t, size_t i, struct err *e)
{
    struct completion *c = t->choices[i].c;
    if (t->n == 1 || c->echo || !c->n_prompt)
        return 0;
    if (i % t->n) {
        c->shared = t->choices[i - 1].c->shared;
        shared_prompt_ref(c->shared);
        return 0;
    }
    c->shared = shared_prompt_new(t->n);
    return c->shared ? 0 : err_set(e, ERR_NOMEM, "no memory for a shared prompt");
}

static int check_count(const struct asked *a, struct err *e)
{
    size_t all = a->n_prompts * (size_t)a->n;
    if (all > REQ_SOURCES)
        return err_set_param(e, ERR_INVALID, a->n_prompts > 1 ? "prompt" : "n",
                             "%zu prompts with n %lld: at most %d completions in one request",
                             a->n_prompts, (long long)a->n, REQ_SOURCES);
    if (a->return_state && all > 1)
        return err_set_param(e, ERR_INVALID, "return_state",
                             "return_state with several completions: one state can be given back");
    if (a->save_state && all > 1)
        return err_set_param(e, ERR_INVALID, "save_state",
                             "save_state with several completions: one state can be kept");
    return 0;
}

/* What all chunks of the answer say of it. */
static int name_answer(struct completions *t, const struct asked *a, struct err *e)
{
    unsigned char rnd[12];
    if (getrandom(rnd, sizeof rnd, 0) != (ssize_t)sizeof rnd)
        return err_set(e, ERR_INTERNAL, "no random numbers");
    int n = snprintf(t->id, sizeof t->id, "%s-", t->form->id_prefix);
    for (size_t i = 0; i < sizeof rnd; i++)
        snprintf(t->id + n + 2 * i, 3, "%02x", rnd[i]);
    snprintf(t->fingerprint, sizeof t->fingerprint, "fp_%.16s", a->model->fingerprint);
    t->created = clock_wall_ms() / 1000;
    t->seed = a->seed < 0 ? service_random_seed() : (uint64_t)a->seed;
    t->model = a->model;
    t->n = (size_t)a->n;
    t->n_logprobs = (int)a->logprobs;
    return 0;
}

int completions_submit(struct req *r, struct completions *t, struct asked *a, struct err *e)
{
    if (check_count(a, e) < 0 || name_answer(t, a, e) < 0)
        return e->code;
    if (t->stream)
        req_await(r, &completions_stream, t);
    for (size_t i = 0; i < a->n_prompts * t->n; i++) {
        struct completion *c = completion_new();
        if (!c)
            return err_set(e, ERR_NOMEM, "no memory for a completion");
        t->choices[i].c = c;
        req_add_source(r, &c->call);
        t->n_choices = i + 1;
        if (fill(c, a, e) < 0 || copy_prompt(c, a, i / t->n, i % t->n == t->n - 1, e) < 0 ||
            share_prompt(t, i, e) < 0)
            return e->code;
        c->sampling.seed = t->seed + i % t->n;
    }
    for (size_t i = 0; i < t->n_choices; i++)
        if (service_complete(r->svc, t->choices[i].c, e) < 0)
            return e->code;
    return 0;
}
