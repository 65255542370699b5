/* The interface: checks and copies a request, and queues it for the thread (serve.c). */
#include "store/internal.h"

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "store/migrate.h"

#include <stdio.h>

/* ---- requests ---- */

void store__req_free(struct req *r)
{
    if (!r)
        return;
    q_state_fini(&r->state);
    q_state_fini(&r->out);
    q_item_fini(&r->item);
    q_item_fini(&r->item_out);
    q_items_fini(&r->items);
    backup_free(r->backup);
    free(r->blob);
    free(r->text);
    free(r);
}

int store__enqueue(struct store *s, struct req *r, int queue, struct err *e)
{
    if (s->n_queued[queue] >= s->max_queue)
        return err_set(e, ERR_BUSY, "%zu requests are waiting for the store", s->n_queued[queue]);
    list_push(&s->queue[queue], &r->link);
    s->n_queued[queue]++;
    return 0;
}

int store__queue(struct store *s, struct req *r, int queue, struct err *e)
{
    pthread_mutex_lock(&s->lock);
    int rc = s->closing ? err_set(e, ERR_UNAVAILABLE, "the store is closing")
                        : store__enqueue(s, r, queue, e);
    if (rc == 0)
        pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* ---- open and close ---- */

static int start_thread(struct store *s, struct err *e)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, &a);
    pthread_condattr_destroy(&a);
    int n = pthread_create(&s->thread, NULL, store__run, s);
    if (n == 0)
        return 0;
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    return err_set(e, ERR_NOMEM, "start the store's thread: %s", strerror(n));
}

static int64_t wall_ms(void *arg)
{
    (void)arg;
    return clock_wall_ms();
}

int store_open(const struct store_options *o, struct store **out, struct err *e)
{
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    list_init(&s->queue[QUEUE_SMALL]);
    list_init(&s->queue[QUEUE_LARGE]);
    s->max_queue = o->max_queue ? o->max_queue : 256;
    s->upkeep = true; /* what a killed process left */
    s->wall_ms = o->wall_ms ? o->wall_ms : wall_ms;
    s->wall_arg = o->wall_arg;
    s->env = (struct q_env){.max_states = o->max_states, .max_bytes = o->max_bytes};
    int rc = db_open(&s->db, o->dir, e);
    if (rc == 0 && ((rc = db_migrate(&s->db, e)) < 0 || (rc = db_check(&s->db, e)) < 0 ||
                    (rc = q_count_all(&s->db, &s->env.total, e)) < 0)) {
        if (e && o->dir && *o->dir)
            err_prefix(e, "data directory %s", o->dir);
    }
    if (rc == 0) {
        s->stats = (struct store_stats){.states = (uint64_t)s->env.total.states,
                                        .blobs = (uint64_t)s->env.total.blobs,
                                        .blob_bytes = (uint64_t)s->env.total.blob_bytes,
                                        .max_states = o->max_states,
                                        .max_bytes = o->max_bytes};
        rc = start_thread(s, e);
    }
    if (rc < 0) {
        db_close(&s->db);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    ASSERT(list_empty(&s->queue[QUEUE_SMALL]) && list_empty(&s->queue[QUEUE_LARGE]) && !s->large &&
           !s->backup && !s->backup_asked);
    /* Bounded: the next start goes on where this leaves off. */
    for (int i = 0; i < 64 && store__upkeep_step(s); i++)
        ;
    db_close(&s->db);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- the interface ---- */

bool store__is_name(const char *s, bool may_be_empty)
{
    size_t n =
        s ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") : 0;
    return s && s[n] == 0 && n <= STORE_NAME_MAX && (n > 0 || may_be_empty);
}

bool store__is_sha256(const char *s)
{
    return strnlen(s, 65) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static size_t text_len(const char *s)
{
    return s ? strlen(s) : 0;
}

static int bad_name(struct err *e)
{
    return err_set_param(e, ERR_INVALID, "name",
                         "a state's name is 1 to %d of the characters A-Z a-z 0-9 . _ -",
                         STORE_NAME_MAX);
}

static int check_put(const struct store_state *t, const void *blob, size_t bytes, struct err *e)
{
    if (!memchr(t->name, 0, sizeof t->name) || !store__is_name(t->name, false))
        return bad_name(e);
    if (!store__is_sha256(t->sha256))
        return err_set(e, ERR_INVALID, "a state's SHA-256 is 64 lower-case hexadecimal digits");
    if (!memchr(t->model, 0, sizeof t->model) ||
        !memchr(t->weights_type, 0, sizeof t->weights_type) ||
        !memchr(t->fingerprint, 0, sizeof t->fingerprint))
        return err_set(e, ERR_INVALID, "a text of the state's record does not end");
    if (!blob || bytes == 0)
        return err_set(e, ERR_INVALID, "a state without bytes");
    if (bytes > INT64_MAX || t->n_tokens > INT64_MAX || t->expires_ms < 0)
        return err_set(e, ERR_INVALID, "a number of the state's record is out of range");
    if (text_len(t->parents) + text_len(t->origin) + text_len(t->tags) + text_len(t->norms) +
            text_len(t->description) >
        STORE__TEXTS_MAX)
        return err_set(e, ERR_INVALID, "the texts of a state's record exceed 1 MiB");
    return 0;
}

struct req *store__req_new(enum req_kind kind, void *arg, struct err *e)
{
    struct req *r = calloc(1, sizeof *r);
    if (!r) {
        err_set(e, ERR_NOMEM, "out of memory");
        return NULL;
    }
    list_init(&r->link);
    r->kind = kind;
    r->arg = arg;
    return r;
}

int store__submit(struct store *s, struct req *r, int queue, struct err *e)
{
    int rc = store__queue(s, r, queue, e);
    if (rc < 0)
        store__req_free(r);
    return rc;
}

static int submit_small(struct store *s, struct req *r, struct err *e)
{
    return store__submit(s, r, QUEUE_SMALL, e);
}

/* Copies how into the request. */
static int req_set_write(struct req *r, const struct store_write *how, struct err *e)
{
    r->how = *how;
    if (!how->key)
        return 0;
    size_t n = strnlen(how->key, STORE_KEY_MAX + 1);
    if (n < 1 || n > STORE_KEY_MAX)
        return err_set_param(e, ERR_INVALID, "Idempotency-Key",
                             "an idempotency key has 1 to %d bytes", STORE_KEY_MAX);
    if (!how->request_sha256 || !store__is_sha256(how->request_sha256))
        return err_set(e, ERR_INVALID, "an idempotency key without the request's SHA-256");
    memcpy(r->key, how->key, n + 1);
    memcpy(r->request_sha256, how->request_sha256, 65);
    r->how.key = r->key;
    r->how.request_sha256 = r->request_sha256;
    return 0;
}

/* Copies a patch into the request; its texts into one block. */
static int req_set_patch(struct req *r, const struct store_patch *p, struct err *e)
{
    size_t n_description = text_len(p->description) + 1, n_tags = text_len(p->tags) + 1;
    r->patch = *p;
    if (n_description + n_tags > STORE__TEXTS_MAX)
        return err_set(e, ERR_INVALID, "the texts of a state's record exceed 1 MiB");
    if (p->set_expires && p->expires_ms < 0)
        return err_set_param(e, ERR_INVALID, "expires_at", "the time of expiry is out of range");
    if (!p->description && !p->tags)
        return 0;
    if (!(r->text = malloc(n_description + n_tags)))
        return err_set(e, ERR_NOMEM, "out of memory");
    if (p->description)
        r->patch.description = memcpy(r->text, p->description, n_description);
    if (p->tags)
        r->patch.tags = memcpy(r->text + n_description, p->tags, n_tags);
    return 0;
}

/* ---- states ---- */

int store_put_state_take(struct store *s, const struct store_state *state, void *blob,
                         size_t blob_bytes, const struct store_write *how, store_state_fn *done,
                         void *arg, struct err *e)
{
    int rc = check_put(state, blob, blob_bytes, e);
    if (rc < 0)
        return rc;
    struct req *r = store__req_new(REQ_PUT, arg, e);
    if (!r)
        return ERR_NOMEM;
    r->done = done;
    rc = req_set_write(r, how, e);
    if (rc == 0)
        rc = q_state_copy(&r->state, state, e);
    if (rc == 0) {
        r->state.damaged = false;
        r->state.bytes = blob_bytes;
        r->blob = blob;
        rc = store__queue(s, r, blob_bytes <= STORE__SMALL_BYTES ? QUEUE_SMALL : QUEUE_LARGE, e);
    }
    if (rc < 0) {
        r->blob = NULL; /* stays the caller's */
        store__req_free(r);
    }
    return rc;
}

/* A request about a name and a version; NULL: refused. */
static struct req *req_named(enum req_kind kind, const char *name, uint64_t version,
                             store_state_fn *done, void *arg, struct err *e)
{
    if (!store__is_name(name, false)) {
        bad_name(e);
        return NULL;
    }
    struct req *r = store__req_new(kind, arg, e);
    if (r) {
        memcpy(r->name, name, strlen(name) + 1);
        r->version = version;
        r->done = done;
    }
    return r;
}

int store_get_state(struct store *s, const char *name, uint64_t version, bool with_blob,
                    store_state_fn *done, void *arg, struct err *e)
{
    struct req *r = req_named(REQ_GET, name, version, done, arg, e);
    if (!r)
        return e->code;
    r->with_blob = with_blob;
    return submit_small(s, r, e);
}

int store_delete_state(struct store *s, const char *name, uint64_t version, uint64_t if_revision,
                       store_state_fn *done, void *arg, struct err *e)
{
    struct req *r = req_named(REQ_DELETE, name, version, done, arg, e);
    if (!r)
        return e->code;
    r->if_revision = if_revision;
    return submit_small(s, r, e);
}

int store_patch_state(struct store *s, const char *name, uint64_t version,
                      const struct store_patch *patch, store_state_fn *done, void *arg,
                      struct err *e)
{
    struct req *r = req_named(REQ_PATCH, name, version, done, arg, e);
    if (!r)
        return e->code;
    int rc = req_set_patch(r, patch, e);
    if (rc < 0) {
        store__req_free(r);
        return rc;
    }
    return submit_small(s, r, e);
}

static int submit_fork(struct store *s, struct req *r, const char *to,
                       const struct store_patch *changes, const struct store_write *how,
                       struct err *e)
{
    static const struct store_patch none = {0};
    int rc = store__is_name(to, false) ? req_set_write(r, how, e) : bad_name(e);
    if (rc == 0)
        rc = req_set_patch(r, changes ? changes : &none, e);
    if (rc < 0) {
        store__req_free(r);
        return rc;
    }
    memcpy(r->to, to, strlen(to) + 1);
    return submit_small(s, r, e);
}

int store_fork_state(struct store *s, const char *name, uint64_t version, const char *to,
                     const struct store_patch *changes, const struct store_write *how,
                     store_state_fn *done, void *arg, struct err *e)
{
    struct req *r = req_named(REQ_FORK, name, version, done, arg, e);
    return r ? submit_fork(s, r, to, changes, how, e) : e->code;
}

int store_rollback_state(struct store *s, const char *name, uint64_t version,
                         const struct store_patch *changes, const struct store_write *how,
                         store_state_fn *done, void *arg, struct err *e)
{
    struct store_write onto = *how;
    onto.if_exists = STORE_EXISTS_NEW_VERSION;
    struct req *r = req_named(REQ_FORK, name, version, done, arg, e);
    if (!r)
        return e->code;
    r->rollback = true;
    return submit_fork(s, r, name, changes, &onto, e);
}

int store_find_key(struct store *s, const char *key, const char *request_sha256,
                   store_state_fn *done, void *arg, struct err *e)
{
    struct store_write how = {.key = key ? key : "", .request_sha256 = request_sha256};
    struct req *r = store__req_new(REQ_FIND_KEY, arg, e);
    if (!r)
        return ERR_NOMEM;
    r->done = done;
    int rc = req_set_write(r, &how, e);
    if (rc < 0) {
        store__req_free(r);
        return rc;
    }
    return submit_small(s, r, e);
}

/* ---- lists ---- */

int store__check_limit(size_t limit, struct err *e)
{
    return limit >= 1 && limit <= 1000
               ? 0
               : err_set_param(e, ERR_INVALID, "limit", "limit is %zu, want 1 to 1000", limit);
}

int store_list_states(struct store *s, const struct store_query *q, store_list_fn *done, void *arg,
                      struct err *e)
{
    if (text_len(q->after) > STORE_NAME_MAX || text_len(q->prefix) > STORE_NAME_MAX ||
        text_len(q->model) > STORE_NAME_MAX)
        return err_set(e, ERR_INVALID, "longer than a name may be (%d)", STORE_NAME_MAX);
    if (q->newest && text_len(q->after))
        return err_set(e, ERR_INVALID, "the newest states have no page after a name");
    if (store__check_limit(q->limit, e) < 0)
        return e->code;
    struct req *r = store__req_new(REQ_LIST, arg, e);
    if (!r)
        return ERR_NOMEM;
    if (q->tag && !(r->text = strdup(q->tag))) {
        store__req_free(r);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    memcpy(r->name, q->after ? q->after : "", text_len(q->after) + 1);
    memcpy(r->to, q->prefix ? q->prefix : "", text_len(q->prefix) + 1);
    memcpy(r->model, q->model ? q->model : "", text_len(q->model) + 1);
    r->limit = q->limit;
    r->newest = q->newest;
    r->done_list = done;
    return submit_small(s, r, e);
}

int store_list_versions(struct store *s, const char *name, uint64_t before, size_t limit,
                        store_list_fn *done, void *arg, struct err *e)
{
    if (store__check_limit(limit, e) < 0)
        return e->code;
    struct req *r = req_named(REQ_VERSIONS, name, before, NULL, arg, e);
    if (!r)
        return e->code;
    r->limit = limit;
    r->done_list = done;
    return submit_small(s, r, e);
}

/* ---- the rest ---- */

int store_backup(struct store *s, const char *dir, store_backup_fn *done, void *arg, struct err *e)
{
    if (!dir || !*dir)
        return err_set_param(e, ERR_INVALID, "dir", "a backup needs a folder");
    struct req *r = store__req_new(REQ_BACKUP, arg, e);
    if (!r)
        return ERR_NOMEM;
    int rc = (r->text = strdup(dir)) ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    r->done_backup = done;
    pthread_mutex_lock(&s->lock);
    if (rc == 0 && s->closing)
        rc = err_set(e, ERR_UNAVAILABLE, "the store is closing");
    else if (rc == 0 && (s->backup_asked || s->backup_runs))
        rc = err_set(e, ERR_BUSY, "another backup is being made");
    if (rc == 0) {
        s->backup_asked = r;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        store__req_free(r);
    return rc;
}

void store_get_stats(struct store *s, struct store_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->queued = s->n_queued[QUEUE_SMALL] + s->n_queued[QUEUE_LARGE];
    pthread_mutex_unlock(&s->lock);
}

const char *store_backend(char *text, size_t size)
{
    snprintf(text, size, "sqlite %s", sqlite3_libversion());
    return text;
}
