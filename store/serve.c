/* The store's thread and its two queues.
 *
 * Small requests come first: a run of reads, or a run of writes that share one transaction and are
 * answered after its commit. After every few such runs one large request, if there is any, advances
 * by a slice of 1 MiB. A large put writes its slices in transactions of their own that do not wait
 * for the disk: they are refuse until the last one (q_blobs.h), which names the blob, adds the
 * record and waits for the disk; the log is written in order, so everything before it is there too.
 * A process killed in between leaves refuse and no record.
 *
 * A backup advances by a slice after each of those.
 *
 * When nothing has come in for a while, the thread removes what is over, collects refuse, gives
 * free pages back and empties the log, in small steps. */
#include "store/internal.h"

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>

#define GROUP_MAX     64               /* writes in one transaction */
#define GROUP_BYTES   (8 * BLOB_SLICE) /* of their blobs */
#define SMALL_RUNS    32               /* between two slices of a large request */
#define IDLE_NS       250000000        /* without a request before upkeep begins */
#define UPKEEP_SLICES 4                /* removed in one step */
#define UPKEEP_PAGES  64               /* given back in one step */
#define DUE_MAX_MS    60000 /* between two looks for what is over: the clock may be set */

/* ---- requests ---- */

/* The counters as committed; not within write_group. */
static void publish_totals(struct store *s)
{
    s->stats.states = (uint64_t)s->env.total.states;
    s->stats.blobs = (uint64_t)s->env.total.blobs;
    s->stats.blob_bytes = (uint64_t)s->env.total.blob_bytes;
}

static void count_answer(struct store *s, const struct err *e)
{
    pthread_mutex_lock(&s->lock);
    s->stats.requests++;
    s->stats.errors += e->code != 0;
    s->stats.refused_full += e->code == ERR_STORAGE_FULL;
    publish_totals(s);
    pthread_mutex_unlock(&s->lock);
}

static bool is_write(const struct req *r)
{
    return r->kind <= REQ_ITEM_DELETE;
}

static bool is_item(const struct req *r)
{
    return r->kind == REQ_ITEM_PUT || r->kind == REQ_ITEM_DELETE || r->kind == REQ_ITEM_GET ||
           r->kind == REQ_ITEM_LIST;
}

/* Runs the callback of a request about one state and ends it. */
static void req_answer(struct store *s, struct req *r)
{
    count_answer(s, &r->err);
    bool ok = r->err.code == 0;
    void *blob = NULL;
    if (is_item(r)) {
        store__item_answer(r);
        return;
    }
    if (ok && r->kind == REQ_GET) {
        blob = r->blob;
        r->blob = NULL;
    }
    bool none = r->kind == REQ_FIND_KEY && !r->found;
    r->done(r->arg, &r->err, ok && !none ? &r->out : NULL, blob, blob ? r->out.bytes : 0);
    store__req_free(r);
}

/* Puts what was being done before the message of a failure that does not name its state. */
static void req_name_error(struct req *r)
{
    int c = r->err.code;
    if (c == 0 || q_is_refusal(c))
        return;
    static const char *const verbs[] = {
        [REQ_PUT] = "store",     [REQ_DELETE] = "delete",  [REQ_PATCH] = "change",
        [REQ_FORK] = "fork",     [REQ_ITEM_PUT] = "store", [REQ_ITEM_DELETE] = "delete",
        [REQ_ITEM_GET] = "read", [REQ_ITEM_LIST] = "list", [REQ_GET] = "read"};
    if (is_item(r))
        err_prefix(&r->err, "%s %s %s", verbs[r->kind], store_kind_name(r->item.kind),
                   r->item.name);
    else if (r->kind == REQ_FIND_KEY)
        err_prefix(&r->err, "find an idempotency key");
    else
        err_prefix(&r->err, "%s state %s", verbs[r->kind],
                   r->kind == REQ_PUT ? r->state.name : r->name);
}

/* A get whose blob turned out to be large; it was accepted already, so also while closing. */
static int move_to_large(struct store *s, struct req *r)
{
    pthread_mutex_lock(&s->lock);
    int rc = store__enqueue(s, r, QUEUE_LARGE, &r->err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static struct req *peek(struct store *s, int queue)
{
    return list_empty(&s->queue[queue]) ? NULL : LIST_OWNER(s->queue[queue].next, struct req, link);
}

static struct req *take(struct store *s, int queue)
{
    struct list *l = list_pop(&s->queue[queue]);
    if (!l)
        return NULL;
    s->n_queued[queue]--;
    return LIST_OWNER(l, struct req, link);
}

/* ---- small reads ---- */

static void do_list(struct store *s, struct req *r)
{
    struct q_page page = {0};
    int rc;
    if (r->kind == REQ_VERSIONS) {
        rc = q_state_versions(&s->db, &s->env, r->name, r->version, r->limit, &page, &r->err);
    } else {
        const struct store_query q = {.after = r->name,
                                      .prefix = r->to,
                                      .tag = r->text ? r->text : "",
                                      .model = r->model,
                                      .limit = r->limit,
                                      .newest = r->newest};
        rc = q_state_list(&s->db, &s->env, &q, &page, &r->err);
    }
    if (rc < 0 && rc != ERR_STATE_NOT_FOUND)
        err_prefix(&r->err, "list states");
    count_answer(s, &r->err);
    pthread_mutex_lock(&s->lock);
    s->stats.damaged += page.n_damaged;
    pthread_mutex_unlock(&s->lock);
    r->done_list(r->arg, &r->err, rc == 0 ? page.rows : NULL, rc == 0 ? page.n : 0,
                 rc == 0 && page.has_more);
    q_page_fini(&page);
    store__req_free(r);
}

static void do_items(struct store *s, struct req *r)
{
    q_item_list(&s->db, &r->item, r->newest, r->limit, &r->items, &r->err);
    req_name_error(r);
    req_answer(s, r);
}

static void do_find_key(struct store *s, struct req *r)
{
    r->found = q_key_find(&s->db, &s->env, &r->how, &r->out, &r->err) > 0;
    req_name_error(r);
    req_answer(s, r);
}

/* Finds record and blob, and memory for it. */
static int get_begin(struct store *s, struct req *r)
{
    if (is_item(r))
        return store__item_begin(s, r);
    int rc = q_state_find(&s->db, &s->env, r->name, r->version, &r->out, &r->err);
    if (rc < 0 || !r->with_blob)
        return rc;
    return q_state_blob(&s->db, &r->out, &r->blob_id, &r->err);
}

/* 1: more slices to go; 0: done. */
static int get_step(struct store *s, struct req *r)
{
    /* present in full: checked in get_begin */
    size_t bytes = (size_t)(is_item(r) ? r->item_out.bytes : r->out.bytes);
    if (!r->blob && !(r->blob = malloc(bytes)))
        return err_set(&r->err, ERR_NOMEM, "out of memory for %zu bytes", bytes);
    size_t n = q_blob_slice_len(r->off, bytes);
    int rc = q_blob_read(&s->db, r->blob_id, r->off, (char *)r->blob + r->off, n, &r->err);
    if (rc < 0)
        return rc;
    r->off += n;
    return r->off < bytes;
}

static void do_get(struct store *s, struct req *r)
{
    int rc = get_begin(s, r);
    if (rc == 0 && r->with_blob &&
        (is_item(r) ? r->item_out.bytes : r->out.bytes) > STORE__SMALL_BYTES) {
        q_state_fini(&r->out); /* looked up again when its turn comes */
        q_item_fini(&r->item_out);
        if (move_to_large(s, r) == 0)
            return;
    } else {
        while (rc == 0 && r->with_blob && (rc = get_step(s, r)) > 0)
            rc = 0;
    }
    req_name_error(r);
    req_answer(s, r);
}

/* ---- small writes ---- */

static int put_step(struct store *s, struct req *r)
{
    if (r->kind == REQ_ITEM_PUT)
        return q_item_put_step(&s->db, &s->env, &r->item_put, &r->item_out, &r->change, &r->err);
    return q_put_step(&s->db, &s->env, &r->put, &r->out, &r->change, &r->err);
}

/* What of a write is done before its transaction. */
static void write_begin(struct store *s, struct req *r)
{
    int rc = 1;
    q_state_fini(&r->out);
    q_item_fini(&r->item_out);
    r->err = (struct err){0};
    r->change = (struct q_counts){0};
    r->put = (struct q_put){.state = &r->state, .blob = r->blob, .how = &r->how};
    q_item_put_begin(&r->item_put);
    while (r->kind == REQ_PUT && rc > 0 && q_put_only_reads(&r->put))
        rc = put_step(s, r);
}

static int write_end(struct store *s, struct req *r)
{
    const struct q_fork fork = {r->name, r->to, r->version, r->rollback, &r->patch, &r->how};
    int rc;
    switch (r->kind) {
    case REQ_DELETE:
        return q_state_delete(&s->db, &s->env, r->name, r->version, r->if_revision, &r->out,
                              &r->change, &r->err);
    case REQ_PATCH:
        return q_state_patch(&s->db, &s->env, r->name, r->version, &r->patch, &r->out, &r->err);
    case REQ_FORK:
        return q_state_fork(&s->db, &s->env, &fork, &r->out, &r->change, &r->err);
    case REQ_ITEM_DELETE:
        return q_item_delete(&s->db, &r->item, r->if_revision, &r->item_out, &r->change, &r->err);
    default:
        ASSERT(r->kind == REQ_PUT || r->kind == REQ_ITEM_PUT);
        while ((rc = put_step(s, r)) > 0)
            ;
        return rc;
    }
}

static int write_all(struct store *s, struct req *const *group, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        struct req *r = group[i];
        if (r->err.code)
            continue;
        int rc = write_end(s, r);
        if (rc < 0 && !q_is_refusal(rc)) {
            *e = r->err;
            db_rollback(&s->db);
            return rc;
        }
        if (rc == 0)
            q_counts_add(&s->env.total, &r->change);
    }
    return db_commit(&s->db, e);
}

/* All of the group in one transaction; a request that is refused leaves the others unharmed. On
 * failure nothing of the group has happened, e says why. */
static int write_group(struct store *s, struct req *const *group, size_t n, struct err *e)
{
    struct q_counts before = s->env.total;
    for (size_t i = 0; i < n; i++)
        write_begin(s, group[i]);
    int rc = db_begin(&s->db, DB_DURABLE, e);
    if (rc == 0 && (rc = write_all(s, group, n, e)) < 0)
        s->env.total = before;
    return rc;
}

/* Removes a few records whose time is over: 1, 0, negative, as q_state_expire. */
static int expire(struct store *s, struct err *e)
{
    struct q_counts change;
    int rc = q_state_expire(&s->db, &s->env, &change, e);
    if (rc <= 0)
        return rc;
    q_counts_add(&s->env.total, &change);
    pthread_mutex_lock(&s->lock);
    s->stats.expired += (uint64_t)-change.states;
    publish_totals(s);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* As much refuse goes as a write may make, so that steady writing cannot outrun the collector. What
 * a large get reads may be refuse by now, so it waits for that. */
static void collect(struct store *s, size_t max_blobs, int64_t max_slices)
{
    if (s->large && !is_write(s->large))
        return;
    int64_t except = s->large ? store__blob_written(s->large) : 0;
    for (size_t i = 0; i < max_blobs && q_blob_collect(&s->db, except, max_slices, NULL) > 0; i++)
        ;
}

/* A group that fails is tried again one by one, so that only the guilty is told of a failure. */
static void do_writes(struct store *s, struct req *const *group, size_t n)
{
    struct err e = {0};
    expire(s, NULL); /* what is over must not fill the quotas */
    if (write_group(s, group, n, &e) < 0) {
        for (size_t i = 0; i < n; i++)
            if (n == 1 || write_group(s, &group[i], 1, &e) < 0)
                group[i]->err = e;
    }
    for (size_t i = 0; i < n; i++) {
        req_name_error(group[i]);
        req_answer(s, group[i]);
    }
    collect(s, n, STORE__SMALL_BYTES / BLOB_SLICE);
    s->upkeep = true;
}

/* ---- the thread ---- */

static uint64_t blob_bytes(const struct req *r)
{
    return r->blob ? (is_item(r) ? r->item.bytes : r->state.bytes) : 0;
}

/* The next read, or the next run of writes. */
static size_t take_group(struct store *s, struct req **group)
{
    size_t n = 0, bytes = 0;
    pthread_mutex_lock(&s->lock);
    for (struct req *r; n < GROUP_MAX && (r = peek(s, QUEUE_SMALL)); n++) {
        if (n > 0 && (!is_write(group[0]) || !is_write(r) || bytes + blob_bytes(r) > GROUP_BYTES))
            break;
        bytes += blob_bytes(r);
        group[n] = take(s, QUEUE_SMALL);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void look_at_clock(struct store *s)
{
    s->env.now_ms = s->wall_ms(s->wall_arg);
}

static bool run_small(struct store *s)
{
    struct req *group[GROUP_MAX];
    size_t n = take_group(s, group);
    if (n == 0)
        return false;
    look_at_clock(s);
    if (is_write(group[0]))
        do_writes(s, group, n);
    else if (group[0]->kind == REQ_GET || group[0]->kind == REQ_ITEM_GET)
        do_get(s, group[0]);
    else if (group[0]->kind == REQ_FIND_KEY)
        do_find_key(s, group[0]);
    else if (group[0]->kind == REQ_ITEM_LIST)
        do_items(s, group[0]);
    else
        do_list(s, group[0]);
    return true;
}

static int large_put_step(struct store *s, struct req *r)
{
    bool item = r->kind == REQ_ITEM_PUT;
    if (!item && q_put_only_reads(&r->put))
        return put_step(s, r);
    bool last = item ? r->item_put.next == Q_ITEM_FINISH : r->put.next == Q_PUT_FINISH;
    enum db_sync sync = last ? DB_DURABLE : DB_LAZY;
    int rc = db_begin(&s->db, sync, &r->err);
    if (rc < 0)
        return rc;
    rc = put_step(s, r);
    if (rc < 0) {
        db_rollback(&s->db);
        return rc;
    }
    int committed = db_commit(&s->db, &r->err);
    if (committed == 0 && rc == 0)
        q_counts_add(&s->env.total, &r->change);
    return committed < 0 ? committed : rc;
}

static int large_step(struct store *s, struct req *r)
{
    if (is_write(r)) {
        if (is_item(r) || r->put.next == Q_PUT_WRITE)
            collect(s, 1, 2);
        s->upkeep = true;
        return large_put_step(s, r);
    }
    if (!r->blob) {
        q_state_fini(&r->out);
        q_item_fini(&r->item_out);
        int rc = get_begin(s, r);
        if (rc < 0)
            return rc;
    }
    return get_step(s, r);
}

static bool run_large(struct store *s)
{
    if (!s->large) {
        pthread_mutex_lock(&s->lock);
        s->large = take(s, QUEUE_LARGE);
        pthread_mutex_unlock(&s->lock);
        if (s->large)
            s->large->put = (struct q_put){
                .state = &s->large->state, .blob = s->large->blob, .how = &s->large->how};
    }
    struct req *r = s->large;
    if (!r)
        return false;
    look_at_clock(s);
    if (large_step(s, r) <= 0) {
        s->large = NULL;
        req_name_error(r);
        req_answer(s, r);
    }
    return true;
}

/* ---- backup ---- */

/* The next backup, or the one being made; NULL: none. *stop: the store closes. */
static struct req *take_backup(struct store *s, bool *stop)
{
    pthread_mutex_lock(&s->lock);
    if (!s->backup) {
        s->backup = s->backup_asked;
        s->backup_asked = NULL;
        s->backup_runs = s->backup != NULL;
    }
    *stop = s->closing;
    pthread_mutex_unlock(&s->lock);
    return s->backup;
}

static bool run_backup(struct store *s)
{
    bool stop;
    uint64_t bytes = 0;
    struct req *r = take_backup(s, &stop);
    if (!r)
        return false;
    int rc = stop ? err_set(&r->err, ERR_UNAVAILABLE, "backup: the store was closed") : 0;
    if (rc == 0 && !r->backup)
        rc = backup_begin(&s->db, r->text, &r->backup, &r->err);
    if (rc == 0 && (rc = backup_step(r->backup, &bytes, &r->err)) > 0)
        return true;
    s->backup = NULL;
    count_answer(s, &r->err);
    pthread_mutex_lock(&s->lock);
    s->backup_runs = false;
    s->stats.backups += rc == 0;
    pthread_mutex_unlock(&s->lock);
    backup_free(r->backup);
    r->backup = NULL;
    r->done_backup(r->arg, &r->err, bytes);
    store__req_free(r);
    return true;
}

/* ---- upkeep ---- */

/* One small step of tidying; false when there is none left to do. One that fails does not keep the
 * others from being done. */
bool store__upkeep_step(struct store *s)
{
    look_at_clock(s);
    int rc = expire(s, NULL);
    if (rc <= 0)
        rc = q_key_expire(&s->db, &s->env, NULL);
    if (rc <= 0)
        rc = q_blob_collect(&s->db, 0, UPKEEP_SLICES, NULL);
    if (rc <= 0)
        rc = db_vacuum_step(&s->db, UPKEEP_PAGES, NULL);
    if (rc <= 0)
        rc = db_checkpoint(&s->db, NULL);
    return rc > 0;
}

/* When, on the monotonic clock, to look for what is over; 0: nothing will be. */
static uint64_t next_due_ns(struct store *s)
{
    int64_t due, wait = DUE_MAX_MS;
    int rc = q_next_due(&s->db, &due, NULL);
    if (rc == 0 && due == 0)
        return 0;
    /* What is over already could not be removed just now. */
    if (rc == 0 && due > s->env.now_ms && due - s->env.now_ms < wait)
        wait = due - s->env.now_ms;
    return clock_ns() + (uint64_t)wait * 1000000;
}

/* When to begin with upkeep; 0: when something has been written. */
static uint64_t upkeep_at(struct store *s, bool goes_on)
{
    uint64_t now = clock_ns();
    if (s->upkeep)
        return goes_on ? now : now + IDLE_NS;
    return s->due_ns && s->due_ns < now ? now : s->due_ns;
}

/* Waits for a request, tidying after a while. False: the store closes and nothing is queued. */
static bool wait_for_work(struct store *s)
{
    uint64_t at = upkeep_at(s, false);
    bool ready;
    pthread_mutex_lock(&s->lock);
    while (!(ready = s->n_queued[QUEUE_SMALL] || s->n_queued[QUEUE_LARGE] || s->backup_asked) &&
           !s->closing) {
        struct timespec t = {(time_t)(at / 1000000000), (long)(at % 1000000000)};
        if (!at) {
            pthread_cond_wait(&s->wake, &s->lock);
            continue;
        }
        if (pthread_cond_timedwait(&s->wake, &s->lock, &t) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&s->lock);
        s->upkeep = store__upkeep_step(s);
        if (!s->upkeep)
            s->due_ns = next_due_ns(s);
        at = upkeep_at(s, true);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return ready;
}

void *store__run(void *arg)
{
    struct store *s = arg;
    do {
        bool worked;
        do {
            uint64_t start = clock_ns();
            worked = false;
            for (int i = 0; i < SMALL_RUNS && run_small(s); i++)
                worked = true;
            worked |= run_large(s);
            worked |= run_backup(s);
            pthread_mutex_lock(&s->lock);
            s->stats.busy_ns += clock_ns() - start;
            pthread_mutex_unlock(&s->lock);
        } while (worked);
    } while (wait_for_work(s));
    return NULL;
}
