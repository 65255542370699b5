#include "store/q_states.h"

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#define COLUMNS                                                                                    \
    " s.name, s.version, s.model, s.fingerprint, s.weights_type, s.sha256, s.n_layer, s.n_embd,"   \
    " s.head_size, s.n_tokens, s.has_logits, s.bytes, s.created_ms, s.parents, s.origin, s.tags,"  \
    " s.norms "
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
    C_PARENTS,
    C_ORIGIN,
    C_TAGS,
    C_NORMS
};

/* ---- records in memory ---- */

static int texts_copy(struct store_state *s, const char *const src[4], struct err *e)
{
    size_t len[4], total = 0;
    for (int i = 0; i < 4; i++) {
        len[i] = strlen(src[i]) + 1;
        if (!mem_add(total, len[i], &total))
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    char *p = malloc(total);
    if (!p)
        return err_set(e, ERR_NOMEM, "out of memory for a record of %zu bytes", total);
    const char **dst[4] = {&s->parents, &s->origin, &s->tags, &s->norms};
    for (int i = 0; i < 4; i++) {
        memcpy(p, src[i], len[i]);
        *dst[i] = p;
        p += len[i];
    }
    return 0;
}

int q_state_copy(struct store_state *dst, const struct store_state *src, struct err *e)
{
    *dst = *src;
    dst->parents = dst->origin = dst->tags = dst->norms = NULL;
    const char *texts[4] = {src->parents ? src->parents : "[]", src->origin ? src->origin : "{}",
                            src->tags ? src->tags : "[]", src->norms ? src->norms : "{}"};
    return texts_copy(dst, texts, e);
}

void q_state_fini(struct store_state *s)
{
    free((void *)s->parents);
    s->parents = s->origin = s->tags = s->norms = NULL;
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

/* The current row as a record; on success out's texts are owned. */
static int row_read(sqlite3_stmt *st, struct store_state *out, struct err *e)
{
    *out = (struct store_state){0};
    const char *texts[4];
    bool ok = column_field(st, C_NAME, out->name, sizeof out->name) &&
              column_u64(st, C_VERSION, &out->version) &&
              column_field(st, C_MODEL, out->model, sizeof out->model) &&
              column_field(st, C_FINGERPRINT, out->fingerprint, sizeof out->fingerprint) &&
              column_field(st, C_WEIGHTS_TYPE, out->weights_type, sizeof out->weights_type) &&
              column_field(st, C_SHA256, out->sha256, sizeof out->sha256) &&
              column_u32(st, C_N_LAYER, &out->n_layer) && column_u32(st, C_N_EMBD, &out->n_embd) &&
              column_u32(st, C_HEAD_SIZE, &out->head_size) &&
              column_u64(st, C_N_TOKENS, &out->n_tokens) && column_u64(st, C_BYTES, &out->bytes);
    out->has_logits = sqlite3_column_int(st, C_HAS_LOGITS) != 0;
    out->created_ms = sqlite3_column_int64(st, C_CREATED_MS);
    for (int i = 0; i < 4; i++)
        ok = (texts[i] = (const char *)sqlite3_column_text(st, C_PARENTS + i)) && ok;
    if (!ok)
        return err_set(e, ERR_STATE_CORRUPT, "the record of state %s is damaged", out->name);
    return texts_copy(out, texts, e);
}

static int not_found(const char *name, uint64_t version, struct err *e)
{
    return version ? err_set(e, ERR_STATE_NOT_FOUND, "there is no state %s@%llu", name,
                             (unsigned long long)version)
                   : err_set(e, ERR_STATE_NOT_FOUND, "there is no state %s", name);
}

int q_state_find(struct db *db, const char *name, uint64_t version, struct store_state *out,
                 struct err *e)
{
    if (version > INT64_MAX)
        return not_found(name, version, e);
    sqlite3_stmt *st;
    int rc = db_query(db, &st, e,
                      "SELECT" COLUMNS "FROM states s WHERE s.name = ?1 AND s.version ="
                      " CASE ?2 WHEN 0 THEN (SELECT max(version) FROM states WHERE name = ?1)"
                      " ELSE ?2 END",
                      "ti", name, (int64_t)version);
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

int q_state_list(struct db *db, const char *after, const char *prefix, size_t limit,
                 struct store_state **out, size_t *n, bool *has_more, struct err *e)
{
    struct store_state *rows = calloc(limit, sizeof *rows);
    sqlite3_stmt *st = NULL;
    size_t n_rows = 0;
    int rc = rows ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    /* All characters of a name are below DEL, so [prefix, prefix DEL) is what begins with prefix.
     */
    if (rc == 0)
        rc = db_query(db, &st, e,
                      "SELECT" COLUMNS "FROM names n JOIN states s ON s.name = n.name"
                      " AND s.version = (SELECT max(version) FROM states WHERE name = n.name)"
                      " WHERE n.name > ?1 AND n.name >= ?2 AND n.name < ?2 || char(127)"
                      " ORDER BY n.name LIMIT ?3",
                      "tti", after, prefix, (int64_t)limit + 1);
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        if (n_rows == limit)
            break;
        rc = row_read(st, &rows[n_rows], e);
        n_rows += rc == 0;
    }
    db_done(st);
    *has_more = rc > 0;
    *out = rows;
    *n = n_rows;
    return rc < 0 ? rc : 0;
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

/* ---- removing ---- */

/* Takes the name of a blob that no record uses any more. */
static int blob_release(struct db *db, const char *sha256, struct q_counts *change, struct err *e)
{
    int64_t bytes;
    int rc = db_int(db, &bytes, 0, e,
                    "UPDATE blobs SET sha256 = NULL WHERE sha256 = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM states WHERE sha256 = ?1) RETURNING bytes",
                    "t", sha256);
    if (rc == 0 && bytes > 0) {
        change->blobs--;
        change->blob_bytes -= bytes;
    }
    return rc;
}

static int delete_rows(struct db *db, const char *name, uint64_t version, struct q_counts *change,
                       struct err *e)
{
    sqlite3_stmt *st;
    /* All rows go at the first step; the later ones only hand out the hashes. */
    int rc = db_query(db, &st, e,
                      "DELETE FROM states WHERE name = ?1 AND (?2 = 0 OR version = ?2)"
                      " RETURNING sha256",
                      "ti", name, (int64_t)version);
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        const char *sha256 = (const char *)sqlite3_column_text(st, 0);
        change->states--;
        rc = sha256 ? blob_release(db, sha256, change, e) : db_fail(db, e);
    }
    db_done(st);
    return rc;
}

int q_state_delete(struct db *db, const char *name, uint64_t version, struct store_state *out,
                   struct q_counts *change, struct err *e)
{
    *change = (struct q_counts){0};
    int rc = q_state_find(db, name, version, out, e);
    if (rc == 0 && (rc = delete_rows(db, name, version, change, e)) < 0)
        q_state_fini(out);
    return rc;
}

/* ---- adding ---- */

static int check_absent(struct db *db, const char *name, struct err *e)
{
    int64_t exists;
    int rc = db_int(db, &exists, 0, e, "SELECT EXISTS (SELECT 1 FROM states WHERE name = ?1)", "t",
                    name);
    return rc == 0 && exists ? err_set(e, ERR_STATE_EXISTS, "state %s exists", name) : rc;
}

static int put_find(struct db *db, struct q_put *put, const struct store_state *state,
                    struct err *e)
{
    uint64_t bytes;
    int rc = q_blob_find(db, state->sha256, &put->blob, &bytes, e);
    if (rc < 0)
        return rc;
    put->next = rc > 0 ? Q_PUT_SAME : Q_PUT_CREATE;
    if (rc > 0 && bytes != state->bytes)
        return err_set(e, ERR_INVALID, "a blob of this SHA-256 has %llu bytes, not %llu",
                       (unsigned long long)bytes, (unsigned long long)state->bytes);
    return 1;
}

static int put_compare(struct db *db, struct q_put *put, const struct store_state *state,
                       const char *blob, struct err *e)
{
    size_t n = q_blob_slice_len(put->off, state->bytes);
    int rc = q_blob_is_same(db, put->blob, put->off, blob + put->off, n, e);
    if (rc < 0)
        return rc;
    put->off += n;
    if (rc == 0)
        put->next = Q_PUT_CREATE;
    else if (put->off == state->bytes)
        put->next = Q_PUT_FINISH;
    return 1;
}

static int put_create(struct db *db, struct q_put *put, const struct store_state *state,
                      enum store_if_exists mode, struct err *e)
{
    int rc = mode == STORE_EXISTS_ERROR ? check_absent(db, state->name, e) : 0;
    if (rc == 0)
        rc = q_blob_create(db, state->bytes, &put->blob, e);
    put->next = Q_PUT_WRITE;
    put->off = 0;
    return rc < 0 ? rc : 1;
}

static int put_write(struct db *db, struct q_put *put, const struct store_state *state,
                     const char *blob, struct err *e)
{
    size_t n = q_blob_slice_len(put->off, state->bytes);
    int rc = q_blob_write(db, put->blob, put->off, blob + put->off, n, e);
    if (rc < 0)
        return rc;
    put->off += n;
    if (put->off == state->bytes)
        put->next = Q_PUT_FINISH;
    return 1;
}

/* Gives the blob its name; one that bore it until now, another with damaged bytes, loses it. */
static int put_name_blob(struct db *db, const struct q_put *put, const struct store_state *state,
                         struct q_counts *change, struct err *e)
{
    int64_t holder;
    uint64_t bytes;
    int rc = q_blob_find(db, state->sha256, &holder, &bytes, e);
    if (rc < 0 || (rc > 0 && holder == put->blob))
        return rc < 0 ? rc : 0;
    if (rc > 0 && (rc = q_blob_clear_name(db, holder, e)) == 0) {
        change->blobs--;
        change->blob_bytes -= (int64_t)bytes;
    }
    if (rc == 0 && (rc = q_blob_set_name(db, put->blob, state->sha256, e)) == 0) {
        change->blobs++;
        change->blob_bytes += (int64_t)state->bytes;
    }
    return rc;
}

static int put_record(struct db *db, const struct store_state *s, struct err *e)
{
    return db_run(db, e,
                  "INSERT INTO states (name, version, model, fingerprint, weights_type, sha256,"
                  " n_layer, n_embd, head_size, n_tokens, has_logits, bytes, created_ms, parents,"
                  " origin, tags, norms)"
                  " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,"
                  " ?17)",
                  "titttt"
                  "iiiiiii"
                  "tttt",
                  s->name, (int64_t)s->version, s->model, s->fingerprint, s->weights_type,
                  s->sha256, (int64_t)s->n_layer, (int64_t)s->n_embd, (int64_t)s->head_size,
                  (int64_t)s->n_tokens, (int64_t)s->has_logits, (int64_t)s->bytes, s->created_ms,
                  s->parents, s->origin, s->tags, s->norms);
}

static int put_finish(struct db *db, struct q_put *put, const struct store_state *state,
                      enum store_if_exists mode, struct store_state *out, struct q_counts *change,
                      struct err *e)
{
    int64_t version;
    int rc = mode == STORE_EXISTS_ERROR ? check_absent(db, state->name, e) : 0;
    if (rc < 0)
        return rc;
    *change = (struct q_counts){.states = 1};
    rc = db_int(db, &version, 0, e,
                "INSERT INTO names (name, last_version) VALUES (?1, 1)"
                " ON CONFLICT DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
                "t", state->name);
    if (rc == 0)
        rc = put_name_blob(db, put, state, change, e);
    if (rc == 0)
        rc = q_state_copy(out, state, e);
    if (rc < 0)
        return rc;
    out->version = (uint64_t)version;
    out->created_ms = clock_wall_ms();
    if ((rc = put_record(db, out, e)) < 0)
        q_state_fini(out);
    return rc;
}

bool q_put_only_reads(const struct q_put *put)
{
    return put->next == Q_PUT_FIND || put->next == Q_PUT_SAME;
}

int q_put_step(struct db *db, struct q_put *put, const struct store_state *state, const void *blob,
               enum store_if_exists mode, struct store_state *out, struct q_counts *change,
               struct err *e)
{
    switch (put->next) {
    case Q_PUT_FIND:
        return put_find(db, put, state, e);
    case Q_PUT_SAME:
        return put_compare(db, put, state, blob, e);
    case Q_PUT_CREATE:
        return put_create(db, put, state, mode, e);
    case Q_PUT_WRITE:
        return put_write(db, put, state, blob, e);
    case Q_PUT_FINISH:
        return put_finish(db, put, state, mode, out, change, e);
    }
    ASSERT(!"a step of a put");
    return ERR_INTERNAL;
}
