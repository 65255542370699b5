/* Changing and removing records, and adding ones that share a blob. */
#include "store/q_states.h"

#include <stdio.h>
#include <string.h>

bool q_is_refusal(int code)
{
    return code == ERR_STATE_EXISTS || code == ERR_STATE_NOT_FOUND ||
           code == ERR_VERSION_CONFLICT || code == ERR_KEY_REUSED || code == ERR_JOB_NOT_FOUND ||
           code == ERR_DATASET_NOT_FOUND || code == ERR_DATASET_EXISTS || code == ERR_NAME_EXISTS ||
           code == ERR_CONDITION_NOT_FOUND || code == ERR_DIFFUSER_NOT_FOUND ||
           code == ERR_CONTEXT_NOT_FOUND || code == ERR_HYBRID_NOT_FOUND;
}

static int check_revision(const struct store_state *s, uint64_t want, struct err *e)
{
    if (!want || s->revision == want)
        return 0;
    return err_set(e, ERR_VERSION_CONFLICT, "state %s@%llu has revision %llu, not %llu", s->name,
                   (unsigned long long)s->version, (unsigned long long)s->revision,
                   (unsigned long long)want);
}

/* ---- tags ---- */

static int tags_remove(struct db *db, const char *name, uint64_t version, struct err *e)
{
    return db_run(db, e, "DELETE FROM state_tags WHERE name = ?1 AND (?2 = 0 OR version = ?2)",
                  "ti", name, (int64_t)version);
}

int q_tags_write(struct db *db, const struct store_state *s, struct err *e)
{
    return db_run(db, e,
                  "INSERT OR IGNORE INTO state_tags (tag, name, version)"
                  " SELECT value, ?1, ?2 FROM json_each(?3)",
                  "tit", s->name, (int64_t)s->version, s->tags);
}

/* ---- removing ---- */

static int delete_rows(struct db *db, const char *name, uint64_t version, struct q_counts *change,
                       struct err *e)
{
    sqlite3_stmt *st;
    int rc = tags_remove(db, name, version, e);
    if (rc < 0)
        return rc;
    /* All rows go at the first step; the later ones only hand out the hashes. */
    rc = db_query(db, &st, e,
                  "DELETE FROM states WHERE name = ?1 AND (?2 = 0 OR version = ?2)"
                  " RETURNING sha256",
                  "ti", name, (int64_t)version);
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        const char *sha256 = (const char *)sqlite3_column_text(st, 0);
        change->states--;
        rc = sha256 ? q_blob_release(db, sha256, change, e) : db_fail(db, e);
    }
    db_done(st);
    return rc;
}

int q_state_delete(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                   uint64_t if_revision, struct store_state *out, struct q_counts *change,
                   struct err *e)
{
    *change = (struct q_counts){0};
    int rc = q_state_find_any(db, env, name, version, out, e);
    if (rc < 0)
        return rc;
    if ((rc = check_revision(out, if_revision, e)) < 0 ||
        (rc = delete_rows(db, name, version, change, e)) < 0)
        q_state_fini(out);
    return rc;
}

/* ---- expiry ---- */

#define EXPIRE_MAX 16 /* records, or keys, in one transaction */
#define IS_OVER    "expires_ms > 0 AND pinned = 0 AND expires_ms <= ?1" /* as states_expires */

/* 1: one was removed. */
static int expire_one(struct db *db, const struct q_env *env, struct q_counts *change,
                      struct err *e)
{
    char name[STORE_NAME_MAX + 1] = "";
    int64_t version = 0;
    sqlite3_stmt *st;
    int rc = db_query(db, &st, e, "SELECT name, version FROM states WHERE " IS_OVER " LIMIT 1", "i",
                      env->now_ms);
    if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        const char *s = (const char *)sqlite3_column_text(st, 0);
        version = sqlite3_column_int64(st, 1);
        if (!s || strlen(s) > STORE_NAME_MAX)
            rc = err_set(e, ERR_STATE_CORRUPT, "the record of an expired state is damaged");
        else
            memcpy(name, s, strlen(s) + 1);
    }
    db_done(st);
    if (rc > 0 && (rc = delete_rows(db, name, (uint64_t)version, change, e)) == 0)
        rc = 1;
    return rc;
}

int q_state_expire(struct db *db, const struct q_env *env, struct q_counts *change, struct err *e)
{
    int64_t any;
    *change = (struct q_counts){0};
    int rc = db_int(db, &any, 0, e, "SELECT EXISTS (SELECT 1 FROM states WHERE " IS_OVER ")", "i",
                    env->now_ms);
    if (rc < 0 || !any)
        return rc;
    if ((rc = db_begin(db, DB_LAZY, e)) < 0)
        return rc;
    for (int i = 0; i < EXPIRE_MAX && (rc = expire_one(db, env, change, e)) > 0; i++)
        ;
    if (rc < 0) {
        db_rollback(db);
        return rc;
    }
    rc = db_commit(db, e);
    return rc < 0 ? rc : 1;
}

int q_next_due(struct db *db, int64_t *ms, struct err *e)
{
    int64_t keys;
    int rc = db_int(db, ms, 0, e,
                    "SELECT coalesce(min(expires_ms), 0) FROM states"
                    " WHERE expires_ms > 0 AND pinned = 0",
                    "");
    if (rc == 0)
        rc = db_int(db, &keys, 0, e, "SELECT coalesce(min(created_ms) + ?1, 0) FROM write_keys",
                    "i", STORE_KEY_MS);
    if (rc == 0 && keys && (*ms == 0 || keys < *ms))
        *ms = keys;
    return rc;
}

/* ---- changing ---- */

static void patch_apply(struct store_state *s, const struct store_patch *p)
{
    if (p->description)
        s->description = p->description;
    if (p->tags)
        s->tags = p->tags;
    if (p->set_pinned)
        s->pinned = p->pinned;
    if (p->set_expires)
        s->expires_ms = p->expires_ms;
}

static int patch_write(struct db *db, const struct store_patch *p, struct store_state *s,
                       struct err *e)
{
    int64_t revision;
    int rc = db_int(db, &revision, 0, e,
                    "UPDATE names SET last_revision = last_revision + 1 WHERE name = ?1"
                    " RETURNING last_revision",
                    "t", s->name);
    s->revision = (uint64_t)revision;
    if (rc == 0)
        rc = db_run(db, e,
                    "UPDATE states SET description = ?3, tags = ?4, pinned = ?5, expires_ms = ?6,"
                    " revision = ?7 WHERE name = ?1 AND version = ?2",
                    "tittiii", s->name, (int64_t)s->version, s->description, s->tags,
                    (int64_t)s->pinned, s->expires_ms, revision);
    if (rc == 0 && p->tags && (rc = tags_remove(db, s->name, s->version, e)) == 0)
        rc = q_tags_write(db, s, e);
    return rc;
}

int q_state_patch(struct db *db, const struct q_env *env, const char *name, uint64_t version,
                  const struct store_patch *patch, struct store_state *out, struct err *e)
{
    struct store_state old, changed;
    int rc = q_state_find(db, env, name, version, &old, e);
    if (rc < 0)
        return rc;
    changed = old;
    patch_apply(&changed, patch);
    rc = check_revision(&old, patch->if_revision, e);
    if (rc == 0)
        rc = q_check_record(db, env, &changed, e);
    if (rc == 0)
        rc = q_state_copy(out, &changed, e);
    if (rc == 0 && (rc = patch_write(db, patch, out, e)) < 0)
        q_state_fini(out);
    q_state_fini(&old);
    return rc;
}

/* ---- sharing ---- */

/* The record that a fork of `from` gets, its texts borrowed. */
static void fork_fill(const struct q_fork *f, const struct store_state *from,
                      struct store_state *rec, char *texts, size_t size)
{
    size_t n = (size_t)snprintf(texts, size, "[\"%s@%llu\"]", from->name,
                                (unsigned long long)from->version) +
               1;
    snprintf(texts + n, size - n, "{\"kind\":\"%s\",\"%s\":\"%s@%llu\"}",
             f->rollback ? "rollback" : "fork", f->rollback ? "to" : "of", from->name,
             (unsigned long long)from->version);
    *rec = *from;
    memcpy(rec->name, f->to, strlen(f->to) + 1);
    rec->parents = texts;
    rec->origin = texts + n;
    rec->pinned = false;
    rec->expires_ms = 0;
    patch_apply(rec, f->changes);
}

static int fork_add(struct db *db, const struct q_env *env, const struct q_fork *f,
                    const struct store_state *from, struct store_state *out, struct err *e)
{
    char texts[2 * STORE_NAME_MAX + 128];
    struct store_state rec;
    int64_t blob;
    fork_fill(f, from, &rec, texts, sizeof texts);
    int rc = check_revision(from, f->changes->if_revision, e);
    if (rc == 0)
        rc = q_check_target(db, env, f->to, f->how, e);
    if (rc == 0)
        rc = q_state_blob(db, from, &blob, e);
    if (rc == 0)
        rc = q_check_quota(env, 0, e);
    if (rc == 0)
        rc = q_check_record(db, env, &rec, e);
    if (rc == 0)
        rc = q_state_copy(out, &rec, e);
    if (rc == 0 && (rc = q_record_add(db, env, f->how, out, e)) < 0)
        q_state_fini(out);
    return rc;
}

int q_state_fork(struct db *db, const struct q_env *env, const struct q_fork *f,
                 struct store_state *out, struct q_counts *change, struct err *e)
{
    struct store_state from;
    *change = (struct q_counts){0};
    int rc = q_key_find(db, env, f->how, out, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = q_state_find(db, env, f->name, f->version, &from, e);
    if (rc < 0)
        return rc;
    rc = fork_add(db, env, f, &from, out, e);
    q_state_fini(&from);
    if (rc == 0)
        change->states = 1;
    return rc;
}
