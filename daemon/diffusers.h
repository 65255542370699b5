/* Diffusers in memory: the stored ones, loaded on demand and kept while there is room, and the bundled
 * model's, which is put into the store under the name "bundled" when first asked for.
 *
 * Threads: THREAD_LANE. A use keeps its diffuser loaded, also while lane_yield runs something else. */
#ifndef DAEMON_DIFFUSERS_H
#define DAEMON_DIFFUSERS_H

#include "daemon/errand_impl.h"
#include "daemon/fetch.h"
#include "engine/dit/dit.h"

#define DIFFUSERS_LOADED 8                   /* at most, and ... */
#define DIFFUSERS_BYTES  ((size_t)512 << 20) /* ... of those that are not in use */

struct diffusers;
struct diffusers *diffusers_new(void);    /* NULL: no memory */
void diffusers_free(struct diffusers *d); /* NULL is fine */

struct diffuser_use {
    const struct diffuser *diffuser;
    char name[129], sha256[65];
    void *slot;
};
/* name NULL: the one of the run's model that was stored last. ERR_DIFFUSER_NOT_FOUND,
 * ERR_MODEL_MISMATCH (it is another model's), ERR_NO_DIFFUSER (the model has none), ERR_STATE_CORRUPT,
 * ERR_NOMEM. */
int diffusers_use(const struct errand_run *r, const char *name, struct diffuser_use *out,
                  struct err *e);
void diffusers_unuse(struct service *s, struct diffuser_use *u); /* a zeroed one is fine */

/* What an import brings, and a job that has trained one. */
struct diffuser_put {
    const char *name;
    void *file; /* malloc'd, [bytes] */
    size_t bytes;
    bool replace;         /* one of this name may be there */
    const char *training; /* a JSON object for its record; NULL: not known */
};
/* Checks the file, which is taken in every case, and stores it. *saved: free its meta; or NULL. ERR_FORMAT,
 * ERR_MODEL_MISMATCH (it is of no model that is served), ERR_NAME_EXISTS, ERR_STORAGE_FULL, ERR_NOMEM. */
int diffusers_register_take(struct service *s, const struct diffuser_put *p,
                            struct item_info *saved, struct err *e);
/* Stores the bundled model's diffuser, once, if that model is served and there is one. */
void diffusers_offer(struct service *s);

#endif
