/* Edits and comparisons of states: loads what they name, computes, saves. */
#include "daemon/diffusion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPERAND_BYTES ((size_t)1 << 30) /* of the states of one operation in memory */
#define PARENTS_BYTES ((size_t)1 << 20)

/* ---- edits: the request ---- */

static int check_indices(const uint32_t *list, size_t n, uint32_t below, const char *param,
                         struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] >= below)
            return err_set_param(e, ERR_INVALID, param, "%s: there is no %u, the model has %u",
                                 param, list[i], below);
    return 0;
}

int errand_check_select(const struct model_info *m, const struct edit_op *op, const char *prefix,
                        struct err *e)
{
    char layers[48], heads[48];
    snprintf(layers, sizeof layers, "%.32slayers", prefix);
    snprintf(heads, sizeof heads, "%.32sheads", prefix);
    int rc = check_indices(op->layers, op->n_layers, m->n_layer, layers, e);
    return rc < 0 ? rc : check_indices(op->heads, op->n_heads, m->n_embd / m->head_size, heads, e);
}

static int check_op(const struct model_info *m, const struct edit_op *op, size_t i, struct err *e)
{
    size_t states = op->n_with + op->n_minus, most = OPERAND_BYTES / m->state_bytes;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "ops[%zu].", i);
    if (errand_check_select(m, op, prefix, e) < 0)
        return e->code;
    if (states > EDIT_MAX_STATES || states > most)
        return err_set_param(e, ERR_TOO_LARGE, "ops",
                             "ops[%zu] names %zu states, at most %zu are taken", i, states,
                             most < EDIT_MAX_STATES ? most : EDIT_MAX_STATES);
    return op->diffusion ? diffusion_check(op->diffusion, prefix, e) : 0;
}

static int edit_check(const struct errand *errand, struct err *e)
{
    const struct state_edit *c = (const struct state_edit *)(const void *)errand;
    char name[129];
    uint64_t version;
    int rc = state_ref_parse(c->state, name, &version, e);
    if (rc == 0 && ((rc = state_ref_parse(c->name, name, &version, e)) < 0 || version))
        rc = err_set_param(e, ERR_INVALID, "name", "name is not a state's name without version");
    for (size_t i = 0; rc == 0 && i < c->n_ops; i++)
        rc = check_op(errand->model, &c->ops[i], i, e);
    return rc;
}

/* ---- edits: the work ---- */

/* The states that one operation names. */
struct operands {
    struct fetched *states; /* [n]: with, then minus */
    const float **floats;   /* [n] */
    size_t n;
};

static void operands_fini(struct operands *o)
{
    for (size_t i = 0; i < o->n; i++)
        fetched_fini(&o->states[i]);
    free(o->states);
    free(o->floats);
}

/* Adds "name@version" to a JSON array that is open, unless it is there. */
static void add_parent(struct buf *parents, const char *ref)
{
    char quoted[170];
    snprintf(quoted, sizeof quoted, "\"%s\"", ref);
    if (parents->data && strstr(parents->data, quoted))
        return;
    buf_printf(parents, "%s%s", parents->len > 1 ? ", " : "", quoted);
}

static int load_operands(const struct errand_run *r, const struct edit_op *op, size_t index,
                         struct operands *o, struct buf *parents, struct err *e)
{
    size_t n = op->n_with + op->n_minus;
    char param[48];
    *o = (struct operands){.states = calloc(n + 1, sizeof *o->states),
                           .floats = calloc(n + 1, sizeof *o->floats)};
    if (!o->states || !o->floats)
        return err_set(e, ERR_NOMEM, "no memory for %zu states", n);
    snprintf(param, sizeof param, "ops[%zu]", index);
    for (size_t i = 0; i < n; i++) {
        const char *ref = i < op->n_with ? op->with[i] : op->minus[i - op->n_with];
        if (errand_proceed(r, e) < 0 ||
            fetch_state(r->svc, r->model, ref, param, &o->states[i], e) < 0)
            return e->code;
        o->floats[i] = o->states[i].state;
        o->n = i + 1;
        add_parent(parents, o->states[i].ref);
    }
    return 0;
}

bool *errand_flags(const struct rwkv_info *info, const struct edit_op *op)
{
    bool *flags = calloc(info->n_layer + info->n_head, sizeof *flags);
    for (size_t i = 0; flags && i < op->n_layers; i++)
        flags[op->layers[i]] = true;
    for (size_t i = 0; flags && i < op->n_heads; i++)
        flags[info->n_layer + op->heads[i]] = true;
    return flags;
}

static int apply(const struct rwkv_info *info, const struct edit_op *op, const struct operands *o,
                 float *x, struct err *e)
{
    bool *flags = errand_flags(info, op);
    if (!flags)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    struct rwkv_edit edit = {.kind = op->kind,
                             .select = {.layers = op->n_layers ? flags : NULL,
                                        .heads = op->n_heads ? flags + info->n_layer : NULL},
                             .amount = op->amount,
                             .seed = op->seed,
                             .normalize = op->normalize,
                             .with = o->floats,
                             .minus = o->floats + op->n_with,
                             .n_with = op->n_with,
                             .n_minus = op->n_minus};
    memcpy(edit.select.parts, op->parts, sizeof op->parts);
    int rc = rwkv_edit_apply(info, &edit, x, e);
    if (rc == ERR_NUMERIC)
        rc = e->code = ERR_NOT_FINITE; /* the request's doing, not ours */
    free(flags);
    return rc;
}

static int diffuse(const struct errand_run *r, const struct edit_op *op, float *x, struct err *e)
{
    size_t n = rwkv_state_floats(r->model->rwkv_info);
    float *made = calloc(n, sizeof *made);
    if (!made)
        return err_set(e, ERR_NOMEM, "no memory for an edit");
    const struct diffusion_job job = {.n = 1, .start = x, .select = op, .states = made};
    int rc = diffusion_run(r, op->diffusion, &job, e);
    if (rc == 0)
        memcpy(x, made, n * sizeof *made);
    free(made);
    return rc;
}

static int apply_all(const struct errand_run *r, const struct state_edit *c, float *x,
                     struct buf *parents, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->n_ops; i++) {
        struct operands o;
        rc = load_operands(r, &c->ops[i], i, &o, parents, e);
        if (rc == 0)
            rc = c->ops[i].diffusion ? diffuse(r, &c->ops[i], x, e)
                                     : apply(r->model->rwkv_info, &c->ops[i], &o, x, e);
        if (rc < 0 && rc != ERR_STATE_NOT_FOUND)
            err_prefix(e, "ops[%zu]", i);
        operands_fini(&o);
    }
    return rc;
}

static int save(const struct errand_run *r, struct state_edit *c, const struct fetched *from,
                struct buf *parents, struct err *e)
{
    struct buf origin;
    buf_init(&origin, PARENTS_BYTES);
    buf_puts(parents, "]");
    buf_printf(&origin, "{\"kind\": \"edit\", \"of\": \"%s\", \"ops\": %s}", from->ref,
               c->ops_json);
    const struct state_put put = {.model = r->model,
                                  .name = c->name,
                                  .weights_type = from->info.weights_type,
                                  .parents = parents->data,
                                  .origin = origin.data,
                                  .state = from->state,
                                  .n_tokens = from->info.n_tokens,
                                  .change = &c->change};
    const struct store_write how = {.if_exists = c->write.new_version ? STORE_EXISTS_NEW_VERSION
                                                                      : STORE_EXISTS_ERROR,
                                    .key = c->write.key,
                                    .request_sha256 = c->write.request_sha256};
    int rc = parents->failed || origin.failed
                 ? err_set(e, ERR_NOMEM, "no memory for a state's record")
                 : fetch_put(r->svc, &put, &how, c->saved, e);
    buf_fini(&origin);
    return rc;
}

static int edit_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct state_edit *c = (struct state_edit *)(void *)errand;
    struct claim claim = {0};
    struct fetched x = {0};
    struct buf parents;
    buf_init(&parents, PARENTS_BYTES);
    if (!(c->saved = calloc(1, sizeof *c->saved)))
        return err_set(e, ERR_NOMEM, "no memory for a state's record");
    int rc = fetch_key(r->svc, &c->write, c->saved, &c->replayed, e);
    if (rc < 0 || c->replayed)
        return rc;
    if ((rc = service_claim(r->svc, &claim, c->name, e)) == 0 &&
        (rc = fetch_state(r->svc, r->model, c->state, "state", &x, e)) == 0) {
        buf_puts(&parents, "[");
        add_parent(&parents, x.ref);
        rc = apply_all(r, c, x.state, &parents, e);
    }
    if (rc == 0 && (rc = errand_proceed(r, e)) == 0)
        rc = save(r, c, &x, &parents, e);
    service_unclaim(r->svc, &claim);
    fetched_fini(&x);
    buf_fini(&parents);
    return rc;
}

/* ---- comparison ---- */

static int comparison_check(const struct errand *errand, struct err *e)
{
    const struct state_comparison *c = (const struct state_comparison *)(const void *)errand;
    char name[129];
    uint64_t version;
    int rc = state_ref_parse(c->a, name, &version, e);
    if (rc == 0 && (rc = state_ref_parse(c->b, name, &version, e)) < 0)
        snprintf(e->param, sizeof e->param, "with");
    return rc;
}

static int compare(const struct rwkv_info *info, struct state_comparison *c, const float *a,
                   const float *b, struct err *e)
{
    size_t layer = rwkv_state_floats(info) / info->n_layer, n = rwkv_block_count(info);
    c->layers = calloc(info->n_layer, sizeof *c->layers);
    c->blocks = calloc(n, sizeof *c->blocks);
    if (!c->layers || !c->blocks)
        return err_set(e, ERR_NOMEM, "no memory for a comparison");
    c->n_layers = info->n_layer;
    c->n_blocks = n;
    c->whole = rwkv_compare(a, b, rwkv_state_floats(info));
    for (size_t i = 0; i < info->n_layer; i++)
        c->layers[i] = rwkv_compare(a + i * layer, b + i * layer, layer);
    for (size_t i = 0; i < n; i++) {
        struct rwkv_block k = rwkv_block(info, i);
        c->blocks[i] = (struct block_difference){k, rwkv_compare(a + k.first, b + k.first, k.n)};
    }
    return 0;
}

static int comparison_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct state_comparison *c = (struct state_comparison *)(void *)errand;
    struct fetched a = {0}, b = {0};
    int rc = fetch_state(r->svc, r->model, c->a, "state", &a, e);
    if (rc == 0)
        rc = fetch_state(r->svc, r->model, c->b, "with", &b, e);
    if (rc == 0)
        rc = compare(r->model->rwkv_info, c, a.state, b.state, e);
    snprintf(c->used_a, sizeof c->used_a, "%s", a.ref);
    snprintf(c->used_b, sizeof c->used_b, "%s", b.ref);
    fetched_fini(&a);
    fetched_fini(&b);
    return rc;
}

const struct errand_impl errand_edit = {LANE_NOW, edit_check, edit_run};
const struct errand_impl errand_compare = {LANE_NOW, comparison_check, comparison_run};
