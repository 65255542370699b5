/* The interface: checks and copies a request, and queues it for the thread (serve.c). */
#include "store/internal.h"

#include "daemon/base/assert.h"
#include "daemon/base/mem.h"
#include "store/migrate.h"

#define TEXTS_MAX ((size_t)1 << 20) /* bytes of a record's texts together */

/* ---- requests ---- */

void store__req_free(struct req *r)
{
    if (!r)
        return;
    q_state_fini(&r->state);
    q_state_fini(&r->out);
    free(r->blob);
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

static int submit(struct store *s, struct req *r, int queue, struct err *e)
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

int store_open(const struct store_options *o, struct store **out, struct err *e)
{
    *out = NULL;
    struct q_counts c;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    list_init(&s->queue[QUEUE_SMALL]);
    list_init(&s->queue[QUEUE_LARGE]);
    s->max_queue = o->max_queue ? o->max_queue : 256;
    s->upkeep = true; /* what a killed process left */
    int rc = db_open(&s->db, o->dir, e);
    if (rc == 0 && ((rc = db_migrate(&s->db, e)) < 0 || (rc = db_check(&s->db, e)) < 0 ||
                    (rc = q_count_all(&s->db, &c, e)) < 0)) {
        if (e && o->dir && *o->dir)
            err_prefix(e, "data directory %s", o->dir);
    }
    if (rc == 0) {
        s->stats = (struct store_stats){.states = (uint64_t)c.states,
                                        .blobs = (uint64_t)c.blobs,
                                        .blob_bytes = (uint64_t)c.blob_bytes};
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
    ASSERT(list_empty(&s->queue[QUEUE_SMALL]) && list_empty(&s->queue[QUEUE_LARGE]) && !s->large);
    /* Bounded: the next start goes on where this leaves off. */
    for (int i = 0; i < 64 && store__upkeep_step(s); i++)
        ;
    db_close(&s->db);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- the interface ---- */

static bool is_name(const char *s, bool may_be_empty)
{
    size_t n =
        s ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") : 0;
    return s && s[n] == 0 && n <= STORE_NAME_MAX && (n > 0 || may_be_empty);
}

static bool is_sha256(const char *s)
{
    return strnlen(s, 65) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static size_t text_len(const char *s)
{
    return s ? strlen(s) : 0;
}

static int check_put(const struct store_state *t, const void *blob, size_t bytes, struct err *e)
{
    if (!memchr(t->name, 0, sizeof t->name) || !is_name(t->name, false))
        return err_set_param(e, ERR_INVALID, "name",
                             "a state's name is 1 to %d of the characters A-Z a-z 0-9 . _ -",
                             STORE_NAME_MAX);
    if (!is_sha256(t->sha256))
        return err_set(e, ERR_INVALID, "a state's SHA-256 is 64 lower-case hexadecimal digits");
    if (!memchr(t->model, 0, sizeof t->model) ||
        !memchr(t->weights_type, 0, sizeof t->weights_type) ||
        !memchr(t->fingerprint, 0, sizeof t->fingerprint))
        return err_set(e, ERR_INVALID, "a text of the state's record does not end");
    if (!blob || bytes == 0)
        return err_set(e, ERR_INVALID, "a state without bytes");
    if (bytes > INT64_MAX || t->n_tokens > INT64_MAX)
        return err_set(e, ERR_INVALID, "a count of the state's record is too large");
    if (text_len(t->parents) + text_len(t->origin) + text_len(t->tags) + text_len(t->norms) >
        TEXTS_MAX)
        return err_set(e, ERR_INVALID, "parents, origin, tags and norms of a state exceed 1 MiB");
    return 0;
}

static struct req *req_new(enum req_kind kind, void *arg, struct err *e)
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

int store_put_state_take(struct store *s, const struct store_state *state, void *blob,
                         size_t blob_bytes, enum store_if_exists mode, store_state_fn *done,
                         void *arg, struct err *e)
{
    int rc = check_put(state, blob, blob_bytes, e);
    if (rc < 0)
        return rc;
    struct req *r = req_new(REQ_PUT, arg, e);
    if (!r)
        return ERR_NOMEM;
    r->done = done;
    r->mode = mode;
    rc = q_state_copy(&r->state, state, e);
    if (rc == 0) {
        r->state.bytes = blob_bytes;
        r->blob = blob;
        rc = submit(s, r, blob_bytes <= STORE__SMALL_BYTES ? QUEUE_SMALL : QUEUE_LARGE, e);
    }
    if (rc < 0) {
        r->blob = NULL; /* stays the caller's */
        store__req_free(r);
    }
    return rc;
}

/* Get and delete: a name and a version. */
static int submit_named(struct store *s, enum req_kind kind, const char *name, uint64_t version,
                        bool with_blob, store_state_fn *done, void *arg, struct err *e)
{
    if (!is_name(name, false))
        return err_set_param(e, ERR_INVALID, "name",
                             "a state's name is 1 to %d of the characters A-Z a-z 0-9 . _ -",
                             STORE_NAME_MAX);
    struct req *r = req_new(kind, arg, e);
    if (!r)
        return ERR_NOMEM;
    memcpy(r->name, name, strlen(name) + 1);
    r->version = version;
    r->with_blob = with_blob;
    r->done = done;
    int rc = submit(s, r, QUEUE_SMALL, e);
    if (rc < 0)
        store__req_free(r);
    return rc;
}

int store_get_state(struct store *s, const char *name, uint64_t version, bool with_blob,
                    store_state_fn *done, void *arg, struct err *e)
{
    return submit_named(s, REQ_GET, name, version, with_blob, done, arg, e);
}

int store_delete_state(struct store *s, const char *name, uint64_t version, store_state_fn *done,
                       void *arg, struct err *e)
{
    return submit_named(s, REQ_DELETE, name, version, false, done, arg, e);
}

int store_list_states(struct store *s, const char *after, const char *prefix, size_t limit,
                      store_list_fn *done, void *arg, struct err *e)
{
    after = after ? after : "";
    prefix = prefix ? prefix : "";
    if (strlen(after) > STORE_NAME_MAX || strlen(prefix) > STORE_NAME_MAX)
        return err_set(e, ERR_INVALID, "longer than a state's name may be (%d)", STORE_NAME_MAX);
    if (limit < 1 || limit > 1000)
        return err_set_param(e, ERR_INVALID, "limit", "limit is %zu, want 1 to 1000", limit);
    struct req *r = req_new(REQ_LIST, arg, e);
    if (!r)
        return ERR_NOMEM;
    memcpy(r->name, after, strlen(after) + 1);
    memcpy(r->prefix, prefix, strlen(prefix) + 1);
    r->limit = limit;
    r->done_list = done;
    int rc = submit(s, r, QUEUE_SMALL, e);
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

const char *store_backend(void)
{
    return "sqlite " SQLITE_VERSION;
}
