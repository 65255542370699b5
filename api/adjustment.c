#include "api/adjustment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEED (INT64_C(1) << 53)

/* A field's name with what stands before it. */
struct path {
    char text[48];
};

static struct path at(const char *prefix, const char *field)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%.20s%.27s", prefix, field);
    return p;
}

int adjustment_decode_text(struct req *r, const struct model_info *m, const json_t *o,
                           const char *param, uint32_t **ids, size_t *n, struct err *e)
{
    const json_t *text = decode_field(o, "text"), *tokens = decode_field(o, "tokens");
    const json_t *v = text ? text : tokens;
    struct path p = at(param, tokens ? "tokens" : "text");
    struct token_list list = {0};
    uint32_t *read = NULL;
    size_t n_read = 0;
    req_keep_count(r);
    if (!text == !tokens)
        return err_set_param(e, ERR_INVALID, p.text, "of text and tokens one is wanted");
    if (text ? !json_is_string(v) : !json_is_array(v))
        return err_set_param(e, ERR_INVALID, p.text, "%s is not %s", p.text,
                             text ? "a text" : "an array of token ids");
    int rc = prompt_ids(r, m, v, p.text, &read, &n_read, e);
    if (rc == 0 && !n_read)
        rc = err_set_param(e, ERR_INVALID, p.text, "the context is empty");
    if (rc == 0)
        rc = condition_tokens(r->svc, m, read, n_read, &list, e);
    *ids = list.ids;
    *n = list.n;
    free(read);
    return rc;
}

int adjustment_decode_sampling(const json_t *o, const char *param, int64_t *seed, int64_t *steps,
                               struct err *e)
{
    static const char *const keys[] = {"seed", "num_inference_steps"};
    int64_t *const to[] = {seed, steps};
    const int64_t least[] = {-1, 1}, most[] = {MAX_SEED, 100};
    for (size_t i = 0; i < 2; i++)
        if (decode_int(o, keys[i], least[i], most[i], to[i], e) < 0) {
            snprintf(e->param, sizeof e->param, "%s", at(param, keys[i]).text);
            return e->code;
        }
    return 0;
}

static int decode_strength(const json_t *o, double *out, struct err *e)
{
    const json_t *v = decode_field(o, "strength");
    *out = v ? json_number_value(v) : 1;
    if (v && (!json_is_number(v) || !(*out >= 0 && *out <= 1)))
        return err_set_param(e, ERR_INVALID, "hybrid.strength",
                             "strength is not a number from 0 to 1");
    return 0;
}

static int decode_context(struct req *r, const struct model_info *m, const json_t *o,
                          struct adjustment_ask *ask, struct err *e)
{
    const json_t *v = decode_field(o, "context");
    const char *name = json_string_value(v);
    if (json_is_object(v))
        return adjustment_decode_text(r, m, v, "hybrid.context.", &ask->text, &ask->n_text, e);
    if (!name || !*name || strlen(name) != json_string_length(v))
        return err_set_param(e, ERR_INVALID, "hybrid.context",
                             "context is neither the name of a stored context nor an object with "
                             "one of text and tokens");
    for (size_t i = 0; i < 2; i++) {
        static const char *const fields[] = {"seed", "num_inference_steps"};
        if (decode_field(o, fields[i]))
            return err_set_param(e, ERR_INVALID, at("hybrid.", fields[i]).text,
                                 "%s: a stored context has its own", fields[i]);
    }
    ask->context = strdup(name);
    return ask->context ? 0 : err_set(e, ERR_NOMEM, "no memory for a name");
}

int adjustment_decode(struct req *r, const struct model_info *m, const json_t *o, int64_t seed,
                      struct adjustment **out, struct err *e)
{
    const json_t *v = decode_field(o, "hybrid");
    struct adjustment_ask ask = {0};
    int64_t steps = 0;
    *out = NULL;
    if (!v)
        return 0;
    if (!json_is_object(v))
        return err_set_param(e, ERR_INVALID, "hybrid", "hybrid is not an object");
    int rc = decode_strength(v, &ask.strength, e);
    if (rc == 0)
        rc = adjustment_decode_sampling(v, "hybrid.", &seed, &steps, e);
    if (rc == 0)
        rc = decode_context(r, m, v, &ask, e);
    if (rc < 0) {
        free(ask.text);
        return rc;
    }
    ask.seed = seed < 0 ? service_random_seed() : (uint64_t)seed;
    ask.steps = (uint32_t)steps;
    *out = adjustment_new_take(&ask);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a context");
}

void adjustment_write(struct jw *w, const struct adjustment *a)
{
    const struct adjustment_used *used = a ? adjustment_get_used(a) : NULL;
    if (!used)
        return;
    jw_object(w, "hybrid");
    jw_string(w, "context", used->context[0] ? used->context : NULL);
    jw_number(w, "strength", used->strength);
    if (used->sha256[0]) {
        jw_string(w, "sha256", used->sha256);
        jw_uint(w, "seed", used->seed);
        jw_uint(w, "num_inference_steps", used->steps);
        jw_uint(w, "n_tokens", used->n_tokens);
    }
    jw_end_object(w);
}
