/* Idempotency keys: which record a write made. */
#include "store/q_states.h"

#include <string.h>

int q_key_find(struct db *db, const struct q_env *env, const struct store_write *how,
               struct store_state *out, struct err *e)
{
    char name[STORE_NAME_MAX + 1];
    uint64_t version = 0;
    sqlite3_stmt *st;
    if (!how->key)
        return 0;
    int rc = db_query(db, &st, e,
                      "SELECT request_sha256, name, version FROM write_keys"
                      " WHERE key = ?1 AND created_ms > ?2",
                      "ti", how->key, env->now_ms - STORE_KEY_MS);
    if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        const char *sha256 = (const char *)sqlite3_column_text(st, 0);
        const char *made = (const char *)sqlite3_column_text(st, 1);
        version = (uint64_t)sqlite3_column_int64(st, 2);
        if (!sha256 || !made || strlen(made) > STORE_NAME_MAX)
            rc = err_set(e, ERR_STATE_CORRUPT, "the record of an idempotency key is damaged");
        else if (strcmp(sha256, how->request_sha256) != 0)
            rc = err_set(e, ERR_KEY_REUSED, "the idempotency key was used with another request");
        else
            memcpy(name, made, strlen(made) + 1);
    }
    db_done(st);
    if (rc <= 0)
        return rc;
    rc = q_state_find(db, env, name, version, out, e);
    return rc < 0 ? rc : 1;
}

int q_key_add(struct db *db, const struct q_env *env, const struct store_write *how,
              const struct store_state *made, struct err *e)
{
    if (!how->key)
        return 0;
    int rc = db_run(db, e,
                    "INSERT OR REPLACE INTO write_keys"
                    " (key, request_sha256, name, version, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                    "tttii", how->key, how->request_sha256, made->name, (int64_t)made->version,
                    env->now_ms);
    if (rc == 0) /* ids are given in order */
        rc = db_run(db, e, "DELETE FROM write_keys WHERE id <= last_insert_rowid() - ?1", "i",
                    (int64_t)STORE_KEYS_MAX);
    return rc;
}

int q_key_expire(struct db *db, const struct q_env *env, struct err *e)
{
    int64_t any, limit = env->now_ms - STORE_KEY_MS;
    int rc = db_int(db, &any, 0, e,
                    "SELECT EXISTS (SELECT 1 FROM write_keys WHERE created_ms <= ?1)", "i", limit);
    if (rc < 0 || !any)
        return rc;
    if ((rc = db_begin(db, DB_LAZY, e)) < 0)
        return rc;
    rc = db_run(db, e,
                "DELETE FROM write_keys WHERE id IN"
                " (SELECT id FROM write_keys WHERE created_ms <= ?1 LIMIT 256)",
                "i", limit);
    if (rc < 0) {
        db_rollback(db);
        return rc;
    }
    rc = db_commit(db, e);
    return rc < 0 ? rc : 1;
}
