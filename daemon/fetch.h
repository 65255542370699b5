/* The store, asked and waited for, by a thread that may block: the lane's.
 *
 * Threads: THREAD_LANE. */
#ifndef DAEMON_FETCH_H
#define DAEMON_FETCH_H

#include "daemon/items.h"
#include "daemon/service_impl.h"
#include "daemon/state_put.h"

/* A state of a model in memory. */
struct fetched {
    struct state_info info; /* its record */
    char ref[160];          /* "name@version" */
    float *state;           /* [rwkv_state_floats] */
};

/* ref: "name" or "name@version". param (NULL: none) is the request's field, for errors.
 * ERR_STATE_NOT_FOUND, ERR_STATE_INCOMPATIBLE (of another model), ERR_STATE_CORRUPT, ERR_NOMEM, ... On
 * failure *out is empty. */
int fetch_state(struct service *s, const struct model *m, const char *ref, const char *param,
                struct fetched *out, struct err *e);
void fetched_fini(struct fetched *f);

/* Packs and commits a state; *saved is its record. */
int fetch_put(struct service *s, const struct state_put *p, const struct store_write *how,
              struct state_info *saved, struct err *e);
/* The record that an earlier write with this key made; *found says whether there is one. */
int fetch_key(struct service *s, const struct state_write *w, struct state_info *record,
              bool *found, struct err *e);
/* A page of records: state_info_fini each, then free. */
int fetch_list(struct service *s, const struct store_query *query, struct state_info **out,
               size_t *n, bool *has_more, struct err *e);

/* ---- items; also on the thread that starts, before requests come ---- */

/* A record with its bytes, if they were asked for; checked against their SHA-256. */
struct fetched_item {
    struct item_info info;
    void *data; /* [bytes] */
    size_t bytes;
};
void fetched_item_fini(struct fetched_item *f);
/* Errors as in store.h. On failure *out is empty. */
int fetch_item(struct service *s, enum store_kind kind, const char *name, bool with_data,
               struct fetched_item *out, struct err *e);
/* data is taken in every case. *saved (or NULL) is the caller's: free its meta. */
int fetch_item_put_take(struct service *s, const struct store_item *item, void *data,
                        const struct store_item_write *how, struct item_info *saved, struct err *e);
/* The same, in place of one of its name where there is one and `replace` allows it. ERR_NAME_EXISTS. */
int fetch_item_put_over_take(struct service *s, const struct store_item *item, void *data,
                             bool replace, struct item_info *saved, struct err *e);
int fetch_item_delete(struct service *s, enum store_kind kind, const char *name,
                      uint64_t if_revision, struct err *e);
/* The name of the one of a fingerprint that was stored last, "": there is none. least (or NULL): one that
 * counts only where there is no other. */
int fetch_item_latest(struct service *s, enum store_kind kind, const char *fingerprint,
                      const char *least, char name[129], struct err *e);
/* The bytes of a file that is to be an item's, malloc'd. ERR_IO, ERR_NOMEM. */
#define FETCH_FILE_MAX ((size_t)900 << 20)
int fetch_file(const char *path, void **data, size_t *bytes, struct err *e);
/* A page: free each meta, then *out. */
int fetch_item_list(struct service *s, const struct store_item_query *query, struct item_info **out,
                    size_t *n, bool *has_more, struct err *e);

#endif
