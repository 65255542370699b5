/* Requests about the records and the files of states, which the store answers without an engine. */
#include "daemon/base/clock.h"
#include "daemon/service_impl.h"
#include "daemon/state_record.h"

#include <stdlib.h>
#include <string.h>

/* A question to the store on its way. */
struct question {
    struct mail mail; /* to the porter */
    struct service *svc;
    struct state_call *call; /* one reference */
    struct claim claim;      /* of the name that is written; on `name`, or the call's `to` */
    char name[129];
    uint64_t version;
    uint64_t asked_ns;
};

/* Does the call carry a state's file, which the porter looks at? */
static bool has_file(const struct state_call *c)
{
    return c->op == STATE_DATA || c->op == STATE_IMPORT;
}

static int admit(struct service *s, const struct state_call *c, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (has_file(c) && s->n_files == PORTER_FILES)
        rc = err_set(e, ERR_BUSY, "%d files of states are on their way: try again later",
                     PORTER_FILES);
    else if (has_file(c))
        s->n_files++;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void release(struct service *s, const struct state_call *c)
{
    pthread_mutex_lock(&s->lock);
    s->n_files -= has_file(c);
    pthread_mutex_unlock(&s->lock);
}

static bool copy(char **to, const char *from)
{
    *to = strdup(from ? from : "");
    return *to != NULL;
}

int state_info_fill(struct state_info *out, const struct store_state *s)
{
    *out = (struct state_info){
        .version = s->version,
        .n_tokens = s->n_tokens,
        .bytes = s->bytes,
        .revision = s->revision,
        .n_layer = s->n_layer,
        .n_embd = s->n_embd,
        .head_size = s->head_size,
        .has_logits = s->has_logits,
        .pinned = s->pinned,
        .damaged = s->damaged,
        .created_ms = s->created_ms,
        .expires_ms = s->expires_ms,
    };
    bool ok = copy(&out->name, s->name) && copy(&out->model, s->model) &&
              copy(&out->fingerprint, s->fingerprint) &&
              copy(&out->weights_type, s->weights_type) && copy(&out->sha256, s->sha256) &&
              copy(&out->parents, s->parents) && copy(&out->origin, s->origin) &&
              copy(&out->tags, s->tags) && copy(&out->norms, s->norms) &&
              copy(&out->description, s->description);
    return ok ? 0 : ERR_NOMEM;
}

/* ---- the answer ---- */

static void answer(struct question *q, const struct err *e)
{
    struct service *s = q->svc;
    struct call *c = &q->call->call;
    metrics_observe_ns(s->metrics, METRIC_STORE, clock_ns() - q->asked_ns);
    release(s, q->call);
    service_unclaim(s, &q->claim);
    free(q);
    service_end_call(s, NULL, c, e);
}

static void keep_records(struct state_call *c, const struct store_state *states, size_t n,
                         struct err *e)
{
    if (!e->code && n && !(c->states = calloc(n, sizeof *c->states)))
        err_set(e, ERR_NOMEM, "no memory for a list of states");
    for (size_t i = 0; i < n && !e->code; i++) {
        c->n_states = i + 1;
        if (state_info_fill(&c->states[i], &states[i]) < 0)
            err_set(e, ERR_NOMEM, "no memory for a list of states");
    }
}

/* [thread: the store's] */
static void on_states(void *arg, const struct err *e, const struct store_state *states, size_t n,
                      bool has_more)
{
    struct question *q = arg;
    struct err own = *e;
    keep_records(q->call, states, n, &own);
    q->call->has_more = has_more;
    answer(q, &own);
}

/* [thread: the store's] */
static void on_state(void *arg, const struct err *e, const struct store_state *state, void *blob,
                     size_t blob_bytes)
{
    (void)blob_bytes;
    free(blob);
    on_states(arg, e, state, e->code ? 0 : 1, false);
}

/* [thread: porter] */
static void on_verify(struct mail *m)
{
    struct question *q = LIST_OWNER(m, struct question, mail);
    const struct state_call *c = q->call;
    const struct state_info *i = &c->states[0];
    struct err e = {0};
    if (atomic_load_explicit(&c->call.cancel, memory_order_acquire))
        err_set(&e, ERR_CANCELLED, "the client has gone");
    else if (state_record_verify(c->data, c->data_bytes, i->sha256, &e) < 0)
        err_prefix(&e, "state %s@%llu", i->name, (unsigned long long)i->version);
    answer(q, &e);
}

/* [thread: the store's] */
static void on_file(void *arg, const struct err *e, const struct store_state *state, void *blob,
                    size_t blob_bytes)
{
    struct question *q = arg;
    struct err own = *e;
    q->call->data = blob;
    q->call->data_bytes = blob_bytes;
    keep_records(q->call, state, own.code ? 0 : 1, &own);
    if (own.code) {
        answer(q, &own);
        return;
    }
    q->mail.run = on_verify;
    porter_post(&q->svc->porter, &q->mail);
}

/* [thread: porter] */
static void on_import(struct mail *m)
{
    struct question *q = LIST_OWNER(m, struct question, mail);
    struct err e = {0};
    if (atomic_load_explicit(&q->call->call.cancel, memory_order_acquire))
        err_set(&e, ERR_CANCELLED, "the client has gone");
    if (e.code ||
        service_import(q->svc, q->call, &q->claim, (struct record_to){on_state, q}, &e) < 0)
        answer(q, &e);
}

/* ---- the question ---- */

static struct store_patch patch_of(const struct state_change *c, uint64_t if_revision)
{
    return (struct store_patch){.description = c->description,
                                .tags = c->tags,
                                .set_pinned = c->set_pinned,
                                .pinned = c->pinned,
                                .set_expires = c->set_expires,
                                .expires_ms = c->expires_ms,
                                .if_revision = if_revision};
}

/* For a fork the revision is the source's, for a rollback the name's latest. */
static int ask_copy(struct question *q, struct err *e)
{
    struct store *store = q->svc->options.store;
    const struct state_call *c = q->call;
    const struct state_write *w = &c->write;
    bool fork = c->op == STATE_FORK;
    struct store_patch patch = patch_of(&c->change, fork ? w->if_revision : 0);
    const struct store_write how = {.if_exists = w->new_version ? STORE_EXISTS_NEW_VERSION
                                                                : STORE_EXISTS_ERROR,
                                    .if_revision = fork ? 0 : w->if_revision,
                                    .key = w->key,
                                    .request_sha256 = w->request_sha256};
    if (service_claim(q->svc, &q->claim, fork ? c->to : q->name, e) < 0)
        return e->code;
    return fork ? store_fork_state(store, q->name, q->version, c->to, &patch, &how, on_state, q, e)
                : store_rollback_state(store, q->name, q->version, &patch, &how, on_state, q, e);
}

static int ask_delete(struct question *q, struct err *e)
{
    if (!q->version && service_claim(q->svc, &q->claim, q->name, e) < 0)
        return e->code;
    return store_delete_state(q->svc->options.store, q->name, q->version,
                              q->call->write.if_revision, on_state, q, e);
}

static int ask(struct question *q, struct err *e)
{
    struct store *store = q->svc->options.store;
    const struct state_call *c = q->call;
    struct store_patch patch = patch_of(&c->change, c->write.if_revision);
    switch (c->op) {
    case STATE_GET:
        return store_get_state(store, q->name, q->version, false, on_state, q, e);
    case STATE_DATA:
        return store_get_state(store, q->name, q->version, true, on_file, q, e);
    case STATE_PATCH:
        return store_patch_state(store, q->name, q->version, &patch, on_state, q, e);
    case STATE_DELETE:
        return ask_delete(q, e);
    case STATE_FORK:
    case STATE_ROLLBACK:
        return ask_copy(q, e);
    case STATE_LIST:
        return store_list_states(store,
                                 &(struct store_query){.after = c->after,
                                                       .prefix = c->prefix,
                                                       .tag = c->tag,
                                                       .model = c->of_model,
                                                       .limit = c->limit,
                                                       .newest = c->newest},
                                 on_states, q, e);
    case STATE_IMPORT:
        q->mail.run = on_import;
        porter_post(&q->svc->porter, &q->mail);
        return 0;
    case STATE_VERSIONS:
        return store_list_versions(store, q->name, c->before, c->limit, on_states, q, e);
    case STATE_BAKE:
    case STATE_APPEND:
        break;
    }
    return err_set(e, ERR_INTERNAL, "no such question");
}

/* [thread: the store's] */
static void on_key(void *arg, const struct err *e, const struct store_state *state, void *blob,
                   size_t blob_bytes)
{
    struct question *q = arg;
    struct err own = *e;
    if (own.code || state) {
        q->call->replayed = !own.code;
        on_state(arg, e, state, blob, blob_bytes);
    } else if (ask(q, &own) < 0) {
        answer(q, &own);
    }
}

/* ---- the request ---- */

static int check(const struct state_call *c, char name[129], uint64_t *version, struct err *e)
{
    bool list = c->op == STATE_LIST || c->op == STATE_VERSIONS;
    char to[129];
    uint64_t to_version;
    if (list && (c->limit < 1 || c->limit > 1000))
        return err_set_param(e, ERR_INVALID, "limit", "limit is from 1 to 1000");
    if (c->op != STATE_LIST && state_ref_parse(c->ref ? c->ref : "", name, version, e) < 0)
        return e->code;
    if (c->op == STATE_IMPORT && (!c->model || *version))
        return err_set_param(e, ERR_INVALID, "name", "name has a version, or there is no model");
    if (c->op == STATE_VERSIONS && *version)
        return err_set_param(e, ERR_INVALID, "name", "versions are those of a bare name");
    if (c->op == STATE_IMPORT && service_check_orientation(c, e) < 0)
        return e->code;
    if (c->op == STATE_ROLLBACK && !*version)
        return err_set_param(e, ERR_INVALID, "version", "a version to go back to is missing");
    if (c->op == STATE_FORK &&
        (state_ref_parse(c->to ? c->to : "", to, &to_version, e) < 0 || to_version))
        return err_set_param(e, ERR_INVALID, "name", "name is not a state's name without version");
    return 0;
}

int service_state(struct service *s, struct state_call *c, struct err *e)
{
    if (c->op == STATE_BAKE || c->op == STATE_APPEND)
        return service_bake(s, c, e);
    struct question *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    *q = (struct question){.svc = s, .call = c, .asked_ns = clock_ns()};
    list_init(&q->mail.link);
    int rc = check(c, q->name, &q->version, e);
    if (rc == 0 && (rc = admit(s, c, e)) == 0 && (rc = service_admit(s, NULL, e)) < 0)
        release(s, c);
    if (rc < 0) {
        free(q);
        return rc;
    }
    call_ref(&c->call);
    if (c->write.key)
        rc = store_find_key(s->options.store, c->write.key, c->write.request_sha256, on_key, q, e);
    else
        rc = ask(q, e);
    if (rc < 0) {
        release(s, c);
        service_unclaim(s, &q->claim);
        call_unref(&c->call);
        free(q);
        service_leave(s);
    }
    return rc;
}
