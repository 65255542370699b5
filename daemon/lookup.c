#include "daemon/lookup.h"

#include "daemon/base/clock.h"
#include "daemon/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends q unless rc says that its question is with the store. */
static void asked(struct sequence *q, int rc, const struct err *e)
{
    struct err own = *e;
    if (rc < 0)
        sequence_end(q, &own);
}

static void answered(struct sequence *q, void *blob)
{
    free(blob);
    metrics_observe_ns(q->svc->metrics, METRIC_STORE, clock_ns() - q->hop_ns);
}

static void go_on(struct sequence *q)
{
    if (q->adjustment)
        adjustment_post(q);
    else
        worker_take_post(q->worker, q);
}

/* ---- the name of a context that it is to keep ---- */

/* [thread: the store's] */
static void on_context(void *arg, const struct err *e, const struct store_item *items, size_t n,
                       bool has_more, void *data, size_t bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)items;
    (void)n;
    (void)has_more;
    (void)bytes;
    answered(q, data);
    if (own.code == ERR_CONTEXT_NOT_FOUND) {
        go_on(q);
        return;
    }
    if (!own.code || own.code == ERR_STATE_CORRUPT)
        err_set_param(&own, ERR_NAME_EXISTS, "name", "there is a context %s already",
                      q->context->name);
    sequence_end(q, &own);
}

static void find_context(struct sequence *q)
{
    struct err e = {0};
    if (q->context->replace)
        go_on(q);
    else
        asked(q,
              store_get_item(q->svc->options.store, STORE_CONTEXT, q->context->name, false,
                             on_context, q, &e),
              &e);
}

/* ---- the state it starts from ---- */

int state_check_model(const char *fingerprint, const char *model, const char *ref,
                      const struct model *m, struct err *e)
{
    const struct rwkv_info *info = m->rwkv_info;
    if (!strcmp(fingerprint, info->fingerprint))
        return 0;
    return err_set(e, ERR_STATE_INCOMPATIBLE,
                   "the state %s is of the model %s (fingerprint %.12s), not of %s (%.12s)", ref,
                   model, fingerprint, m->name, info->fingerprint);
}

static int check_revision(const struct sequence *q, struct err *e)
{
    if (!q->if_revision || q->if_revision == q->record.revision)
        return 0;
    return err_set(e, ERR_VERSION_CONFLICT, "state %s has revision %llu, not %llu", q->used,
                   (unsigned long long)q->record.revision, (unsigned long long)q->if_revision);
}

static int inherit_text(char **to, const char *from, struct err *e)
{
    if (!*to && !(*to = strdup(from)))
        return err_set(e, ERR_NOMEM, "no memory for a state's record");
    return 0;
}

/* An appended version is described and tagged as the one before, where the request does not say. */
static int inherit(struct sequence *q, const struct store_state *from, struct err *e)
{
    if (!q->bake || q->bake->op != STATE_APPEND)
        return 0;
    struct state_change *c = &q->bake->change;
    int rc = inherit_text(&c->description, from->description, e);
    return rc < 0 ? rc : inherit_text(&c->tags, from->tags, e);
}

static int take_source(struct sequence *q, const struct store_state *state, struct err *e)
{
    q->record = *state;
    q->record.parents = q->record.origin = q->record.tags = q->record.norms =
        q->record.description = NULL;
    snprintf(q->used, sizeof q->used, "%s@%llu", state->name, (unsigned long long)state->version);
    if (state_check_model(state->fingerprint, state->model, q->used, q->model, e) < 0 ||
        check_revision(q, e) < 0)
        return e->code;
    return inherit(q, state, e);
}

/* [thread: the store's] */
static void on_source(void *arg, const struct err *e, const struct store_state *state, void *blob,
                      size_t blob_bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)blob_bytes;
    answered(q, blob);
    if (!own.code && take_source(q, state, &own) == 0) {
        go_on(q);
        return;
    }
    snprintf(own.param, sizeof own.param, "%s", sequence_from_param(q));
    sequence_end(q, &own);
}

static void find_source(struct sequence *q)
{
    char name[129];
    uint64_t version;
    struct err e = {0};
    if (!q->from) {
        go_on(q);
        return;
    }
    int rc = state_ref_parse(q->from, name, &version, &e);
    if (rc == 0)
        rc = store_get_state(q->svc->options.store, name, version, false, on_source, q, &e);
    asked(q, rc, &e);
}

/* ---- the name it saves under ---- */

/* [thread: the store's] */
static void on_target(void *arg, const struct err *e, const struct store_state *state, void *blob,
                      size_t blob_bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)state;
    (void)blob_bytes;
    answered(q, blob);
    if (own.code == ERR_STATE_NOT_FOUND) {
        find_source(q);
        return;
    }
    if (!own.code || own.code == ERR_STATE_CORRUPT)
        err_set_param(&own, ERR_STATE_EXISTS, q->bake ? "name" : "save_state", "state %s exists",
                      q->save);
    sequence_end(q, &own);
}

static void claim_target(struct sequence *q)
{
    struct err e = {0};
    if (!q->save) {
        find_source(q);
        return;
    }
    int rc = service_claim(q->svc, &q->claim, q->save, &e);
    if (rc == 0 && q->new_version) {
        find_source(q);
        return;
    }
    if (rc == 0)
        rc = store_get_state(q->svc->options.store, q->save, 0, false, on_target, q, &e);
    asked(q, rc, &e);
}

/* ---- its key ---- */

/* [thread: the store's] */
static void on_key(void *arg, const struct err *e, const struct store_state *state, void *blob,
                   size_t blob_bytes)
{
    struct sequence *q = arg;
    struct err own = *e;
    (void)blob_bytes;
    answered(q, blob);
    if (!own.code && !state) {
        claim_target(q);
        return;
    }
    q->bake->replayed = state != NULL;
    if (!own.code)
        sequence_set_saved(q, state, &own);
    sequence_end(q, &own);
}

void lookup_post(struct sequence *q)
{
    struct err e = {0};
    if (!q->key && !q->save && !q->from && !q->adjustment) {
        worker_take_post(q->worker, q);
        return;
    }
    sequence_set_phase(q, SEQ_FIND);
    q->hop_ns = clock_ns();
    if (q->context)
        find_context(q);
    else if (!q->key)
        claim_target(q);
    else
        asked(q, store_find_key(q->svc->options.store, q->key, q->request_sha256, on_key, q, &e),
              &e);
}
