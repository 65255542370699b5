/* From a state in memory to a record in the store: packed, hashed, measured, and kept in the cache of
 * states too. Takes as long as hashing a state takes: on the porter's thread. */
#ifndef DAEMON_STATE_PUT_H
#define DAEMON_STATE_PUT_H

#include "daemon/service_impl.h"

struct state_put {
    const struct model *model;
    const char *name, *weights_type;
    const char *parents, *origin; /* JSON texts */
    const float *state;           /* [rwkv_state_floats] */
    const float *logits;          /* [V], NULL: none */
    uint64_t n_tokens;
    const struct state_change *change; /* NULL: none */
    bool no_cache;                     /* the store only */
};

/* done(arg) is called with the record as stored. An error before that is returned: ERR_NOMEM,
 * ERR_NUMERIC (a value is not finite), those of store_put_state_take. */
int state_put(struct service *s, const struct state_put *p, const struct store_write *how,
              store_state_fn *done, void *arg, struct err *e);

#endif
