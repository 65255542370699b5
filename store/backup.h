/* A copy of the open database into another folder, page by page, while it is used. Inside store/ only.
 *
 * SQLite keeps the pages that are copied already in step with what this connection writes, so the
 * copy is the database as it is at the last step. It is written under another name and gets its own
 * when it is whole and on disk. One thread at a time, the database's. */
#ifndef STORE_BACKUP_H
#define STORE_BACKUP_H

#include "store/db.h"

struct backup;

/* Between transactions. ERR_INVALID (dir holds a database), ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. */
int backup_begin(struct db *db, const char *dir, struct backup **out, struct err *e)
    __attribute__((warn_unused_result));
/* Copies a slice of 1 MiB, between transactions; more if the database has grown meanwhile, so that the
 * end comes nearer with each step however much is written. 1: there is more; 0: whole, *bytes is its size;
 * negative: failed. */
int backup_step(struct backup *b, uint64_t *bytes, struct err *e);
/* Removes what is unfinished. NULL is fine. Before db_close. */
void backup_free(struct backup *b);

#endif
