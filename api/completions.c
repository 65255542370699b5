/* POST /v1/completions: reading the request. The answer is in completions_out.c. */
#include "api/completions.h"

#include "api/route.h"
#include "daemon/base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_TOKENS     ((int64_t)1 << 20)
#define MAX_STOPS      16
#define MAX_STOP_BYTES 4096
#define MAX_BIASES     1024
#define MAX_SEED       INT64_MAX
#define PENALTY        100.0

/* What every choice of the request shares, as decoded. */
struct asked {
    const struct model_info *model;
    struct sampling_params sampling;
    int64_t max_tokens, n, seed, logprobs;
    const json_t *stop; /* string, array of strings, or NULL */
    const json_t *bias; /* object, or NULL */
    char *state, *save_state;
    bool new_version, echo;
};

/* ---- fields ---- */

/* Fields of OpenAI's that would change the answer and are not done here. */
static int refuse_others(const json_t *o, int64_t n, struct err *e)
{
    int64_t best_of = n;
    const char *suffix = NULL;
    size_t bytes = 0;
    if (decode_int(o, "best_of", 1, REQ_SOURCES, &best_of, e) < 0 ||
        decode_text(o, "suffix", &suffix, &bytes, e) < 0)
        return e->code;
    if (best_of != n)
        return err_set_param(e, ERR_INVALID, "best_of", "best_of other than n is not supported");
    if (bytes)
        return err_set_param(e, ERR_INVALID, "suffix", "suffix is not supported");
    return 0;
}

static int decode_sampling(const json_t *o, struct sampling_params *p, struct err *e)
{
    int64_t top_k = 0;
    if (decode_number(o, "temperature", 0, 100, &p->temperature, e) < 0 ||
        decode_number(o, "top_p", 0, 1, &p->top_p, e) < 0 ||
        decode_number(o, "min_p", 0, 1, &p->min_p, e) < 0 ||
        decode_int(o, "top_k", -1, UINT32_MAX, &top_k, e) < 0 ||
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
    if (*out && (!json_is_object(*out) || json_object_size(*out) > MAX_BIASES))
        return err_set_param(e, ERR_INVALID, "logit_bias",
                             "logit_bias is not an object of at most %d token ids", MAX_BIASES);
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

/* logprobs: a number of alternatives; true and false as chat has them mean 0 and none. */
static int decode_logprobs(const json_t *o, int64_t *n, struct err *e)
{
    const json_t *v = decode_field(o, "logprobs");
    *n = -1;
    if (json_is_boolean(v)) {
        *n = json_is_true(v) ? 0 : -1;
        return 0;
    }
    return decode_int(o, "logprobs", 0, 20, n, e);
}

static int decode_asked(struct req *r, const json_t *o, struct completions *t, struct asked *a,
                        struct err *e)
{
    a->sampling = SAMPLING_DEFAULT;
    a->max_tokens = 16;
    a->n = 1;
    a->seed = -1;
    if (!(a->model = prompt_model(r, o, e)) || decode_sampling(o, &a->sampling, e) < 0 ||
        decode_int(o, "max_tokens", 0, MAX_TOKENS, &a->max_tokens, e) < 0 ||
        decode_int(o, "n", 1, REQ_SOURCES, &a->n, e) < 0 ||
        decode_int(o, "seed", -1, MAX_SEED, &a->seed, e) < 0 ||
        decode_logprobs(o, &a->logprobs, e) < 0 || decode_stop(o, &a->stop, e) < 0 ||
        decode_bias(o, &a->bias, e) < 0 || decode_bool(o, "echo", &a->echo, e) < 0 ||
        decode_bool(o, "return_tokens", &t->return_tokens, e) < 0 || decode_stream(o, t, e) < 0 ||
        prompt_state_ref(o, "state", true, &a->state, e) < 0 ||
        prompt_state_ref(o, "save_state", false, &a->save_state, e) < 0 ||
        prompt_if_exists(o, &a->new_version, e) < 0 || refuse_others(o, a->n, e) < 0)
        return e->code;
    return a->save_state ? req_allow(r, SCOPE_WRITE, e) : 0;
}

/* ---- prompts ---- */

/* A prompt is a string or an array of ids; prompts are an array of prompts. */
static bool is_many(const json_t *v)
{
    const json_t *first = json_array_get(v, 0);
    return json_is_string(first) || json_is_array(first);
}

/* Also how many prompts there are; NULL for none (an empty one, which only a state allows). */
static int decode_prompts(const json_t *o, const struct asked *a, const json_t **v, size_t *n,
                          struct err *e)
{
    *v = decode_field(o, "prompt");
    *n = 1;
    if (!*v)
        return a->state
                   ? 0
                   : err_set_param(e, ERR_INVALID, "prompt",
                                   "prompt is missing (it may be left out where a state is named)");
    if (!json_is_string(*v) && !json_is_array(*v))
        return err_set_param(e, ERR_INVALID, "prompt",
                             "prompt is not a string, an array of token ids, or an array of those");
    if (is_many(*v))
        *n = json_array_size(*v);
    if (*n > REQ_SOURCES || *n * (size_t)a->n > REQ_SOURCES)
        return err_set_param(e, ERR_INVALID, *n > 1 ? "prompt" : "n",
                             "%zu prompts with n %lld: at most %d completions in one request", *n,
                             (long long)a->n, REQ_SOURCES);
    if (a->save_state && *n * (size_t)a->n > 1)
        return err_set_param(e, ERR_INVALID, "save_state",
                             "save_state with several completions: one state can be kept");
    return 0;
}

/* ---- building ---- */

static int copy_stops(struct completion *c, const json_t *stop, struct err *e)
{
    size_t n = json_is_array(stop) ? json_array_size(stop) : stop != NULL;
    if (!n)
        return 0;
    c->stops = calloc(n, sizeof *c->stops);
    c->stop_lens = calloc(n, sizeof *c->stop_lens);
    if (!c->stops || !c->stop_lens)
        return err_set(e, ERR_NOMEM, "no memory for the stop strings");
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(stop) ? json_array_get(stop, i) : stop;
        size_t bytes = json_string_length(s);
        if (!(c->stops[i] = malloc(bytes + 1)))
            return err_set(e, ERR_NOMEM, "no memory for the stop strings");
        memcpy(c->stops[i], json_string_value(s), bytes + 1);
        c->stop_lens[i] = bytes;
        c->n_stops = i + 1;
    }
    return 0;
}

/* {"token id": number}: OpenAI's form. */
static int copy_bias(struct completion *c, const json_t *bias, struct err *e)
{
    size_t n = json_object_size(bias);
    const char *key;
    json_t *v;
    if (!n)
        return 0;
    if (!(c->bias = calloc(n, sizeof *c->bias)))
        return err_set(e, ERR_NOMEM, "no memory for the biases");
    json_object_foreach((json_t *)(uintptr_t)bias, key, v)
    {
        size_t digits = strspn(key, "0123456789");
        unsigned long long id =
            digits && digits < 11 && !key[digits] ? strtoull(key, NULL, 10) : ~0ull;
        if (id >= c->model->n_vocab)
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias: '%.40s' is not a token id", key);
        if (!json_is_number(v) || !(fabs(json_number_value(v)) <= PENALTY))
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias: the bias of %llu is not a number from -%g to %g", id,
                                 PENALTY, PENALTY);
        c->bias[c->n_bias++] = (struct logit_bias){(uint32_t)id, (float)json_number_value(v)};
    }
    return 0;
}

static int copy_name(char **to, const char *from, struct err *e)
{
    if (from && !(*to = strdup(from)))
        return err_set(e, ERR_NOMEM, "no memory for a name");
    return 0;
}

static int fill(struct req *r, struct completion *c, const struct asked *a, const json_t *prompt,
                struct err *e)
{
    c->model = a->model;
    c->max_tokens = (uint32_t)a->max_tokens;
    c->sampling = a->sampling;
    c->echo = a->echo;
    c->n_logprobs = (int)a->logprobs;
    c->save_new_version = a->new_version;
    if (copy_name(&c->state, a->state, e) < 0 || copy_name(&c->save_state, a->save_state, e) < 0 ||
        copy_stops(c, a->stop, e) < 0 || copy_bias(c, a->bias, e) < 0)
        return e->code;
    return prompt ? prompt_ids(r, a->model, prompt, "prompt", &c->prompt, &c->n_prompt, e) : 0;
}

/* Makes every completion, then submits them: what is wrong with any is told before any runs. */
static int make_choices(struct req *r, struct completions *t, const struct asked *a,
                        const json_t *prompts, size_t n_prompts, struct err *e)
{
    t->n = (size_t)a->n;
    for (size_t i = 0; i < n_prompts * t->n; i++) {
        struct completion *c = completion_new();
        if (!c)
            return err_set(e, ERR_NOMEM, "no memory for a completion");
        t->choices[i].c = c;
        req_add_source(r, &c->call);
        t->n_choices = i + 1;
        if (fill(r, c, a, is_many(prompts) ? json_array_get(prompts, i / t->n) : prompts, e) < 0)
            return e->code;
        c->sampling.seed = t->seed + i % t->n;
    }
    for (size_t i = 0; i < t->n_choices; i++)
        if (service_complete(r->svc, t->choices[i].c, e) < 0)
            return e->code;
    return 0;
}

static int name_answer(struct completions *t, const struct asked *a, struct err *e)
{
    unsigned char rnd[12];
    if (getrandom(rnd, sizeof rnd, 0) != (ssize_t)sizeof rnd)
        return err_set(e, ERR_INTERNAL, "no random numbers");
    memcpy(t->id, "cmpl-", 6);
    for (size_t i = 0; i < sizeof rnd; i++)
        snprintf(t->id + 5 + 2 * i, 3, "%02x", rnd[i]);
    snprintf(t->fingerprint, sizeof t->fingerprint, "fp_%.16s", a->model->fingerprint);
    t->created = clock_wall_ms() / 1000;
    t->seed = a->seed < 0 ? service_random_seed() : (uint64_t)a->seed;
    t->model = a->model;
    t->n_logprobs = (int)a->logprobs;
    return 0;
}

static void choices_init(struct completions *t)
{
    for (size_t i = 0; i < REQ_SOURCES; i++) {
        struct choice *ch = &t->choices[i];
        struct buf *all[] = {&ch->text,     &ch->ids,  &ch->tokens,
                             &ch->logprobs, &ch->tops, &ch->offsets};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            buf_init(all[k], (size_t)64 << 20);
    }
}

int handle_completions(struct req *r, struct err *e)
{
    struct asked a = {0};
    const json_t *prompts = NULL;
    size_t n_prompts = 0;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    struct completions *t = o ? calloc(1, sizeof *t) : NULL;
    int rc = o ? 0 : e->code;
    if (o && !t)
        rc = err_set(e, ERR_NOMEM, "no memory for a completion");
    if (rc < 0)
        goto out;
    choices_init(t);
    req_await(r, &completions_whole, t); /* t is the request's from here on */
    if ((rc = decode_asked(r, o, t, &a, e)) < 0 ||
        (rc = decode_prompts(o, &a, &prompts, &n_prompts, e)) < 0 ||
        (rc = name_answer(t, &a, e)) < 0)
        goto out;
    if (t->stream)
        req_await(r, &completions_stream, t);
    rc = make_choices(r, t, &a, prompts, n_prompts, e);
out:
    free(a.state);
    free(a.save_state);
    json_decref(o);
    return rc;
}
