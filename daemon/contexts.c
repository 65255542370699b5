/* POST /v1/contexts: reading a text once, for the vectors that it gives a model. */
#include "daemon/fetch.h"
#include "daemon/worker.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The record: what the request says of it, how it was made, and how far the vectors moved. */
static char *write_meta(const struct sequence *q, const struct hybrid_norms *norms)
{
    static const char *const groups[] = {"w0", "a0", "v0", "k_k", "k_a", "r_k"};
    static const char *const added[] = {"receptance", "key", "value"};
    const bool adds = adjustment_rank(q->adjustment) > 0;
    const struct adjustment_used *used = &q->adjustment->used;
    json_t *meta = q->context->meta ? json_loads(q->context->meta, 0, NULL) : json_object();
    json_t *change = json_object();
    bool ok = meta && change;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        ok = ok && json_object_set_new(change, groups[i], json_real(norms->change[i])) == 0;
    for (size_t i = 0; adds && i < sizeof added / sizeof *added; i++)
        ok = ok && json_object_set_new(change, added[i], json_real(norms->low[i])) == 0;
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"n_tokens", used->n_tokens}, {"seed", used->seed}, {"num_inference_steps", used->steps}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ok = ok && json_object_set_new(meta, numbers[i].key,
                                       json_integer((json_int_t)numbers[i].value)) == 0;
    ok = ok &&
         json_object_set_new(meta, "hybrid", json_string(q->adjustment->hybrid->sha256)) == 0 &&
         json_object_set_new(meta, "weights_type", json_string(q->model->weights_type)) == 0 &&
         json_object_set(meta, "norms", change) == 0;
    char *text = ok ? json_dumps(meta, JSON_COMPACT) : NULL;
    json_decref(meta);
    json_decref(change);
    return text;
}

int context_put(struct sequence *q, const float *theta, const struct hybrid_norms *norms,
                struct err *e)
{
    struct item_call *c = q->context;
    struct store_item item = {.kind = STORE_CONTEXT};
    char *meta = write_meta(q, norms);
    item.meta = meta;
    item.bytes =
        rwkv_theta_floats(q->model->rwkv_info, adjustment_rank(q->adjustment)) * sizeof *theta;
    snprintf(item.name, sizeof item.name, "%s", c->name);
    snprintf(item.model, sizeof item.model, "%s", q->model->name);
    memcpy(item.fingerprint, q->model->rwkv_info->fingerprint, sizeof item.fingerprint);
    memcpy(item.sha256, q->adjustment->used.sha256, sizeof item.sha256);
    void *data = malloc(item.bytes);
    c->items = calloc(1, sizeof *c->items);
    if (!meta || !data || !c->items) {
        free(meta);
        free(data);
        return err_set(e, ERR_NOMEM, "no memory for a context");
    }
    memcpy(data, theta, item.bytes);
    int rc = fetch_item_put_over_take(q->svc, &item, data, c->replace, c->items, e);
    c->n_items = rc == 0;
    free(meta);
    return rc;
}
