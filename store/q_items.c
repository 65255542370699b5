#include "store/q_items.h"

#include "daemon/base/mem.h"

#include <stdio.h>

#define COLUMNS                                                                                    \
    " name, coalesce(sha256, ''), model, fingerprint, type, status, meta, id, seq, bytes, "        \
    "created_ms, changed_ms, json_valid(meta) "

static const struct {
    const char *word; /* in the table, too */
    int missing, exists;
} kinds[STORE_KINDS] = {
    [STORE_JOB] = {"job", ERR_JOB_NOT_FOUND, ERR_NAME_EXISTS},
    [STORE_DATASET] = {"dataset", ERR_DATASET_NOT_FOUND, ERR_DATASET_EXISTS},
    [STORE_DATASET_PART] = {"dataset_part", ERR_DATASET_NOT_FOUND, ERR_NAME_EXISTS},
    [STORE_CONDITION] = {"condition", ERR_CONDITION_NOT_FOUND, ERR_NAME_EXISTS},
    [STORE_DIFFUSER] = {"diffuser", ERR_DIFFUSER_NOT_FOUND, ERR_NAME_EXISTS},
    [STORE_CONTEXT] = {"context", ERR_CONTEXT_NOT_FOUND, ERR_NAME_EXISTS},
    [STORE_HYBRID] = {"hybrid", ERR_HYBRID_NOT_FOUND, ERR_NAME_EXISTS},
};

const char *store_kind_name(enum store_kind kind)
{
    return kinds[kind].word;
}

int store_kind_missing(enum store_kind kind)
{
    return kinds[kind].missing;
}

/* ---- records in memory ---- */

int q_item_copy(struct store_item *dst, const struct store_item *src, struct err *e)
{
    *dst = *src;
    dst->meta = strdup(src->meta ? src->meta : "{}");
    return dst->meta ? 0 : err_set(e, ERR_NOMEM, "out of memory for a record");
}

void q_item_fini(struct store_item *i)
{
    free((void *)(uintptr_t)i->meta);
    i->meta = NULL;
}

void q_items_fini(struct q_items *page)
{
    for (size_t i = 0; i < page->n; i++)
        q_item_fini(&page->rows[i]);
    free(page->rows);
    *page = (struct q_items){0};
}

/* ---- reading ---- */

static bool column_text(sqlite3_stmt *st, int column, char *to, size_t size)
{
    const char *s = (const char *)sqlite3_column_text(st, column);
    if (!s || strlen(s) >= size)
        return false;
    memcpy(to, s, strlen(s) + 1);
    return true;
}

/* The row's record; one that makes no sense has no meta. */
static int row_read(sqlite3_stmt *st, enum store_kind kind, struct store_item *out, struct err *e)
{
    *out = (struct store_item){.kind = kind,
                               .revision = (uint64_t)sqlite3_column_int64(st, 7),
                               .seq = (uint64_t)sqlite3_column_int64(st, 8),
                               .bytes = (uint64_t)sqlite3_column_int64(st, 9),
                               .created_ms = sqlite3_column_int64(st, 10),
                               .changed_ms = sqlite3_column_int64(st, 11)};
    bool ok = column_text(st, 0, out->name, sizeof out->name) &&
              column_text(st, 1, out->sha256, sizeof out->sha256) &&
              strlen(out->sha256) == (out->bytes ? 64 : 0) && out->bytes <= INT64_MAX &&
              column_text(st, 2, out->model, sizeof out->model) &&
              column_text(st, 3, out->fingerprint, sizeof out->fingerprint) &&
              column_text(st, 4, out->type, sizeof out->type) &&
              column_text(st, 5, out->status, sizeof out->status) &&
              sqlite3_column_int(st, 12) == 1;
    const char *meta = ok ? (const char *)sqlite3_column_text(st, 6) : NULL;
    if (meta && !(out->meta = strdup(meta)))
        return err_set(e, ERR_NOMEM, "out of memory for a record");
    return 0;
}

/* Also one that makes no sense. */
static int find_any(struct db *db, const struct store_item *key, struct store_item *out,
                    struct err *e)
{
    sqlite3_stmt *st;
    *out = (struct store_item){0};
    int rc = db_query(db, &st, e, "SELECT" COLUMNS "FROM items WHERE kind = ?1 AND name = ?2", "tt",
                      store_kind_name(key->kind), key->name);
    if (rc == 0 && (rc = db_step(db, st, e)) > 0)
        rc = row_read(st, key->kind, out, e);
    else if (rc == 0)
        rc = err_set(e, store_kind_missing(key->kind), "there is no %s %s",
                     store_kind_name(key->kind), key->name);
    db_done(st);
    return rc;
}

int q_item_find(struct db *db, const struct store_item *key, struct store_item *out, struct err *e)
{
    int rc = find_any(db, key, out, e);
    return rc == 0 && !out->meta ? err_set(e, ERR_STATE_CORRUPT, "the record is damaged") : rc;
}

int q_item_blob(struct db *db, const struct store_item *item, int64_t *id, struct err *e)
{
    uint64_t bytes;
    int rc = q_blob_find(db, item->sha256, id, &bytes, e);
    if (rc > 0 && bytes == item->bytes)
        rc = q_blob_is_whole(db, *id, bytes, e);
    else if (rc > 0)
        rc = 0;
    if (rc < 0)
        return rc;
    return rc ? 0 : err_set(e, ERR_STATE_CORRUPT, "its bytes are gone or damaged");
}

#define IS_LIKE                                                                                    \
    " kind = ?1 AND (?2 = '' OR fingerprint = ?2) AND (?3 = '' OR type = ?3)"                      \
    " AND (?4 = '' OR status = ?4)"

int q_item_list(struct db *db, const struct store_item *like, bool newest, size_t limit,
                struct q_items *out, struct err *e)
{
    const char *kind = store_kind_name(like->kind);
    int64_t seq = like->seq && like->seq < INT64_MAX ? (int64_t)like->seq : INT64_MAX;
    int64_t n = (int64_t)limit + 1;
    sqlite3_stmt *st;
    *out = (struct q_items){.rows = calloc(limit, sizeof *out->rows)};
    if (!out->rows)
        return err_set(e, ERR_NOMEM, "out of memory for a list");
    int rc = newest ? db_query(db, &st, e,
                               "SELECT" COLUMNS "FROM items WHERE" IS_LIKE " AND seq < ?5"
                               " ORDER BY seq DESC LIMIT ?6",
                               "ttttii", kind, like->fingerprint, like->type, like->status, seq, n)
                    : db_query(db, &st, e,
                               "SELECT" COLUMNS "FROM items WHERE" IS_LIKE " AND name > ?5"
                               " ORDER BY name LIMIT ?6",
                               "ttttti", kind, like->fingerprint, like->type, like->status,
                               like->name, n);
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        out->has_more = out->n == limit;
        if (out->has_more) {
            rc = 0;
            break;
        }
        if ((rc = row_read(st, like->kind, &out->rows[out->n], e)) == 0)
            out->n++;
    }
    db_done(st);
    if (rc < 0)
        q_items_fini(out);
    return rc;
}

/* ---- writing ---- */

static int check_revision(const struct store_item *i, uint64_t want, struct err *e)
{
    if (!want || i->revision == want)
        return 0;
    return err_set(e, ERR_VERSION_CONFLICT, "%s %s has revision %llu, not %llu",
                   store_kind_name(i->kind), i->name, (unsigned long long)i->revision,
                   (unsigned long long)want);
}

int q_item_delete(struct db *db, const struct store_item *key, uint64_t if_revision,
                  struct store_item *out, struct q_counts *change, struct err *e)
{
    int rc = find_any(db, key, out, e);
    *change = (struct q_counts){0};
    if (rc == 0)
        rc = check_revision(out, if_revision, e);
    if (rc == 0)
        rc = db_run(db, e, "DELETE FROM items WHERE id = ?1", "i", (int64_t)out->revision);
    if (rc == 0 && out->sha256[0])
        rc = q_blob_release(db, out->sha256, change, e);
    return rc;
}

/* *old is what is there (its revision 0: nothing). */
static int put_check(struct db *db, const struct q_env *env, const struct q_item_put *put,
                     struct store_item *old, struct err *e)
{
    struct err missing = {0};
    int rc = find_any(db, put->item, old, &missing);
    bool none = rc == store_kind_missing(put->item->kind);
    if (rc < 0 && (!none || put->how.replace)) {
        if (e)
            *e = missing;
        return rc;
    }
    if (!none && !put->how.replace)
        return err_set_param(e, kinds[put->item->kind].exists, "name", "there is a %s %s already",
                             store_kind_name(put->item->kind), put->item->name);
    if (!none && !put->data && !old->meta)
        return err_set(e, ERR_STATE_CORRUPT, "the record is damaged");
    rc = check_revision(old, put->how.if_revision, e);
    struct q_env any = *env;
    any.max_states = 0;
    return rc == 0 && put->data ? q_check_quota(&any, put->item->bytes, e) : rc;
}

/* A new row in the old one's place: its id is the revision, and the seq of an item that is new. */
static int row_write(struct db *db, const struct q_env *env, struct store_item *out, struct err *e)
{
    const char *kind = store_kind_name(out->kind);
    int rc =
        db_run(db, e, "DELETE FROM items WHERE kind = ?1 AND name = ?2", "tt", kind, out->name);
    out->changed_ms = env->now_ms;
    if (rc == 0)
        rc = db_run(db, e,
                    "INSERT INTO items (kind, name, seq, type, status, sha256, bytes, model,"
                    " fingerprint, meta, created_ms, changed_ms)"
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                    "ttitttitttii", kind, out->name, (int64_t)out->seq, out->type, out->status,
                    out->sha256[0] ? out->sha256 : NULL, (int64_t)out->bytes, out->model,
                    out->fingerprint, out->meta, out->created_ms, out->changed_ms);
    if (rc < 0)
        return rc;
    out->revision = (uint64_t)sqlite3_last_insert_rowid(db->h);
    if (out->seq)
        return 0;
    out->seq = out->revision;
    return db_run(db, e, "UPDATE items SET seq = id WHERE id = ?1", "i", (int64_t)out->revision);
}

/* The record to be written, in *out. */
static int put_record(const struct q_env *env, const struct q_item_put *put,
                      const struct store_item *old, struct store_item *out, struct err *e)
{
    int rc = q_item_copy(out, put->item, e);
    out->created_ms = old->revision ? old->created_ms : env->now_ms;
    out->seq = old->seq;
    if (rc == 0 && !put->data) {
        memcpy(out->sha256, old->sha256, sizeof out->sha256);
        memcpy(out->model, old->model, sizeof out->model);
        memcpy(out->fingerprint, old->fingerprint, sizeof out->fingerprint);
        out->bytes = old->bytes;
    }
    return rc;
}

static int put_finish(struct db *db, const struct q_env *env, struct q_item_put *put,
                      struct store_item *out, struct q_counts *change, struct err *e)
{
    struct store_item old;
    *change = (struct q_counts){0};
    int rc = put_check(db, env, put, &old, e);
    if (rc == 0)
        rc = put_record(env, put, &old, out, e);
    if (rc == 0 && put->data)
        rc = q_blob_take_name(db, put->id, out->sha256, out->bytes, change, e);
    if (rc == 0)
        rc = row_write(db, env, out, e);
    if (rc == 0 && old.sha256[0] && put->data)
        rc = q_blob_release(db, old.sha256, change, e);
    q_item_fini(&old);
    return rc;
}

void q_item_put_begin(struct q_item_put *put)
{
    put->next = put->data ? Q_ITEM_CREATE : Q_ITEM_FINISH;
    put->id = 0;
    put->off = 0;
}

static int put_create(struct db *db, const struct q_env *env, struct q_item_put *put, struct err *e)
{
    struct store_item old;
    int rc = put_check(db, env, put, &old, e);
    q_item_fini(&old);
    if (rc == 0)
        rc = q_blob_create(db, put->item->bytes, &put->id, e);
    put->next = Q_ITEM_WRITE;
    return rc < 0 ? rc : 1;
}

int q_item_put_step(struct db *db, const struct q_env *env, struct q_item_put *put,
                    struct store_item *out, struct q_counts *change, struct err *e)
{
    if (put->next == Q_ITEM_CREATE)
        return put_create(db, env, put, e);
    if (put->next == Q_ITEM_FINISH)
        return put_finish(db, env, put, out, change, e);
    size_t n = q_blob_slice_len(put->off, put->item->bytes);
    int rc = q_blob_write(db, put->id, put->off, (const char *)put->data + put->off, n, e);
    if (rc < 0)
        return rc;
    put->off += n;
    if (put->off == put->item->bytes)
        put->next = Q_ITEM_FINISH;
    return 1;
}
