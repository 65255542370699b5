#include "tests/lib/store_sync.h"

#include "daemon/base/sha256.h"
#include "store/db.h"
#include "tests/lib/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool answered;
    struct answer *a;
    char *text;
    size_t size;
    bool has_more;
    int code;
};

static void waiter_init(struct waiter *w, struct answer *a)
{
    *w = (struct waiter){.a = a};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    if (a)
        *a = (struct answer){0};
}

static int waiter_end(struct waiter *w, int queued, const struct err *e)
{
    if (queued == 0) {
        pthread_mutex_lock(&w->lock);
        while (!w->answered)
            pthread_cond_wait(&w->wake, &w->lock);
        pthread_mutex_unlock(&w->lock);
    } else {
        w->code = queued;
        if (w->a)
            w->a->err = *e;
    }
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    return w->code;
}

static void waiter_answer(struct waiter *w, int code)
{
    pthread_mutex_lock(&w->lock);
    w->code = code;
    w->answered = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static void copy_state(struct store_state *dst, const struct store_state *src)
{
    const char *t[5] = {src->parents, src->origin, src->tags, src->norms, src->description};
    const char **d[5] = {&dst->parents, &dst->origin, &dst->tags, &dst->norms, &dst->description};
    *dst = *src;
    for (int i = 0; i < 5; i++)
        *d[i] = strdup(t[i]);
}

void answer_fini(struct answer *a)
{
    free((void *)a->state.parents);
    free((void *)a->state.origin);
    free((void *)a->state.tags);
    free((void *)a->state.norms);
    free((void *)a->state.description);
    free(a->blob);
    *a = (struct answer){0};
}

static void on_state(void *arg, const struct err *e, const struct store_state *state, void *blob,
                     size_t blob_bytes)
{
    struct waiter *w = arg;
    if (w->a) {
        w->a->err = *e;
        w->a->blob = blob;
        w->a->blob_bytes = blob_bytes;
        if (state)
            copy_state(&w->a->state, state);
    } else {
        free(blob);
    }
    waiter_answer(w, e->code);
}

static void on_list(void *arg, const struct err *e, const struct store_state *states, size_t n,
                    bool has_more)
{
    struct waiter *w = arg;
    size_t len = 0;
    w->text[0] = 0;
    for (size_t i = 0; i < n && len < w->size; i++)
        len +=
            (size_t)snprintf(w->text + len, w->size - len, "%s@%llu%s ", states[i].name,
                             (unsigned long long)states[i].version, states[i].damaged ? "!" : "");
    w->has_more = has_more;
    waiter_answer(w, e->code);
}

static void on_backup(void *arg, const struct err *e, uint64_t bytes)
{
    struct waiter *w = arg;
    if (w->a) {
        w->a->err = *e;
        w->a->blob_bytes = bytes;
    }
    waiter_answer(w, e->code);
}

const struct store_write new_version = {.if_exists = STORE_EXISTS_NEW_VERSION};
const struct store_write must_be_new = {.if_exists = STORE_EXISTS_ERROR};

int sync_put_how(struct store *s, const struct store_state *state, const void *blob, size_t bytes,
                 const struct store_write *how, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    void *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, blob, bytes);
    int rc = store_put_state_take(s, state, copy, bytes, how, on_state, &w, &e);
    if (rc < 0)
        free(copy);
    return waiter_end(&w, rc, &e);
}

int sync_put(struct store *s, const struct store_state *state, const void *blob, size_t bytes,
             enum store_if_exists mode, struct answer *a)
{
    return sync_put_how(s, state, blob, bytes, &(struct store_write){.if_exists = mode}, a);
}

int sync_get(struct store *s, const char *name, uint64_t version, bool with_blob, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    return waiter_end(&w, store_get_state(s, name, version, with_blob, on_state, &w, &e), &e);
}

int sync_delete(struct store *s, const char *name, uint64_t version, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    return waiter_end(&w, store_delete_state(s, name, version, 0, on_state, &w, &e), &e);
}

int sync_patch(struct store *s, const char *name, uint64_t version, const struct store_patch *patch,
               struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    return waiter_end(&w, store_patch_state(s, name, version, patch, on_state, &w, &e), &e);
}

int sync_fork(struct store *s, const char *name, uint64_t version, const char *to,
              const struct store_patch *changes, const struct store_write *how, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    int rc = to ? store_fork_state(s, name, version, to, changes, how, on_state, &w, &e)
                : store_rollback_state(s, name, version, changes, how, on_state, &w, &e);
    return waiter_end(&w, rc, &e);
}

int sync_find_key(struct store *s, const char *key, const char *sha256, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    return waiter_end(&w, store_find_key(s, key, sha256, on_state, &w, &e), &e);
}

int sync_backup(struct store *s, const char *dir, struct answer *a)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, a);
    return waiter_end(&w, store_backup(s, dir, on_backup, &w, &e), &e);
}

int sync_query(struct store *s, const struct store_query *query, char *text, size_t size,
               bool *has_more)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, NULL);
    w.text = text;
    w.size = size;
    int rc = waiter_end(&w, store_list_states(s, query, on_list, &w, &e), &e);
    *has_more = w.has_more;
    return rc;
}

int sync_list(struct store *s, const char *after, const char *prefix, size_t limit, char *text,
              size_t size, bool *has_more)
{
    const struct store_query q = {.after = after, .prefix = prefix, .limit = limit};
    return sync_query(s, &q, text, size, has_more);
}

int sync_versions(struct store *s, const char *name, uint64_t before, size_t limit, char *text,
                  size_t size, bool *has_more)
{
    struct waiter w;
    struct err e = {0};
    waiter_init(&w, NULL);
    w.text = text;
    w.size = size;
    int rc = waiter_end(&w, store_list_versions(s, name, before, limit, on_list, &w, &e), &e);
    *has_more = w.has_more;
    return rc;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t seeded_next(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void *seeded_bytes(uint64_t seed, size_t n)
{
    char *p = malloc(n + sizeof seed);
    assert_non_null(p);
    for (size_t i = 0; i < n; i += sizeof seed) {
        uint64_t v = seeded_next(&seed);
        memcpy(p + i, &v, sizeof v);
    }
    return p;
}

struct store_state state_of(const char *name, const void *blob, size_t bytes)
{
    uint8_t digest[32];
    struct store_state s = {.model = "tiny",
                            .weights_type = "bf16",
                            .n_layer = 4,
                            .n_embd = 192,
                            .head_size = 32,
                            .n_tokens = 11,
                            .has_logits = true,
                            .parents = "[\"base@1\"]",
                            .origin = "{\"kind\":\"bake\"}",
                            .tags = "[\"a\"]",
                            .norms = "{\"wkv\":1.5}"};
    snprintf(s.name, sizeof s.name, "%s", name);
    memset(s.fingerprint, 'f', 64);
    sha256_of(blob, bytes, digest);
    sha256_hex(digest, s.sha256);
    return s;
}

struct store *opened_with(const struct store_options *o)
{
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(o, &s, &e) < 0)
        fail_msg("open: %s", e.msg);
    return s;
}

struct store *opened(const char *dir, size_t max_queue)
{
    return opened_with(&(struct store_options){.dir = dir, .max_queue = max_queue});
}

int open_fails(const char *dir, struct err *e)
{
    struct store *s = NULL;
    *e = (struct err){0};
    int rc = store_open(&(struct store_options){.dir = dir}, &s, e);
    assert_null(s);
    assert_int_equal(rc, e->code);
    return rc;
}

/* Puts n bytes of this seed and returns the version. */
uint64_t put_seeded(struct store *s, const char *name, uint64_t seed, size_t n)
{
    struct answer a;
    void *blob = seeded_bytes(seed, n);
    struct store_state st = state_of(name, blob, n);
    if (sync_put(s, &st, blob, n, STORE_EXISTS_NEW_VERSION, &a) < 0)
        fail_msg("put %s: %s", name, a.err.msg);
    uint64_t version = a.state.version;
    answer_fini(&a);
    free(blob);
    return version;
}

void check_seeded(struct store *s, const char *name, uint64_t version, uint64_t seed, size_t n)
{
    struct answer a;
    if (sync_get(s, name, version, true, &a) < 0)
        fail_msg("get %s: %s", name, a.err.msg);
    void *want = seeded_bytes(seed, n);
    assert_int_equal(a.blob_bytes, n);
    assert_int_equal(a.state.bytes, n);
    assert_memory_equal(a.blob, want, n);
    free(want);
    answer_fini(&a);
}

/* Runs SQL on a closed store's file through a connection of its own. */
void sql_on_file(const char *dir, const char *sql)
{
    char path[300];
    sqlite3 *h;
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    int rc = sqlite3_exec(h, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(h));
    sqlite3_close(h);
}

int64_t int_on_file(const char *dir, const char *sql)
{
    char path[300];
    sqlite3 *h;
    sqlite3_stmt *st;
    snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(h, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(h);
    return v;
}

void check_stats(struct store *s, uint64_t states, uint64_t blobs, uint64_t bytes)
{
    struct store_stats t;
    store_get_stats(s, &t);
    assert_int_equal(t.states, states);
    assert_int_equal(t.blobs, blobs);
    assert_int_equal(t.blob_bytes, bytes);
}
