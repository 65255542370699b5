/* Requests about states that need no step of a model: they run on the background lane.
 *
 *     struct state_edit *c = state_edit_new();
 *     c->errand.model = ..., c->state = ..., c->ops = ...;      (malloc'd; owned by the call)
 *     service_errand(svc, &c->errand, &e);                      (refused at once: 400, 429, 503)
 *     ... STREAM_END ...; c->errand.call.err.code, c->saved
 *     call_unref(&c->errand.call);
 *
 * All states of a call must be of its model (409). Threads and ownership: as service.h. */
#ifndef DAEMON_ERRAND_H
#define DAEMON_ERRAND_H

#include "daemon/service.h"
#include "engine/rwkv/edit.h"

enum errand_kind { ERRAND_EDIT, ERRAND_COMPARE };
struct errand {
    struct call call;
    const struct model_info *model;
    enum errand_kind kind; /* set by its maker */
};
int service_errand(struct service *s, struct errand *c, struct err *e);

/* ---- edits: a new state out of others ---- */

#define EDIT_MAX_OPS    64
#define EDIT_MAX_STATES 64 /* that one operation names */

/* One operation; which blocks it changes as in engine/rwkv/edit.h. */
struct edit_op {
    enum rwkv_edit_kind kind;
    double amount;
    uint64_t seed;
    bool normalize;
    bool parts[RWKV_N_PARTS];
    uint32_t *layers, *heads; /* [n_layers], [n_heads]; n 0: all */
    size_t n_layers, n_heads;
    char **with, **minus; /* [n_with], [n_minus] state references */
    size_t n_with, n_minus;
};

struct state_edit {
    struct errand errand;
    /* the request */
    char *state;         /* what is edited: "name" or "name@version" */
    char *name;          /* of the result */
    struct edit_op *ops; /* [n_ops], applied in order */
    size_t n_ops;
    char *ops_json; /* the same as the record keeps them */
    struct state_write write;
    struct state_change change;
    /* the result */
    struct state_info *saved; /* without logits; its n_tokens are those of the edited state */
    bool replayed;
};
struct state_edit *state_edit_new(void); /* NULL: no memory */

/* ---- comparison ---- */

struct block_difference {
    struct rwkv_block block;
    struct rwkv_difference is;
};

struct state_comparison {
    struct errand errand;
    char *a, *b; /* state references */
    /* the result */
    char used_a[160], used_b[160]; /* "name@version" */
    struct rwkv_difference whole;
    struct rwkv_difference *layers;  /* [n_layers] */
    struct block_difference *blocks; /* [n_blocks], in the order of the floats */
    size_t n_layers, n_blocks;
};
struct state_comparison *state_comparison_new(void);

#endif
