#include "store/q_docs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How an area is called, and what it says of a name that is not there, or there already. */
static const struct {
    const char *word;
    int not_found, exists;
} areas[] = {
    [STORE_JOBS] = {"job", ERR_JOB_NOT_FOUND, ERR_INTERNAL},
    [STORE_DATASETS] = {"dataset", ERR_DATASET_NOT_FOUND, ERR_DATASET_EXISTS},
};

#define COLUMNS "seq, name, kind, status, created_ms, changed_ms, body"

void q_docs_fini(struct q_docs *d)
{
    for (size_t i = 0; i < d->n; i++)
        free((void *)d->rows[i].body);
    free(d->rows);
    *d = (struct q_docs){0};
}

static bool column_word(sqlite3_stmt *st, int col, char *out, size_t size)
{
    const char *s = (const char *)sqlite3_column_text(st, col);
    size_t n = s ? strlen(s) : size;
    if (n >= size)
        return false;
    memcpy(out, s, n + 1);
    return true;
}

static int row_read(sqlite3_stmt *st, enum store_area area, struct store_doc *out, struct err *e)
{
    *out = (struct store_doc){.area = area,
                              .seq = (uint64_t)sqlite3_column_int64(st, 0),
                              .created_ms = sqlite3_column_int64(st, 4),
                              .changed_ms = sqlite3_column_int64(st, 5)};
    const char *body = (const char *)sqlite3_column_text(st, 6);
    if (!column_word(st, 1, out->name, sizeof out->name) ||
        !column_word(st, 2, out->kind, sizeof out->kind) ||
        !column_word(st, 3, out->status, sizeof out->status) || !body)
        return err_set(e, ERR_IO, "the record of a %s is damaged", areas[area].word);
    out->body = strdup(body);
    return out->body ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

int q_doc_get(struct db *db, enum store_area area, const char *name, struct q_docs *out,
              struct err *e)
{
    sqlite3_stmt *st;
    *out = (struct q_docs){0};
    int rc = db_query(db, &st, e, "SELECT " COLUMNS " FROM documents WHERE area = ?1 AND name = ?2",
                      "tt", areas[area].word, name);
    if (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        out->rows = calloc(1, sizeof *out->rows);
        rc = out->rows ? row_read(st, area, &out->rows[0], e)
                       : err_set(e, ERR_NOMEM, "out of memory");
        out->n = rc == 0;
    } else if (rc == 0) {
        rc = err_set(e, areas[area].not_found, "there is no %s '%s'", areas[area].word, name);
    }
    db_done(st);
    if (rc < 0)
        q_docs_fini(out);
    return rc;
}

static int insert(struct db *db, int64_t now_ms, const struct store_doc *d, struct err *e)
{
    return db_run(db, e,
                  "INSERT INTO documents (area, name, kind, status, created_ms, changed_ms, body)"
                  " VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
                  "ttttit", areas[d->area].word, d->name, d->kind, d->status, now_ms, d->body);
}

static int update(struct db *db, int64_t now_ms, const struct store_doc *d, struct err *e)
{
    return db_run(db, e,
                  "UPDATE documents SET kind = ?3, status = ?4, changed_ms = ?5, body = ?6"
                  " WHERE area = ?1 AND name = ?2",
                  "ttttit", areas[d->area].word, d->name, d->kind, d->status, now_ms, d->body);
}

int q_doc_put(struct db *db, int64_t now_ms, const struct store_doc *d, enum store_doc_if how,
              struct q_docs *out, struct err *e)
{
    int64_t there;
    *out = (struct q_docs){0};
    int rc = db_int(db, &there, 0, e, "SELECT 1 FROM documents WHERE area = ?1 AND name = ?2", "tt",
                    areas[d->area].word, d->name);
    if (rc < 0)
        return rc;
    if (there && how == STORE_DOC_NEW)
        return err_set_param(e, areas[d->area].exists, "name", "there is a %s '%s' already",
                             areas[d->area].word, d->name);
    if (!there && how == STORE_DOC_CHANGE)
        return err_set(e, areas[d->area].not_found, "there is no %s '%s'", areas[d->area].word,
                       d->name);
    rc = there ? update(db, now_ms, d, e) : insert(db, now_ms, d, e);
    return rc < 0 ? rc : q_doc_get(db, d->area, d->name, out, e);
}

int q_doc_delete(struct db *db, enum store_area area, const char *name, struct q_docs *out,
                 struct err *e)
{
    int rc = q_doc_get(db, area, name, out, e);
    if (rc == 0)
        rc = db_run(db, e, "DELETE FROM documents WHERE area = ?1 AND name = ?2", "tt",
                    areas[area].word, name);
    if (rc < 0)
        q_docs_fini(out);
    return rc;
}

int q_doc_list(struct db *db, const struct store_doc_query *q, struct q_docs *out, struct err *e)
{
    sqlite3_stmt *st;
    *out = (struct q_docs){.rows = calloc(q->limit, sizeof *out->rows)};
    if (!out->rows)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = db_query(db, &st, e,
                      "SELECT " COLUMNS " FROM documents WHERE area = ?1 AND seq < ?2"
                      " AND (?3 = '' OR kind = ?3) AND (?4 = '' OR status = ?4)"
                      " ORDER BY seq DESC LIMIT ?5",
                      "titti", areas[q->area].word,
                      q->before && q->before < INT64_MAX ? (int64_t)q->before : INT64_MAX,
                      q->kind ? q->kind : "", q->status ? q->status : "", (int64_t)q->limit + 1);
    while (rc == 0 && (rc = db_step(db, st, e)) > 0) {
        out->has_more = out->n == q->limit;
        rc = out->has_more ? 0 : row_read(st, q->area, &out->rows[out->n], e);
        if (out->has_more)
            break;
        out->n += rc == 0;
    }
    db_done(st);
    if (rc < 0)
        q_docs_fini(out);
    return rc < 0 ? rc : 0;
}
