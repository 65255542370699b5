/* The schema, as steps from each version of the database to the next. Inside store/ only. */
#ifndef STORE_MIGRATE_H
#define STORE_MIGRATE_H

#include "store/db.h"

/* Brings an opened database to the last version, running each missing step in a transaction of its
 * own: a step that fails leaves the version before it. ERR_IO: it is newer than this program, of
 * another program, or damaged. */
int db_migrate(struct db *db, struct err *e) __attribute__((warn_unused_result));
/* As a program did whose last version was this one. */
int db_migrate_to(struct db *db, int version, struct err *e) __attribute__((warn_unused_result));
/* The same with given steps: steps[i] leads from version i to i + 1. */
int db_migrate_steps(struct db *db, const char *const *steps, int n_steps, struct err *e)
    __attribute__((warn_unused_result));
/* Checks the structure of the tables that everything depends on. The blobs' bytes are left out:
 * damage there must cost only the states it hits, and is found when they are read. */
int db_check(struct db *db, struct err *e) __attribute__((warn_unused_result));

#endif
