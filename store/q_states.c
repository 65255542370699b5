#include "store/q_states.h"

#include "daemon/base/mem.h"

#define COLUMNS                                                                                    \
    " s.name, s.version, s.model, s.fingerprint, s.weights_type, s.sha256, s.n_layer, s.n_embd,"   \
    " s.head_size, s.n_tokens, s.has_logits, s.bytes, s.created_ms, s.revision, s.pinned,"         \
    " s.expires_ms, s.parents, s.origin, s.tags, s.norms, s.description "
/* In the order of COLUMNS. */
enum {
    C_NAME,
    C_VERSION,
    C_MODEL,
    C_FINGERPRINT,
    C_WEIGHTS_TYPE,
    C_SHA256,
    C_N_LAYER,
    C_N_EMBD,
    C_HEAD_SIZE,
    C_N_TOKENS,
    C_HAS_LOGITS,
    C_BYTES,
    C_CREATED_MS,
    C_REVISION,
    C_PINNED,
    C_EXPIRES_MS,
    C_TEXTS /* N_TEXTS of them */
};

/* The record is not over yet. */
#define LIVE(s, now) " (" s ".pinned OR " s ".expires_ms = 0 OR " s ".expires_ms > " now ") "

/* ---- records in memory ---- */

enum { N_TEXTS = 5 };

/* The texts of a record, in the order of their columns. */
static const char **text_of(struct store_state *s, int i)
{
    const char **const all[N_TEXTS] = {&s->parents, &s->origin, &s->tags, &s->norms,
                                       &s->description};
    return all[i];
}

static int texts_copy(struct store_state *s, const char *const src[N_TEXTS], struct err *e)
{
    size_t len[N_TEXTS], total = 0;
    for (int i = 0; i < N_TEXTS; i++) {
        len[i] = strlen(src[i]) + 1;
        if (!mem_add(total, len[i], &total))
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    char *p = malloc(total);
    if (!p)
        return err_set(e, ERR_NOMEM, "out of memory for a record of %zu bytes", total);
    for (int i = 0; i < N_TEXTS; i++) {
        memcpy(p, src[i], len[i]);
        *text_of(s, i) = p;
        p += len[i];
    }
    return 0;
}

static void texts_clear(struct store_state *s)
{
    for (int i = 0; i < N_TEXTS; i++)
        *text_of(s, i) = NULL;
}

int q_state_copy(struct store_state *dst, const struct store_state *src, struct err *e)
{
    const char *texts[N_TEXTS] = {src->parents ? src->parents : "[]",
                                  src->origin ? src->origin : "{}", src->tags ? src->tags : "[]",
                                  src->norms ? src->norms : "{}",
                                  src->description ? src->description : ""};
    *dst = *src;
    texts_clear(dst);
    return texts_copy(dst, texts, e);
}

void q_state_fini(struct store_state *s)
{
    free((void *)s->parents);
    texts_clear(s);
}

void q_page_fini(struct q_page *page)
{
    for (size_t i = 0; i < page->n; i++)
        q_state_fini(&page->rows[i]);
    free(page->rows);
    *page = (struct q_page){0};
}

/* ---- reading ---- */

/* The text of a column into a field of `size` bytes; false if it does not fit or holds a NUL. */
static bool column_field(sqlite3_stmt *st, int col, char *field, size_t size)
{
    const char *p = (const char *)sqlite3_column_text(st, col);
    size_t n = (size_t)sqlite3_column_bytes(st, col);
    if (!p || n >= size || memchr(p, 0, n))
        return false;
    memcpy(field, p, n + 1);
    return true;
}

static bool column_u32(sqlite3_stmt *st, int col, uint32_t *out)
{
    int64_t v = sqlite3_column_int64(st, col);
    *out = (uint32_t)v;
    return v >= 0 && v <= UINT32_MAX;
}

static bool column_u64(sqlite3_stmt *st, int col, uint64_t *out)
{
    int64_t v = sqlite3_column_int64(st, col);
    *out = (uint64_t)v;
    return v >= 0;
}

static bool row_fields(sqlite3_stmt *st, struct store_state *out, const char *texts[N_TEXTS])
{
    bool ok = column_field(st, C_MODEL, out->model, sizeof out->model) &&
              column_field(st, C_FINGERPRINT, out->fingerprint, sizeof out->fingerprint) &&
              column_field(st, C_WEIGHTS_TYPE, out->weights_type, sizeof out->weights_type) &&
              column_field(st, C_SHA256, out->sha256, sizeof out->sha256) &&
              column_u32(st, C_N_LAYER, &out->n_layer) && column_u32(st, C_N_EMBD, &out->n_embd) &&
              column_u32(st, C_HEAD_SIZE, &out->head_size) &&
              column_u64(st, C_N_TOKENS, &out->n_tokens) && column_u64(st, C_BYTES, &out->bytes) &&
              column_u64(st, C_REVISION, &out->revision);
    out->has_logits = sqlite3_column_int(st, C_HAS_LOGITS) != 0;
    out->pinned = sqlite3_column_int(st, C_PINNED) != 0;
    out->created_ms = sqlite3_column_int64(st, C_CREATED_MS);
    out->expires_ms = sqlite3_column_int64(st, C_EXPIRES_MS);
    for (int i = 0; i < N_TEXTS; i++)
        ok = (texts[i] = (const char *)sqlite3_column_text(st, C_TEXTS + i)) && ok;
    return ok;
}

/* The current row as a record, marked if it makes no sense (without a name, if not even that does);
 * on success out's texts are owned. */
static int row_read(sqlite3_stmt *st, struct store_state *out, struct err *e)
{
    const char *texts[N_TEXTS];
    struct store_state bare = {.damaged = true};
    *out = (struct store_state){0};
    bool named = column_field(st, C_NAME, out->name, sizeof out->name) &&
                 column_u64(st, C_VERSION, &out->version);
    if (named && row_fields(st, out, texts))
        return texts_copy(out, texts, e);
    if ((sqlite3_errcode(sqlite3_db_handle(st)) & 0xff) == SQLITE_NOMEM)
        return err_set(e, ERR_NOMEM, "out of memory in the database");
    if (named) {
        memcpy(bare.name, out->name, sizeof bare.name);
        bare.version = out->version;
    }
    return q_state_copy(out, &bare, e);
}

static int not_found(const char *name, uint64_t version, struct err *e)
{
    return version ? err_set(e, ERR_STATE_NOT_FOUND, "there is no state %s@%llu", name,
                             (unsigned long long)version)
                   : err_set(e, ERR_STATE_NOT_FOUND, "there is no state %s", name);
}

int q_state_find_any(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                     struct store_state *out, struct err *e)
{
    if (version > INT64_MAX)
        return not_found(name, version, e);
    sqlite3_stmt *st;
    int rc = version ? db_query(db, &st, e,
                                "SELECT" COLUMNS "FROM states s WHERE s.name = ?1 AND"
                                " s.version = ?3 AND" LIVE("s", "?2"),
                                "tii", name, env->now_ms, (int64_t)version)
                     : db_query(db, &st, e,
                                "SELECT" COLUMNS "FROM states s WHERE s.name = ?1 AND" LIVE(
                                    "s", "?2") "ORDER BY s.version DESC LIMIT 1",
                                "ti", name, env->now_ms);
    if (rc == 0) {
        rc = db_step(db, st, e);
        if (rc == 0)
            rc = not_found(name, version, e);
        else if (rc > 0)
            rc = row_read(st, out, e);
    }
    db_done(st);
    return rc;
}

int q_state_find(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                 struct store_state *out, struct err *e)
{
    int rc = q_state_find_any(db, env, name, version, out, e);
    if (rc == 0 && out->damaged) {
        q_state_fini(out);
        rc = err_set(e, ERR_STATE_CORRUPT, "the record of state %s is damaged", name);
    }
    return rc;
}

int q_state_revision(struct db *db, const struct q_env *env, const char *name, uint64_t *out,
                     struct err *e)
{
    int64_t revision;
    int rc = db_int(db, &revision, 0, e,
                    "SELECT s.revision FROM states s WHERE s.name = ?1 AND" LIVE(
                        "s", "?2") "ORDER BY s.version DESC LIMIT 1",
                    "ti", name, env->now_ms);
    *out = (uint64_t)revision;
    return rc;
}

int q_state_blob(struct db *db, const struct store_state *state, int64_t *id, struct err *e)
{
    uint64_t bytes;
    int rc = q_blob_find(db, state->sha256, id, &bytes, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(e, ERR_STATE_CORRUPT, "its bytes are gone");
    rc = bytes == state->bytes && bytes <= SIZE_MAX ? q_blob_is_whole(db, *id, bytes, e) : 0;
    if (rc == 0)
        return err_set(e, ERR_STATE_CORRUPT, "its %llu bytes are not all there",
                       (unsigned long long)state->bytes);
    return rc < 0 ? rc : 0;
}

/* ---- pages of records ---- */

/* The rest of a query's rows, which were limited to limit + 1. */
static int page_read(struct db *db, sqlite3_stmt *st, size_t limit, bool skip_damaged,
                     struct q_page *page, struct err *e)
{
    int rc = 0;
    size_t n_met = 0;
    if (!(page->rows = calloc(limit, sizeof *page->rows)))
        return err_set(e, ERR_NOMEM, "out of memory");
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        struct store_state *row = &page->rows[page->n];
        if (n_met++ == limit)
            break;
        rc = row_read(st, row, e);
        if (rc < 0)
            break;
        page->n_damaged += row->damaged;
        if (row->damaged && (skip_damaged || !row->name[0]))
            q_state_fini(row);
        else
            page->n++;
    }
    page->has_more = rc > 0;
    return rc < 0 ? rc : 0;
}

/* All characters of a name are below DEL, so [prefix, prefix DEL) is what begins with prefix. CROSS
 * JOIN keeps the order of the tables: the first one's index gives the order of the rows. */
#define IS_LATEST(t)                                                                               \
    " s.version = (SELECT l.version FROM states l WHERE l.name = " t                               \
    ".name AND" LIVE("l", "?4") "ORDER BY l.version DESC LIMIT 1) "
#define HAS_PREFIX(t) " " t ".name >= ?2 AND " t ".name < ?2 || char(127)"
#define IN_RANGE(t)   " " t ".name > ?1 AND" HAS_PREFIX(t) " ORDER BY " t ".name LIMIT ?3"

static const char list_all[] =
    "SELECT" COLUMNS
    "FROM names n CROSS JOIN states s ON s.name = n.name AND" IS_LATEST("n") "WHERE" IN_RANGE("n");
/* Ids are given in the order of writing. */
static const char list_newest[] =
    "SELECT" COLUMNS
    "FROM states s WHERE (?1 = '' OR s.model = ?1) AND (?5 = '' OR EXISTS (SELECT 1"
    " FROM state_tags t WHERE t.tag = ?5 AND t.name = s.name AND t.version = s.version)) "
    "AND" HAS_PREFIX("s") " AND" IS_LATEST("s") "ORDER BY s.id DESC LIMIT ?3";
static const char list_by_model[] =
    "SELECT" COLUMNS "FROM states s WHERE s.model = ?5 AND" IS_LATEST("s") "AND" IN_RANGE("s");
static const char list_by_tag[] =
    "SELECT" COLUMNS "FROM state_tags t CROSS JOIN states s ON s.name = t.name AND"
    " s.version = t.version AND" IS_LATEST("t") "WHERE t.tag = ?5 AND" IN_RANGE("t");
static const char list_by_tag_and_model[] =
    "SELECT" COLUMNS "FROM state_tags t CROSS JOIN states s ON s.name = t.name AND"
    " s.version = t.version AND s.model = ?6 AND" IS_LATEST("t") "WHERE t.tag = ?5 AND" IN_RANGE(
        "t");

int q_state_list(struct db *db, const struct q_env *env, const struct store_query *q,
                 struct q_page *out, struct err *e)
{
    bool filtered = *q->tag || *q->model;
    int64_t limit = (int64_t)q->limit + 1;
    sqlite3_stmt *st;
    int rc;
    *out = (struct q_page){0};
    if (q->newest)
        rc = db_query(db, &st, e, list_newest, "ttiit", q->model, q->prefix, limit, env->now_ms,
                      q->tag);
    else if (*q->tag && *q->model)
        rc = db_query(db, &st, e, list_by_tag_and_model, "ttiitt", q->after, q->prefix, limit,
                      env->now_ms, q->tag, q->model);
    else if (filtered)
        rc = db_query(db, &st, e, *q->tag ? list_by_tag : list_by_model, "ttiit", q->after,
                      q->prefix, limit, env->now_ms, *q->tag ? q->tag : q->model);
    else
        rc = db_query(db, &st, e, list_all, "ttii", q->after, q->prefix, limit, env->now_ms);
    if (rc == 0)
        rc = page_read(db, st, q->limit, filtered, out, e);
    db_done(st);
    return rc;
}

int q_state_versions(struct db *db, const struct q_env *env, const char *name, uint64_t before,
                     size_t limit, struct q_page *out, struct err *e)
{
    int64_t below = before > 0 && before <= INT64_MAX ? (int64_t)before : INT64_MAX;
    uint64_t revision;
    sqlite3_stmt *st;
    *out = (struct q_page){0};
    int rc =
        db_query(db, &st, e,
                 "SELECT" COLUMNS "FROM states s WHERE s.name = ?1 AND s.version < ?3 AND" LIVE(
                     "s", "?4") "ORDER BY s.version DESC LIMIT ?2",
                 "tiii", name, (int64_t)limit + 1, below, env->now_ms);
    if (rc == 0)
        rc = page_read(db, st, limit, false, out, e);
    db_done(st);
    if (rc == 0 && out->n == 0 && (rc = q_state_revision(db, env, name, &revision, e)) == 0 &&
        revision == 0)
        rc = not_found(name, 0, e);
    return rc;
}

/* ---- counters ---- */

int q_blob_take_name(struct db *db, int64_t id, const char *sha256, uint64_t bytes,
                     struct q_counts *change, struct err *e)
{
    int64_t holder;
    uint64_t held;
    int rc = q_blob_find(db, sha256, &holder, &held, e);
    if (rc < 0 || (rc > 0 && holder == id))
        return rc < 0 ? rc : 0;
    if (rc > 0 && (rc = q_blob_clear_name(db, holder, e)) == 0) {
        change->blobs--;
        change->blob_bytes -= (int64_t)held;
    }
    if (rc == 0 && (rc = q_blob_set_name(db, id, sha256, e)) == 0) {
        change->blobs++;
        change->blob_bytes += (int64_t)bytes;
    }
    return rc;
}

int q_blob_release(struct db *db, const char *sha256, struct q_counts *change, struct err *e)
{
    int64_t bytes;
    int rc = db_int(db, &bytes, 0, e,
                    "UPDATE blobs SET sha256 = NULL WHERE sha256 = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM states WHERE sha256 = ?1)"
                    " AND NOT EXISTS (SELECT 1 FROM items WHERE sha256 = ?1) RETURNING bytes",
                    "t", sha256);
    if (rc == 0 && bytes > 0) {
        change->blobs--;
        change->blob_bytes -= bytes;
    }
    return rc;
}

int q_count_all(struct db *db, struct q_counts *out, struct err *e)
{
    int rc = db_int(db, &out->states, 0, e, "SELECT count(*) FROM states", "");
    if (rc == 0)
        rc = db_int(db, &out->blobs, 0, e, "SELECT count(sha256) FROM blobs", "");
    if (rc == 0)
        rc = db_int(db, &out->blob_bytes, 0, e,
                    "SELECT coalesce(sum(bytes), 0) FROM blobs WHERE sha256 IS NOT NULL", "");
    return rc;
}

void q_counts_add(struct q_counts *sum, const struct q_counts *change)
{
    sum->states += change->states;
    sum->blobs += change->blobs;
    sum->blob_bytes += change->blob_bytes;
}
