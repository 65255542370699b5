/* Stored hybrids, and which of them a model runs with: what --hybrid names; else the stored one that was
 * stored last; else hybrid.safetensors beside the model.
 *
 * Threads: THREAD_LANE, and the thread that starts, before requests come. */
#ifndef DAEMON_HYBRIDS_H
#define DAEMON_HYBRIDS_H

#include "daemon/fetch.h"

/* What an import brings, and a job that has trained one. */
struct hybrid_put {
    const char *name;
    void *file; /* malloc'd, [bytes] */
    size_t bytes;
    bool replace;         /* one of this name may be there */
    const char *training; /* a JSON object for its record; NULL: not known */
};
/* Checks the file, which is taken in every case, stores it, and lets its model run with it from now on,
 * unless --hybrid names another. *saved: free its meta; or NULL. ERR_FORMAT, ERR_MODEL_MISMATCH (it is of no
 * model that is served), ERR_NAME_EXISTS, ERR_STORAGE_FULL, ERR_NOMEM. */
int hybrids_register_take(struct service *s, const struct hybrid_put *p, struct item_info *saved,
                          struct err *e);
int hybrids_delete(struct service *s, const char *name, uint64_t if_revision, struct err *e);
/* Every model runs with the hybrid that it should. One that cannot be read is logged and left out. */
int hybrids_load(struct service *s, struct err *e);

#endif
