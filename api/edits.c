/* POST /v1/states/edits: arithmetic and diffusion on states. */
#include "api/diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPS_BYTES ((size_t)64 << 10) /* as the record keeps them */
#define MAX_SEED      (INT64_C(1) << 53)

/* ---- operations ---- */

enum wanted { NONE, ONE, SOME };

/* A word of the interface, and what it is in the engine: amount = sign * the field. */
struct word {
    const char *word;
    enum rwkv_edit_kind kind;
    enum wanted with;
    const char *with_field, *minus_field; /* state references; NULL: none */
    bool minus_wanted;
    const char *amount_field; /* NULL: none, the amount is sign */
    double amount_default;    /* NAN: must be given */
    double sign;
    double min;
};

static const struct word words[] = {
    {"lerp", RWKV_EDIT_LERP, ONE, "with", NULL, false, "t", NAN, 1, -INFINITY},
    {"slerp", RWKV_EDIT_SLERP, ONE, "with", NULL, false, "t", NAN, 1, -INFINITY},
    {"add", RWKV_EDIT_ADD, SOME, "with", "minus", false, "scale", 1, 1, -INFINITY},
    {"subtract", RWKV_EDIT_ADD, SOME, "with", NULL, false, "scale", 1, -1, -INFINITY},
    {"contrast", RWKV_EDIT_ADD, SOME, "positive", "negative", true, "scale", 1, 1, -INFINITY},
    {"scale", RWKV_EDIT_SCALE, NONE, NULL, NULL, false, "factor", NAN, 1, -INFINITY},
    {"negate", RWKV_EDIT_SCALE, NONE, NULL, NULL, false, NULL, 0, -1, 0},
    {"mean", RWKV_EDIT_MEAN, SOME, "with", NULL, false, NULL, 0, 1, 0},
    {"clamp_norm", RWKV_EDIT_CLAMP_NORM, NONE, NULL, NULL, false, "max", NAN, 1, 0},
    {"noise", RWKV_EDIT_NOISE, NONE, NULL, NULL, false, "scale", NAN, 1, 0},
    {"zero", RWKV_EDIT_ZERO, NONE, NULL, NULL, false, NULL, 0, 1, 0},
    {"copy", RWKV_EDIT_COPY, ONE, "with", NULL, false, NULL, 0, 1, 0},
};

/* An operation's place in the request, for error.param. */
struct place {
    size_t index;
    char text[64];
};

static const char *at(struct place *p, const char *field)
{
    snprintf(p->text, sizeof p->text, "ops[%zu].%s", p->index, field);
    return p->text;
}

static int find_word(const json_t *o, struct place *p, const struct word **out, struct err *e)
{
    const char *op = json_string_value(decode_field(o, "op"));
    for (size_t i = 0; op && i < sizeof words / sizeof words[0]; i++)
        if (!strcmp(op, words[i].word)) {
            *out = &words[i];
            return 0;
        }
    return err_set_param(e, ERR_INVALID, at(p, "op"),
                         "op is none of lerp, slerp, add, subtract, contrast, scale, negate, mean, "
                         "clamp_norm, noise, zero, copy, diffuse, invert and inpaint");
}

/* ---- fields of other operations ---- */

static const char *const of_arithmetic[] = {"with",  "minus",  "positive", "negative",  "t",
                                            "scale", "factor", "max",      "normalize", NULL};
static const char *const of_diffusion[] = {"condition",
                                           "negative_condition",
                                           "source_condition",
                                           "strength",
                                           "denoising_strength",
                                           "num_inference_steps",
                                           "steps",
                                           "guidance_scale",
                                           "cfg_scale",
                                           "scheduler",
                                           "products",
                                           "eta",
                                           "seed",
                                           "diffuser",
                                           "diffuser_sha256",
                                           "condition_sha256",
                                           NULL};

static bool takes(const struct word *w, const char *field)
{
    const char *const own[] = {w->with_field, w->minus_field, w->amount_field, "normalize",
                               w->kind == RWKV_EDIT_NOISE ? "seed" : NULL};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (own[i] && !strcmp(own[i], field))
            return true;
    return false;
}

/* What is meant for another operation is a mistake; w NULL: none of the fields is taken. */
static int refuse_fields(const json_t *o, const struct word *w, const char *const *fields,
                         struct place *p, struct err *e)
{
    for (; *fields; fields++)
        if (decode_field(o, *fields) && !(w && takes(w, *fields)))
            return err_set_param(e, ERR_INVALID, at(p, *fields), "%s takes no %s",
                                 json_string_value(decode_field(o, "op")), *fields);
    return 0;
}

/* ---- one operation ---- */

static int decode_states(const json_t *o, const struct word *w, struct place *p, struct edit_op *op,
                         struct err *e)
{
    const json_t *with = w->with_field ? decode_field(o, w->with_field) : NULL;
    const json_t *minus = w->minus_field ? decode_field(o, w->minus_field) : NULL;
    if (w->with != NONE && !with)
        return err_set_param(e, ERR_INVALID, at(p, w->with_field), "%s is missing", w->with_field);
    if (w->minus_wanted && !minus)
        return err_set_param(e, ERR_INVALID, at(p, w->minus_field), "%s is missing",
                             w->minus_field);
    if (with && errands_decode_refs(with, at(p, w->with_field), EDIT_MAX_STATES, &op->with,
                                    &op->n_with, e) < 0)
        return e->code;
    if (w->with == ONE && op->n_with != 1)
        return err_set_param(e, ERR_INVALID, at(p, w->with_field), "%s takes one state", w->word);
    return minus ? errands_decode_refs(minus, at(p, w->minus_field), EDIT_MAX_STATES, &op->minus,
                                       &op->n_minus, e)
                 : 0;
}

static int decode_amount(const json_t *o, const struct word *w, struct place *p, struct edit_op *op,
                         struct err *e)
{
    const json_t *v = w->amount_field ? decode_field(o, w->amount_field) : NULL;
    double amount = v ? json_number_value(v) : w->amount_field ? w->amount_default : 1;
    if (v && !json_is_number(v))
        return err_set_param(e, ERR_INVALID, at(p, w->amount_field), "%s is not a number",
                             w->amount_field);
    if (isnan(amount))
        return err_set_param(e, ERR_INVALID, at(p, w->amount_field), "%s is missing",
                             w->amount_field);
    if (w->amount_field && amount < w->min)
        return err_set_param(e, ERR_INVALID, at(p, w->amount_field), "%s is less than %g",
                             w->amount_field, w->min);
    op->amount = w->sign * amount;
    return 0;
}

/* diffuse, invert, inpaint: 1; another word: 0. */
static int decode_diffusion(struct req *r, const struct model_info *m, json_t *o, struct place *p,
                            struct edit_op *op, struct err *e)
{
    const char *word = json_string_value(decode_field(o, "op"));
    bool invert = word && !strcmp(word, "invert"), inpaint = word && !strcmp(word, "inpaint");
    if (!word || (!invert && !inpaint && strcmp(word, "diffuse") != 0))
        return 0;
    if (refuse_fields(o, NULL, of_arithmetic, p, e) < 0)
        return e->code;
    struct diffusion *d = op->diffusion = calloc(1, sizeof *d);
    if (!d)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    d->invert = invert;
    d->masked = decode_field(o, "layers") || decode_field(o, "heads") || decode_field(o, "parts");
    if (inpaint && !d->masked)
        return err_set_param(e, ERR_INVALID, at(p, "op"),
                             "inpaint wants layers, heads or parts: what is to be made anew");
    if ((invert || inpaint) && !decode_field(o, "strength") &&
        json_object_set_new(o, "strength", json_real(1)) < 0)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    if (errands_decode_select(o, at(p, ""), op, e) < 0 ||
        diffusion_decode(r, m, o, at(p, ""), true, d, e) < 0)
        return e->code;
    return 1;
}

static int decode_op(struct req *r, const struct model_info *m, json_t *o, size_t index,
                     struct edit_op *op, struct err *e)
{
    struct place p = {.index = index};
    const struct word *w = NULL;
    int64_t seed = -1;
    if (!json_is_object(o))
        return err_set_param(e, ERR_INVALID, at(&p, "op"), "ops[%zu] is not an object", index);
    int rc = decode_diffusion(r, m, o, &p, op, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    if (find_word(o, &p, &w, e) < 0)
        return e->code;
    op->kind = w->kind;
    if (refuse_fields(o, w, of_arithmetic, &p, e) < 0 ||
        refuse_fields(o, w, of_diffusion, &p, e) < 0)
        return e->code;
    if (decode_states(o, w, &p, op, e) < 0 || decode_amount(o, w, &p, op, e) < 0 ||
        errands_decode_select(o, at(&p, ""), op, e) < 0)
        return e->code;
    if (decode_bool(o, "normalize", &op->normalize, e) < 0 ||
        decode_int(o, "seed", -1, MAX_SEED, &seed, e) < 0) {
        snprintf(e->param, sizeof e->param, "ops[%zu]", index);
        return e->code;
    }
    if (w->kind != RWKV_EDIT_NOISE)
        return 0;
    op->seed = seed < 0 ? service_random_seed() : (uint64_t)seed;
    if (json_object_set_new(o, "seed", json_integer((json_int_t)op->seed)) < 0)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    return 0;
}

/* ---- POST /v1/states/edits ---- */

static int decode_ops(struct req *r, const json_t *o, struct state_edit *c, struct err *e)
{
    json_t *ops = decode_field(o, "ops");
    size_t n = json_array_size(ops);
    if (!json_is_array(ops) || n < 1 || n > EDIT_MAX_OPS)
        return err_set_param(e, ERR_INVALID, "ops", "ops is not an array of 1 to %d operations",
                             EDIT_MAX_OPS);
    if (!(c->ops = calloc(n, sizeof *c->ops)))
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    c->n_ops = n;
    for (size_t i = 0; i < n; i++) {
        if (decode_op(r, c->errand.model, json_array_get(ops, i), i, &c->ops[i], e) < 0)
            return e->code;
        c->errand.samples |= c->ops[i].diffusion != NULL;
    }
    c->ops_json = json_dumps(ops, JSON_COMPACT);
    if (!c->ops_json)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    if (strlen(c->ops_json) > MAX_OPS_BYTES)
        return err_set_param(e, ERR_INVALID, "ops", "ops is longer than %zu bytes", MAX_OPS_BYTES);
    return 0;
}

static int decode_edit(struct req *r, const json_t *o, struct state_edit *c, struct err *e)
{
    if (!(c->errand.model = prompt_model(r, o, e)) ||
        prompt_state_ref(o, "state", true, &c->state, e) < 0 ||
        prompt_state_ref(o, "name", false, &c->name, e) < 0 ||
        prompt_if_exists(o, &c->write.new_version, e) < 0 ||
        states_decode_change(o, false, &c->change, e) < 0)
        return e->code;
    if (!c->state || !c->name)
        return err_set_param(e, ERR_INVALID, c->state ? "name" : "state", "%s is missing",
                             c->state ? "name" : "state");
    return decode_ops(r, o, c, e);
}

static int finish_edit(struct req *r, struct err *e)
{
    const struct state_edit *c = (const struct state_edit *)(void *)r->sources[0].call;
    struct jw w = {&r->reply.body, false};
    (void)e;
    states_reply_info(r, 201, c->saved, c->replayed);
    write_state(&w, NULL, c->saved);
    return 0;
}

int handle_state_edits(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_edit, NULL, false};
    struct state_edit *c = state_edit_new();
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode_edit(r, o, c, e) : e->code;
    json_decref(o);
    if (rc == 0)
        rc = precondition_key(r, &c->write, e);
    return errands_submit(r, &c->errand, &task, rc, e);
}
