#include "store/migrate.h"

#include "daemon/base/assert.h"

#include <stdio.h>
#include <string.h>

/* Marks the file as ours (PRAGMA application_id). */
#define APPLICATION_ID 0x44725374 /* "DrSt" */

/* A published step is never edited: a change is a new step. */
static const char *const steps[] = {
    /* 0 -> 1.
     * names: the last version ever given, kept when all states of a name are gone, so that a
     * version is never used again. blobs: a row without sha256 is not finished or no longer wanted:
     * nothing refers to it, and the collector removes it. The bytes are in blob_slices, seq 0, 1,
     * ... of 1 MiB but the last. states: what the record promises (sha256, bytes) stands beside
     * what blobs hold, so that damage shows. The reference is checked at commit, because a repair
     * swaps blobs in between. */
    "CREATE TABLE names ("
    "  name TEXT PRIMARY KEY,"
    "  last_version INTEGER NOT NULL CHECK (last_version > 0)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE blobs ("
    "  id INTEGER PRIMARY KEY,"
    "  sha256 TEXT UNIQUE CHECK (length(sha256) = 64),"
    "  bytes INTEGER NOT NULL CHECK (bytes > 0)"
    ") STRICT;"
    "CREATE TABLE blob_slices ("
    "  blob INTEGER NOT NULL REFERENCES blobs(id),"
    "  seq INTEGER NOT NULL CHECK (seq >= 0),"
    "  data BLOB NOT NULL,"
    "  PRIMARY KEY (blob, seq)"
    ") STRICT;"
    "CREATE TABLE states ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL REFERENCES names(name),"
    "  version INTEGER NOT NULL CHECK (version > 0),"
    "  sha256 TEXT NOT NULL REFERENCES blobs(sha256) DEFERRABLE INITIALLY DEFERRED,"
    "  bytes INTEGER NOT NULL,"
    "  model TEXT NOT NULL,"
    "  fingerprint TEXT NOT NULL,"
    "  weights_type TEXT NOT NULL,"
    "  n_layer INTEGER NOT NULL,"
    "  n_embd INTEGER NOT NULL,"
    "  head_size INTEGER NOT NULL,"
    "  n_tokens INTEGER NOT NULL,"
    "  has_logits INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  parents TEXT NOT NULL,"
    "  origin TEXT NOT NULL,"
    "  tags TEXT NOT NULL,"
    "  norms TEXT NOT NULL,"
    "  UNIQUE (name, version)"
    ") STRICT;"
    "CREATE INDEX states_sha256 ON states(sha256);",

    /* 1 -> 2.
     * A revision grows within its name with every new version and every change of a record, and is
     * never used again either. expires_ms: 0 = never. state_tags repeats what the records' tags
     * say, to find states by; a row without its state is harmless. write_keys: which record a write
     * with an idempotency key made. */
    "ALTER TABLE names ADD COLUMN last_revision INTEGER NOT NULL DEFAULT 0;"
    "UPDATE names SET last_revision = last_version;"
    "ALTER TABLE states ADD COLUMN description TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE states ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE states ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE states ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;"
    "UPDATE states SET revision = version;"
    "CREATE INDEX states_model ON states(model, name, version);"
    "CREATE INDEX states_expires ON states(expires_ms) WHERE expires_ms > 0 AND pinned = 0;"
    "CREATE TABLE state_tags ("
    "  tag TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  version INTEGER NOT NULL,"
    "  PRIMARY KEY (tag, name, version)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX state_tags_state ON state_tags(name, version);"
    "INSERT OR IGNORE INTO state_tags SELECT j.value, s.name, s.version FROM states s,"
    "  json_each(CASE WHEN json_valid(s.tags) THEN s.tags ELSE '[]' END) j WHERE j.type = 'text';"
    "CREATE TABLE write_keys ("
    "  id INTEGER PRIMARY KEY,"
    "  key TEXT NOT NULL UNIQUE,"
    "  request_sha256 TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  version INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX write_keys_created ON write_keys(created_ms);",

    /* 2 -> 3.
     * documents: records of other things than states, until 5. */
    "CREATE TABLE documents ("
    "  seq INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  area TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  kind TEXT NOT NULL,"
    "  status TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL,"
    "  body TEXT NOT NULL,"
    "  UNIQUE (area, name)"
    ") STRICT;"
    "CREATE INDEX documents_area ON documents(area, seq);",

    /* 3 -> 4.
     * items: named objects with bytes that are no states. The id is the revision: every change makes
     * a new row in the old one's place, and AUTOINCREMENT gives no id twice. */
    "CREATE TABLE items ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  kind TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  sha256 TEXT NOT NULL REFERENCES blobs(sha256) DEFERRABLE INITIALLY DEFERRED,"
    "  bytes INTEGER NOT NULL,"
    "  model TEXT NOT NULL,"
    "  fingerprint TEXT NOT NULL,"
    "  meta TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL,"
    "  UNIQUE (kind, name)"
    ") STRICT;"
    "CREATE INDEX items_sha256 ON items(sha256);",

    /* 4 -> 5.
     * One table for both: an item without bytes (sha256 NULL) is what a document was. seq: the first
     * id that the item had. Documents get ids above all that items ever had; a page that is asked for
     * by the number of a document comes to nothing, once. */
    "ALTER TABLE items RENAME TO old_items;"
    "CREATE TABLE items ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  kind TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  type TEXT NOT NULL,"
    "  status TEXT NOT NULL,"
    "  sha256 TEXT REFERENCES blobs(sha256) DEFERRABLE INITIALLY DEFERRED,"
    "  bytes INTEGER NOT NULL,"
    "  model TEXT NOT NULL,"
    "  fingerprint TEXT NOT NULL,"
    "  meta TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL,"
    "  UNIQUE (kind, name)"
    ") STRICT;"
    "INSERT INTO items SELECT id, kind, name, id, '', '', sha256, bytes, model, fingerprint, meta,"
    "  created_ms, changed_ms FROM old_items;"
    "INSERT INTO items SELECT d.seq + o.last, d.area, d.name, d.seq + o.last, d.kind, d.status,"
    "  NULL, 0, '', '', d.body, d.created_ms, d.changed_ms FROM documents d, (SELECT"
    "  coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'old_items'), 0) AS last) o;"
    "INSERT INTO sqlite_sequence (name, seq) SELECT 'items', 0 WHERE NOT EXISTS"
    "  (SELECT 1 FROM sqlite_sequence WHERE name = 'items');"
    "UPDATE sqlite_sequence SET seq = (SELECT coalesce(sum(seq), 0) FROM sqlite_sequence"
    "  WHERE name IN ('old_items', 'documents')) WHERE name = 'items';"
    "DROP TABLE old_items;"
    "DROP TABLE documents;"
    "CREATE INDEX items_sha256 ON items(sha256);"
    "CREATE INDEX items_newest ON items(kind, seq);",
};

static int run_step(struct db *db, const char *sql, int version, struct err *e)
{
    char set[96];
    int rc = db_begin(db, DB_DURABLE, e);
    if (rc < 0)
        return rc;
    snprintf(set, sizeof set, "PRAGMA user_version = %d; PRAGMA application_id = %d", version,
             APPLICATION_ID);
    if ((rc = db_exec(db, sql, e)) < 0 || (rc = db_exec(db, set, e)) < 0) {
        db_rollback(db);
        return rc;
    }
    return db_commit(db, e);
}

int db_migrate_steps(struct db *db, const char *const *sql, int n_steps, struct err *e)
{
    int64_t version, app, n_tables;
    int rc = db_int(db, &version, 0, e, "PRAGMA user_version", "");
    if (rc == 0)
        rc = db_int(db, &app, 0, e, "PRAGMA application_id", "");
    if (rc == 0)
        rc = db_int(db, &n_tables, 0, e, "SELECT count(*) FROM sqlite_schema", "");
    if (rc < 0)
        return rc;
    if (n_tables > 0 && app != APPLICATION_ID)
        return err_set(e, ERR_IO, "the file " DB_FILE " belongs to another program");
    if (version < 0 || version > n_steps)
        return err_set(
            e, ERR_IO,
            "the database has version %lld, this program knows up to %d: it was written by"
            " a newer one",
            (long long)version, n_steps);
    for (int v = (int)version; rc == 0 && v < n_steps; v++)
        rc = run_step(db, sql[v], v + 1, e);
    return rc < 0 && e ? err_prefix(e, "bring the database up to date") : rc;
}

int db_migrate_to(struct db *db, int version, struct err *e)
{
    ASSERT(version <= (int)(sizeof steps / sizeof steps[0]));
    return db_migrate_steps(db, steps, version, e);
}

int db_migrate(struct db *db, struct err *e)
{
    return db_migrate_to(db, sizeof steps / sizeof steps[0], e);
}

int db_check(struct db *db, struct err *e)
{
    static const char *const checks[] = {
        "PRAGMA quick_check(names)",      "PRAGMA quick_check(blobs)",
        "PRAGMA quick_check(states)",     "PRAGMA quick_check(state_tags)",
        "PRAGMA quick_check(write_keys)", "PRAGMA quick_check(items)"};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        sqlite3_stmt *st;
        int rc = db_query(db, &st, e, checks[i], "");
        if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
            const char *found = (const char *)sqlite3_column_text(st, 0);
            rc = found && strcmp(found, "ok") == 0
                     ? 0
                     : err_set(e, ERR_IO, "the database is damaged: %s", found ? found : "?");
        }
        db_done(st);
        if (rc < 0)
            return rc;
    }
    return 0;
}
