/* What the resources of items share: conditions.c, contexts.c, diffusers.c, datasets.c. */
#ifndef API_ITEMS_H
#define API_ITEMS_H

#include "api/diffusion.h"

struct item_resource {
    const char *object; /* "condition"; its path: /v1/conditions */
    bool of_model;      /* it belongs to one, and has bytes */
    /* The fields that not all records have. data [bytes]: the item's, or NULL (in a list). */
    void (*write)(struct jw *w, const struct item_info *i, const void *data, size_t bytes);
};
extern const struct item_resource items_conditions, items_contexts, items_diffusers, items_hybrids,
    items_datasets;

/* The fields description and tags of o, as states have them, into the record's JSON. */
int items_keep_change(const json_t *o, bool is_patch, json_t *meta, struct err *e);
/* All that the record's JSON says, as fields. */
void items_write_meta(struct jw *w, const struct item_info *i);

/* A call, with its name from the path where there is one. NULL and e. */
struct item_call *items_call(struct req *r, enum item_kind kind, enum item_op op, struct err *e);
const struct item_call *items_call_of(const struct req *r);
/* Submits the call and waits for it; takes over the reference. rc < 0: drops it, and gives rc. */
int items_submit(struct req *r, struct item_call *c, const struct task *t, int rc, struct err *e);
/* Answer with the one record: 201 and where it is, or 200. */
extern const struct task items_put_task, items_get_task;
int items_finish_one(struct req *r, int status);

/* The whole of GET and DELETE of one, and of GET of a list. */
int items_get(struct req *r, enum item_kind kind, struct err *e);
int items_delete(struct req *r, enum item_kind kind, struct err *e);
int items_list(struct req *r, enum item_kind kind, struct err *e);

#endif
