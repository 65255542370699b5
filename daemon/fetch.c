#include "daemon/fetch.h"

#include "daemon/base/clock.h"
#include "daemon/base/sha256.h"
#include "daemon/base/thread.h"
#include "daemon/state_record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One question and its answer, on the stack of who waits. */
struct wait {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done; /* guard: lock; what follows too, until then the store's */
    struct err err;
    struct state_info *records; /* [n] */
    size_t n;
    struct item_info *items; /* [n_items] */
    size_t n_items;
    bool has_more;
    void *blob;
    size_t blob_bytes;
};

static void wait_init(struct wait *w)
{
    *w = (struct wait){.lock = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER};
}

static void drop_records(struct state_info *records, size_t n)
{
    for (size_t i = 0; i < n; i++)
        state_info_fini(&records[i]);
    free(records);
}

static void drop_items(struct item_info *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(items[i].meta);
    free(items);
}

static void answered(struct wait *w)
{
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->answered);
    pthread_mutex_unlock(&w->lock);
}

/* [thread: the store's] */
static void on_list(void *arg, const struct err *e, const struct store_state *states, size_t n,
                    bool has_more)
{
    struct wait *w = arg;
    w->err = *e;
    w->has_more = has_more;
    if (!e->code && n && !(w->records = calloc(n, sizeof *w->records)))
        err_set(&w->err, ERR_NOMEM, "no memory for %zu records", n);
    for (; w->n < n && !w->err.code; w->n++)
        if (state_info_fill(&w->records[w->n], &states[w->n]) < 0)
            err_set(&w->err, ERR_NOMEM, "no memory for %zu records", n);
    answered(w);
}

/* [thread: the store's] */
static void on_state(void *arg, const struct err *e, const struct store_state *state, void *blob,
                     size_t blob_bytes)
{
    struct wait *w = arg;
    w->blob = blob;
    w->blob_bytes = blob_bytes;
    on_list(arg, e, state, e->code || !state ? 0 : 1, false);
}

/* rc: of the question's posting. Afterwards records and blob are the caller's unless it fails. */
static int wait_for(struct service *s, struct wait *w, int rc, uint64_t asked_ns, struct err *e)
{
    if (rc == 0) {
        pthread_mutex_lock(&w->lock);
        while (!w->done)
            pthread_cond_wait(&w->answered, &w->lock);
        pthread_mutex_unlock(&w->lock);
        metrics_observe_ns(s->metrics, METRIC_STORE, clock_ns() - asked_ns);
        rc = w->err.code;
        if (rc < 0)
            *e = w->err;
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->answered);
    if (rc < 0) {
        drop_records(w->records, w->n);
        drop_items(w->items, w->n_items);
        free(w->blob);
    }
    return rc;
}

static int ask_state(struct service *s, const char *ref, struct wait *w, struct err *e)
{
    char name[129];
    uint64_t version, at = clock_ns();
    ASSERT_THREAD(THREAD_LANE);
    wait_init(w);
    int rc = state_ref_parse(ref, name, &version, e);
    if (rc == 0)
        rc = store_get_state(s->options.store, name, version, true, on_state, w, e);
    return wait_for(s, w, rc, at, e);
}

static int unpack(const struct model *m, const struct wait *w, struct fetched *out, struct err *e)
{
    const struct rwkv_info *info = m->rwkv_info;
    const struct state_info *r = &out->info;
    bool has_logits;
    uint64_t n_tokens;
    if (state_check_model(r->fingerprint, r->model, out->ref, m, e) < 0)
        return e->code;
    float *logits = calloc(info->n_vocab, sizeof *logits);
    int rc = 0;
    if (!logits || !(out->state = rwkv_state_new(info)))
        rc = err_set(e, ERR_NOMEM, "no memory for the state %s", out->ref);
    else if ((rc = state_record_unpack(w->blob, w->blob_bytes, r->sha256, info, out->state, logits,
                                       &has_logits, &n_tokens, e)) < 0)
        err_prefix(e, "state %s", out->ref);
    free(logits);
    return rc;
}

int fetch_state(struct service *s, const struct model *m, const char *ref, const char *param,
                struct fetched *out, struct err *e)
{
    struct wait w;
    *out = (struct fetched){0};
    int rc = ask_state(s, ref, &w, e);
    if (rc == 0) {
        out->info = w.records[0];
        free(w.records);
        snprintf(out->ref, sizeof out->ref, "%s@%llu", out->info.name,
                 (unsigned long long)out->info.version);
        rc = unpack(m, &w, out, e);
        free(w.blob);
        if (rc < 0)
            fetched_fini(out);
    }
    if (rc < 0 && param)
        snprintf(e->param, sizeof e->param, "%s", param);
    return rc;
}

void fetched_fini(struct fetched *f)
{
    state_info_fini(&f->info);
    free(f->state);
    *f = (struct fetched){0};
}

int fetch_put(struct service *s, const struct state_put *p, const struct store_write *how,
              struct state_info *saved, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    wait_init(&w);
    int rc = wait_for(s, &w, state_put(s, p, how, on_state, &w, e), at, e);
    if (rc < 0)
        return rc;
    *saved = w.records[0];
    free(w.records);
    free(w.blob);
    metrics_add(s->metrics, METRIC_STATES_SAVED, 1);
    return 0;
}

int fetch_key(struct service *s, const struct state_write *write, struct state_info *record,
              bool *found, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    *found = false;
    if (!write->key)
        return 0;
    wait_init(&w);
    int rc = wait_for(
        s, &w, store_find_key(s->options.store, write->key, write->request_sha256, on_state, &w, e),
        at, e);
    if (rc < 0)
        return rc;
    *found = w.n == 1;
    if (*found)
        *record = w.records[0];
    free(w.records);
    free(w.blob);
    return 0;
}

int fetch_list(struct service *s, const struct store_query *query, struct state_info **out,
               size_t *n, bool *has_more, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    wait_init(&w);
    int rc = wait_for(s, &w, store_list_states(s->options.store, query, on_list, &w, e), at, e);
    if (rc < 0)
        return rc;
    *out = w.records;
    *n = w.n;
    *has_more = w.has_more;
    return 0;
}

/* ---- items ---- */

static int item_fill(struct item_info *out, const struct store_item *i)
{
    *out = (struct item_info){.seq = i->seq,
                              .revision = i->revision,
                              .bytes = i->bytes,
                              .created_ms = i->created_ms,
                              .changed_ms = i->changed_ms};
    memcpy(out->name, i->name, sizeof out->name);
    memcpy(out->model, i->model, sizeof out->model);
    memcpy(out->fingerprint, i->fingerprint, sizeof out->fingerprint);
    memcpy(out->sha256, i->sha256, sizeof out->sha256);
    memcpy(out->type, i->type, sizeof out->type);
    memcpy(out->status, i->status, sizeof out->status);
    return !i->meta || (out->meta = strdup(i->meta)) ? 0 : ERR_NOMEM;
}

/* [thread: the store's] */
static void on_items(void *arg, const struct err *e, const struct store_item *items, size_t n,
                     bool has_more, void *data, size_t bytes)
{
    struct wait *w = arg;
    w->err = *e;
    w->has_more = has_more;
    w->blob = data;
    w->blob_bytes = bytes;
    if (!e->code && n && !(w->items = calloc(n, sizeof *w->items)))
        err_set(&w->err, ERR_NOMEM, "no memory for %zu records", n);
    for (; w->n_items < n && !w->err.code; w->n_items++)
        if (item_fill(&w->items[w->n_items], &items[w->n_items]) < 0)
            err_set(&w->err, ERR_NOMEM, "no memory for %zu records", n);
    answered(w);
}

void fetched_item_fini(struct fetched_item *f)
{
    free(f->info.meta);
    free(f->data);
    *f = (struct fetched_item){0};
}

int fetch_item(struct service *s, enum store_kind kind, const char *name, bool with_data,
               struct fetched_item *out, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    uint8_t digest[32];
    char sha256[65];
    *out = (struct fetched_item){0};
    wait_init(&w);
    int rc = wait_for(
        s, &w, store_get_item(s->options.store, kind, name, with_data, on_items, &w, e), at, e);
    if (rc < 0)
        return rc;
    *out = (struct fetched_item){w.items[0], w.blob, w.blob_bytes};
    free(w.items);
    if (with_data) {
        sha256_of(out->data, out->bytes, digest);
        sha256_hex(digest, sha256);
        if (strcmp(sha256, out->info.sha256) != 0)
            rc = err_set(e, ERR_STATE_CORRUPT, "%s %s is damaged: its bytes have another SHA-256",
                         store_kind_name(kind), name);
    }
    if (rc < 0)
        fetched_item_fini(out);
    return rc;
}

int fetch_item_put_take(struct service *s, const struct store_item *item, void *data,
                        const struct store_item_write *how, struct item_info *saved, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    wait_init(&w);
    int rc = store_put_item_take(s->options.store, item, data, how, on_items, &w, e);
    if (rc < 0)
        free(data);
    if ((rc = wait_for(s, &w, rc, at, e)) < 0)
        return rc;
    if (saved)
        *saved = w.items[0];
    else
        free(w.items[0].meta);
    free(w.items);
    return 0;
}

int fetch_item_put_over_take(struct service *s, const struct store_item *item, void *data,
                             bool replace, struct item_info *saved, struct err *e)
{
    struct fetched_item old = {0};
    struct err none = {0};
    int rc = replace ? fetch_item(s, item->kind, item->name, false, &old, &none) : 0;
    const struct store_item_write how = {.replace = replace && rc == 0};
    fetched_item_fini(&old);
    if (rc == ERR_NOMEM || rc == ERR_UNAVAILABLE || rc == ERR_BUSY) { /* it may be there */
        *e = none;
        free(data);
        return rc;
    }
    return fetch_item_put_take(s, item, data, &how, saved, e);
}

int fetch_item_delete(struct service *s, enum store_kind kind, const char *name,
                      uint64_t if_revision, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    wait_init(&w);
    int rc = wait_for(s, &w,
                      store_delete_item(s->options.store, kind, name, if_revision, on_items, &w, e),
                      at, e);
    if (rc == 0)
        drop_items(w.items, w.n_items);
    return rc;
}

int fetch_item_list(struct service *s, const struct store_item_query *query, struct item_info **out,
                    size_t *n, bool *has_more, struct err *e)
{
    struct wait w;
    uint64_t at = clock_ns();
    wait_init(&w);
    int rc = wait_for(s, &w, store_list_items(s->options.store, query, on_items, &w, e), at, e);
    if (rc < 0)
        return rc;
    *out = w.items;
    *n = w.n_items;
    *has_more = w.has_more;
    return 0;
}

int fetch_item_latest(struct service *s, enum store_kind kind, const char *fingerprint,
                      const char *least, char name[129], struct err *e)
{
    char after[129] = "";
    uint64_t latest = 0;
    bool more = true;
    *name = 0;
    while (more) {
        struct item_info *page;
        size_t n;
        const struct store_item_query q = {
            .kind = kind, .after = after, .fingerprint = fingerprint, .limit = 1000};
        int rc = fetch_item_list(s, &q, &page, &n, &more, e);
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < n; i++) {
            memcpy(after, page[i].name, sizeof after);
            uint64_t age = !least || strcmp(page[i].name, least) ? page[i].revision + 1 : 1;
            if (page[i].meta && age > latest) {
                latest = age;
                memcpy(name, page[i].name, 129);
            }
            free(page[i].meta);
        }
        free(page);
    }
    return 0;
}

int fetch_file(const char *path, void **data, size_t *bytes, struct err *e)
{
    FILE *f = fopen(path, "rbe");
    char *p = NULL;
    long n = -1;
    bool sized = f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) > 0 &&
                 (size_t)n <= FETCH_FILE_MAX && fseek(f, 0, SEEK_SET) == 0;
    bool read = sized && (p = malloc((size_t)n)) && fread(p, 1, (size_t)n, f) == (size_t)n;
    if (f)
        fclose(f);
    if (read) {
        *data = p;
        *bytes = (size_t)n;
        return 0;
    }
    bool nomem = sized && !p;
    free(p);
    return nomem ? err_set(e, ERR_NOMEM, "no memory for a file")
                 : err_set(e, ERR_IO, "a file cannot be read: %s", path);
}
