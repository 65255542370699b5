#include "api/diffusion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEED (INT64_C(1) << 53)

/* A field's name in error.param. */
struct param {
    const char *prefix;
    char text[48];
};

static const char *at(struct param *p, const char *field)
{
    snprintf(p->text, sizeof p->text, "%.20s%.27s", p->prefix, field);
    return p->text;
}

/* ---- conditions ---- */

int diffusion_decode_text(struct req *r, const struct model_info *m, const json_t *v,
                          const char *param, struct token_list *out, struct err *e)
{
    uint32_t *ids = NULL;
    size_t n = 0;
    if (!json_is_string(v) || !json_string_length(v))
        return err_set_param(e, ERR_INVALID, param, "%s is not a text", param);
    int rc = prompt_ids(r, m, v, param, &ids, &n, e);
    if (rc == 0)
        rc = condition_tokens(r->svc, m, ids, n, out, e);
    free(ids);
    return rc;
}

static int copy_word(const json_t *v, const char *param, char **out, struct err *e)
{
    const char *s = json_string_value(v);
    if (!s || !*s || strlen(s) != json_string_length(v) || strlen(s) > 256)
        return err_set_param(e, ERR_INVALID, param, "%s is not a name", param);
    *out = strdup(s);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a name");
}

/* "name", or an object with one of name, text, label, and a weight. */
static int decode_part(struct req *r, const struct model_info *m, const json_t *v,
                       const char *param, struct mix_part *p, struct err *e)
{
    const json_t *name = json_is_string(v) ? v : decode_field(v, "name");
    const json_t *text = decode_field(v, "text"), *label = decode_field(v, "label");
    const json_t *weight = decode_field(v, "weight");
    if ((!json_is_string(v) && !json_is_object(v)) || !name + !text + !label != 2)
        return err_set_param(e, ERR_INVALID, param,
                             "%s is neither a condition's name nor an object with one of name, "
                             "text and label",
                             param);
    p->weight = weight ? json_number_value(weight) : 1;
    if ((weight && !json_is_number(weight)) || !(p->weight > 0) || p->weight > 1e6)
        return err_set_param(e, ERR_INVALID, param, "%s: a weight is a number above 0", param);
    if (text)
        return diffusion_decode_text(r, m, text, param, &p->text, e);
    return copy_word(name ? name : label, param, name ? &p->name : &p->label, e);
}

static int decode_mix(struct req *r, const struct model_info *m, const json_t *v, const char *param,
                      struct mix *out, struct err *e)
{
    bool list = json_is_array(v);
    size_t n = list ? json_array_size(v) : 1;
    if (!v)
        return 0;
    if (n < 1 || n > MIX_MAX)
        return err_set_param(e, ERR_INVALID, param, "%s has %zu conditions, 1 to %d are taken",
                             param, n, MIX_MAX);
    if (!(out->parts = calloc(n, sizeof *out->parts)))
        return err_set(e, ERR_NOMEM, "no memory for a condition");
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        if (decode_part(r, m, list ? json_array_get(v, i) : v, param, &out->parts[i], e) < 0)
            return e->code;
        if (out->parts[i].label && n > 1)
            return err_set_param(e, ERR_INVALID, param, "%s: a label stands alone", param);
    }
    return 0;
}

/* ---- numbers and words ---- */

/* The field, or its other name, moved to the first; absent: what stands in *v, written back. */
static int decode_real(json_t *o, const char *key, const char *alias, struct param *p, double *v,
                       struct err *e)
{
    json_t *x = decode_field(o, key);
    if (!x && alias)
        x = decode_field(o, alias);
    if (x && !json_is_number(x))
        return err_set_param(e, ERR_INVALID, at(p, key), "%s is not a number", key);
    if (x)
        *v = json_number_value(x);
    if (json_object_set_new(o, key, json_real(*v)) < 0)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    if (alias)
        json_object_del(o, alias);
    return 0;
}

static int decode_count(json_t *o, const char *key, const char *alias, struct param *p, int64_t max,
                        int64_t *v, struct err *e)
{
    const char *used = decode_field(o, key) || !alias ? key : alias;
    if (decode_int(o, used, -1, max, v, e) < 0) {
        at(p, used);
        snprintf(e->param, sizeof e->param, "%s", p->text);
        return e->code;
    }
    if (alias)
        json_object_del(o, alias);
    return json_object_set_new(o, key, json_integer(*v)) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for a request");
}

/* One of n words, the first if there is none; its place: *choice. `listed`: all of them, for people. */
static int decode_choice(json_t *o, const char *key, const char *const *words, size_t n,
                         const char *listed, struct param *p, size_t *choice, struct err *e)
{
    const json_t *v = decode_field(o, key);
    const char *s = v ? json_string_value(v) : words[0];
    for (*choice = 0; s && *choice < n; ++*choice)
        if (!strcmp(s, words[*choice]))
            return json_object_set_new(o, key, json_string(s)) == 0
                       ? 0
                       : err_set(e, ERR_NOMEM, "no memory for a request");
    return err_set_param(e, ERR_INVALID, at(p, key), "%s is none of %s", key, listed);
}

static int decode_method(json_t *o, struct param *p, struct diffusion *d, struct err *e)
{
    static const char *const schedulers[] = {"ddim", "ddpm", "dpmsolver++"};
    static const char *const products[] = {"bf16", "f32"};
    size_t scheduler, product;
    if (decode_choice(o, "scheduler", schedulers, 3, "ddim, ddpm and dpmsolver++", p, &scheduler,
                      e) < 0 ||
        decode_choice(o, "products", products, 2, "bf16 and f32", p, &product, e) < 0)
        return e->code;
    d->scheduler = (enum diffusion_scheduler)scheduler;
    d->bf16 = product == 0;
    return 0;
}

static int decode_wanted(const json_t *o, const char *key, struct param *p, char out[65],
                         struct err *e)
{
    const json_t *v = decode_field(o, key);
    const char *s = json_string_value(v);
    if (!v)
        return 0;
    if (!s || strlen(s) != 64 || strspn(s, "0123456789abcdef") != 64)
        return err_set_param(e, ERR_INVALID, at(p, key), "%s is not a SHA-256 in hex", key);
    memcpy(out, s, 65);
    return 0;
}

static int decode_options(json_t *o, struct param *p, bool edit, struct diffusion *d, struct err *e)
{
    const json_t *diffuser = decode_field(o, "diffuser");
    int64_t steps = 20, seed = -1;
    d->guidance = edit ? 3 : 1.5;
    d->strength = edit ? 0.5 : 1;
    if (decode_real(o, "guidance_scale", "cfg_scale", p, &d->guidance, e) < 0 ||
        decode_real(o, "eta", NULL, p, &d->eta, e) < 0 ||
        (edit && decode_real(o, "strength", "denoising_strength", p, &d->strength, e) < 0) ||
        decode_method(o, p, d, e) < 0 ||
        decode_count(o, "num_inference_steps", "steps", p, DIFFUSION_MAX_STEPS, &steps, e) < 0 ||
        decode_count(o, "seed", NULL, p, MAX_SEED, &seed, e) < 0 ||
        decode_wanted(o, "diffuser_sha256", p, d->want_diffuser, e) < 0 ||
        decode_wanted(o, "condition_sha256", p, d->want_condition, e) < 0)
        return e->code;
    if (diffuser && copy_word(diffuser, at(p, "diffuser"), &d->diffuser, e) < 0)
        return e->code;
    d->steps = steps < 0 ? 0 : (size_t)steps;
    d->seed = seed < 0 ? service_random_seed() : (uint64_t)seed;
    return json_object_set_new(o, "seed", json_integer((json_int_t)d->seed)) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for a request");
}

int diffusion_decode(struct req *r, const struct model_info *m, json_t *o, const char *prefix,
                     bool edit, struct diffusion *d, struct err *e)
{
    struct param p = {.prefix = prefix};
    const json_t *condition = decode_field(o, "condition");
    if (!condition)
        return err_set_param(e, ERR_INVALID, at(&p, "condition"), "condition is missing");
    if (decode_mix(r, m, condition, at(&p, "condition"), &d->condition, e) < 0 ||
        decode_mix(r, m, decode_field(o, "negative_condition"), at(&p, "negative_condition"),
                   &d->negative, e) < 0 ||
        (edit && decode_mix(r, m, decode_field(o, "source_condition"), at(&p, "source_condition"),
                            &d->source, e) < 0))
        return e->code;
    return decode_options(o, &p, edit, d, e);
}
