/* Adding records: what every addition checks and writes, and the steps of a put. */
#include "store/q_states.h"

#include "daemon/base/assert.h"

/* ---- what every addition does ---- */

int q_check_target(struct db *db, const struct q_env *env, const char *name,
                   const struct store_write *how, struct err *e)
{
    uint64_t revision;
    if (how->if_exists == STORE_EXISTS_NEW_VERSION && !how->if_revision)
        return 0;
    int rc = q_state_revision(db, env, name, &revision, e);
    if (rc < 0)
        return rc;
    if (how->if_revision && how->if_revision != revision)
        return err_set(e, ERR_VERSION_CONFLICT, "state %s has revision %llu, not %llu", name,
                       (unsigned long long)revision, (unsigned long long)how->if_revision);
    if (how->if_exists == STORE_EXISTS_ERROR && revision)
        return err_set(e, ERR_STATE_EXISTS, "state %s exists", name);
    return 0;
}

int q_check_quota(const struct q_env *env, uint64_t bytes, struct err *e)
{
    uint64_t states = (uint64_t)env->total.states, used = (uint64_t)env->total.blob_bytes;
    if (env->max_states && states >= env->max_states)
        return err_set(e, ERR_STORAGE_FULL, "the quota of %llu states is used up",
                       (unsigned long long)env->max_states);
    if (env->max_bytes && bytes > 0 && (used >= env->max_bytes || bytes > env->max_bytes - used))
        return err_set(e, ERR_STORAGE_FULL, "%llu bytes exceed the quota of %llu, %llu are used",
                       (unsigned long long)bytes, (unsigned long long)env->max_bytes,
                       (unsigned long long)used);
    return 0;
}

int q_check_record(struct db *db, const struct q_env *env, const struct store_state *s,
                   struct err *e)
{
    int64_t ok;
    if (s->expires_ms && !s->pinned && s->expires_ms <= env->now_ms)
        return err_set_param(e, ERR_INVALID, "expires_at", "the time of expiry is over");
    int rc =
        db_int(db, &ok, 0, e,
               "SELECT CASE WHEN NOT json_valid(?1) THEN 0 WHEN json_type(?1) <> 'array' THEN 0"
               " ELSE NOT EXISTS (SELECT 1 FROM json_each(?1) WHERE type <> 'text') END",
               "t", s->tags);
    if (rc == 0 && !ok)
        rc = err_set_param(e, ERR_INVALID, "tags", "tags is not a JSON array of strings");
    return rc;
}

static int record_write(struct db *db, const struct store_state *s, struct err *e)
{
    return db_run(db, e,
                  "INSERT INTO states (name, version, model, fingerprint, weights_type, sha256,"
                  " n_layer, n_embd, head_size, n_tokens, has_logits, bytes, created_ms, revision,"
                  " pinned, expires_ms, parents, origin, tags, norms, description)"
                  " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,"
                  " ?17, ?18, ?19, ?20, ?21)",
                  "titttt"
                  "iiiiiiiiii"
                  "ttttt",
                  s->name, (int64_t)s->version, s->model, s->fingerprint, s->weights_type,
                  s->sha256, (int64_t)s->n_layer, (int64_t)s->n_embd, (int64_t)s->head_size,
                  (int64_t)s->n_tokens, (int64_t)s->has_logits, (int64_t)s->bytes, s->created_ms,
                  (int64_t)s->revision, (int64_t)s->pinned, s->expires_ms, s->parents, s->origin,
                  s->tags, s->norms, s->description);
}

/* The next version and revision of a name. */
static int name_count(struct db *db, struct store_state *out, struct err *e)
{
    sqlite3_stmt *st;
    int rc = db_query(db, &st, e,
                      "INSERT INTO names (name, last_version, last_revision) VALUES (?1, 1, 1)"
                      " ON CONFLICT DO UPDATE SET last_version = last_version + 1,"
                      " last_revision = last_revision + 1 RETURNING last_version, last_revision",
                      "t", out->name);
    /* To the end: the constraints are checked there. */
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        out->version = (uint64_t)sqlite3_column_int64(st, 0);
        out->revision = (uint64_t)sqlite3_column_int64(st, 1);
        rc = 0;
    }
    db_done(st);
    return rc;
}

int q_record_add(struct db *db, const struct q_env *env, const struct store_write *how,
                 struct store_state *out, struct err *e)
{
    out->created_ms = env->now_ms;
    int rc = name_count(db, out, e);
    if (rc == 0)
        rc = record_write(db, out, e);
    if (rc == 0)
        rc = q_tags_write(db, out, e);
    return rc < 0 ? rc : q_key_add(db, env, how, out, e);
}

/* ---- the steps of a put ---- */

static int put_known(struct db *db, const struct q_env *env, struct q_put *put,
                     struct store_state *out, struct err *e)
{
    int rc = q_key_find(db, env, put->how, out, e);
    if (rc > 0)
        put->next = Q_PUT_DONE;
    return rc;
}

static int put_find(struct db *db, struct q_put *put, struct err *e)
{
    uint64_t bytes;
    int rc = q_blob_find(db, put->state->sha256, &put->id, &bytes, e);
    if (rc < 0)
        return rc;
    put->next = rc > 0 ? Q_PUT_SAME : Q_PUT_CREATE;
    if (rc > 0 && bytes != put->state->bytes)
        return err_set(e, ERR_INVALID, "a blob of this SHA-256 has %llu bytes, not %llu",
                       (unsigned long long)bytes, (unsigned long long)put->state->bytes);
    return 1;
}

static int put_compare(struct db *db, struct q_put *put, struct err *e)
{
    size_t n = q_blob_slice_len(put->off, put->state->bytes);
    int rc = q_blob_is_same(db, put->id, put->off, (const char *)put->blob + put->off, n, e);
    if (rc < 0)
        return rc;
    put->off += n;
    if (rc == 0)
        put->next = Q_PUT_CREATE;
    else if (put->off == put->state->bytes)
        put->next = Q_PUT_FINISH;
    return 1;
}

/* A blob with this hash takes no more bytes; one whose bytes are damaged is replaced. */
static int put_check(struct db *db, const struct q_env *env, const struct q_put *put, struct err *e)
{
    int64_t holder;
    uint64_t bytes;
    int rc = q_check_target(db, env, put->state->name, put->how, e);
    if (rc == 0)
        rc = q_check_record(db, env, put->state, e);
    if (rc == 0)
        rc = q_blob_find(db, put->state->sha256, &holder, &bytes, e);
    return rc < 0 ? rc : q_check_quota(env, rc > 0 ? 0 : put->state->bytes, e);
}

static int put_create(struct db *db, const struct q_env *env, struct q_put *put, struct err *e)
{
    int rc = put_check(db, env, put, e);
    if (rc == 0)
        rc = q_blob_create(db, put->state->bytes, &put->id, e);
    put->next = Q_PUT_WRITE;
    put->off = 0;
    return rc < 0 ? rc : 1;
}

static int put_write(struct db *db, struct q_put *put, struct err *e)
{
    size_t n = q_blob_slice_len(put->off, put->state->bytes);
    int rc = q_blob_write(db, put->id, put->off, (const char *)put->blob + put->off, n, e);
    if (rc < 0)
        return rc;
    put->off += n;
    if (put->off == put->state->bytes)
        put->next = Q_PUT_FINISH;
    return 1;
}

static int put_finish(struct db *db, const struct q_env *env, struct q_put *put,
                      struct store_state *out, struct q_counts *change, struct err *e)
{
    int rc = put_check(db, env, put, e);
    if (rc < 0)
        return rc;
    *change = (struct q_counts){.states = 1};
    rc = q_blob_take_name(db, put->id, put->state->sha256, put->state->bytes, change, e);
    if (rc < 0 || (rc = q_state_copy(out, put->state, e)) < 0)
        return rc;
    if ((rc = q_record_add(db, env, put->how, out, e)) < 0)
        q_state_fini(out);
    put->next = Q_PUT_DONE;
    return rc;
}

bool q_put_only_reads(const struct q_put *put)
{
    return put->next == Q_PUT_FIND || put->next == Q_PUT_SAME;
}

int q_put_step(struct db *db, const struct q_env *env, struct q_put *put, struct store_state *out,
               struct q_counts *change, struct err *e)
{
    int rc = put->next == Q_PUT_FIND || put->next == Q_PUT_CREATE || put->next == Q_PUT_FINISH
                 ? put_known(db, env, put, out, e)
                 : 0;
    if (rc != 0)
        return rc < 0 ? rc : 0;
    switch (put->next) {
    case Q_PUT_FIND:
        return put_find(db, put, e);
    case Q_PUT_SAME:
        return put_compare(db, put, e);
    case Q_PUT_CREATE:
        return put_create(db, env, put, e);
    case Q_PUT_WRITE:
        return put_write(db, put, e);
    case Q_PUT_FINISH:
        return put_finish(db, env, put, out, change, e);
    case Q_PUT_DONE:
        return 0;
    }
    ASSERT(!"a step of a put");
    return ERR_INTERNAL;
}
