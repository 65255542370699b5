#include "api/errands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int errands_submit(struct req *r, struct errand *c, const struct task *t, int rc, struct err *e)
{
    if (rc == 0)
        rc = service_errand(r->svc, c, e);
    return req_follow(r, &c->call, t, rc);
}

int errands_decode_refs(const json_t *v, const char *param, size_t most, char ***out, size_t *n,
                        struct err *e)
{
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    if (count < 1 || count > most)
        return err_set_param(e, ERR_INVALID, param, "%s names %zu states, 1 to %zu are taken",
                             param, count, most);
    if (!(*out = calloc(count, sizeof **out)))
        return err_set(e, ERR_NOMEM, "no memory for the names of states");
    for (size_t i = 0; i < count; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        const char *ref = json_string_value(s);
        char name[129];
        uint64_t version;
        if (!ref || strlen(ref) != json_string_length(s))
            return err_set_param(e, ERR_INVALID, param,
                                 "%s is neither a state's name nor an array of them", param);
        if (state_ref_parse(ref, name, &version, e) < 0) {
            snprintf(e->param, sizeof e->param, "%s", param);
            return e->code;
        }
        if (!((*out)[i] = strdup(ref)))
            return err_set(e, ERR_NOMEM, "no memory for the names of states");
        *n = i + 1;
    }
    return 0;
}

static int decode_numbers(const json_t *v, const char *param, uint32_t **out, size_t *n,
                          struct err *e)
{
    size_t count = json_array_size(v);
    if (!v)
        return 0;
    if (!json_is_array(v) || count < 1 || count > 1024)
        return err_set_param(e, ERR_INVALID, param, "%s is not an array of 1 to 1024 numbers",
                             param);
    if (!(*out = calloc(count, sizeof **out)))
        return err_set(e, ERR_NOMEM, "no memory for %s", param);
    for (size_t i = 0; i < count; i++) {
        int64_t x;
        if (!decode_whole(json_array_get(v, i), 0, UINT32_MAX, &x))
            return err_set_param(e, ERR_INVALID, param, "%s[%zu] is not a number from 0 on", param,
                                 i);
        (*out)[i] = (uint32_t)x;
    }
    *n = count;
    return 0;
}

static int decode_parts(const json_t *v, const char *param, struct edit_op *op, struct err *e)
{
    static const char *const names[RWKV_N_PARTS] = {"att_shift", "wkv", "ffn_shift"};
    for (size_t k = 0; k < RWKV_N_PARTS; k++)
        op->parts[k] = !v && (!op->n_heads || k == RWKV_WKV);
    if (v && (!json_is_array(v) || !json_array_size(v)))
        return err_set_param(e, ERR_INVALID, param, "%s is not an array of words", param);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        size_t k = 0;
        while (s && k < RWKV_N_PARTS && strcmp(s, names[k]) != 0)
            k++;
        if (!s || k == RWKV_N_PARTS)
            return err_set_param(e, ERR_INVALID, param,
                                 "%s[%zu] is none of att_shift, wkv and ffn_shift", param, i);
        op->parts[k] = true;
    }
    return 0;
}

int errands_decode_select(const json_t *o, const char *prefix, struct edit_op *op, struct err *e)
{
    char layers[48], heads[48], parts[48];
    snprintf(layers, sizeof layers, "%.32slayers", prefix);
    snprintf(heads, sizeof heads, "%.32sheads", prefix);
    snprintf(parts, sizeof parts, "%.32sparts", prefix);
    if (decode_numbers(decode_field(o, "layers"), layers, &op->layers, &op->n_layers, e) < 0 ||
        decode_numbers(decode_field(o, "heads"), heads, &op->heads, &op->n_heads, e) < 0 ||
        decode_parts(decode_field(o, "parts"), parts, op, e) < 0)
        return e->code;
    if (op->n_heads && (op->parts[RWKV_ATT_SHIFT] || op->parts[RWKV_FFN_SHIFT]))
        return err_set_param(e, ERR_INVALID, heads,
                             "heads choose among the matrices: a shift vector has none");
    return 0;
}
