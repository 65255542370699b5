/* What the two resources of items share: conditions.c, diffusers.c. */
#ifndef API_ITEMS_H
#define API_ITEMS_H

#include "api/diffusion.h"

/* A call, with its name from the path where there is one. NULL and e. */
struct item_call *items_call(struct req *r, enum item_kind kind, enum item_op op, struct err *e);
const struct item_call *items_call_of(const struct req *r);
/* Submits the call and waits for it; takes over the reference. rc < 0: drops it, and gives rc. */
int items_submit(struct req *r, struct item_call *c, const struct task *t, int rc, struct err *e);
/* The query of a list: limit, after, model. */
int items_decode_list(struct req *r, struct item_call *c, struct err *e);
/* The answer's status and headers for its one record. path: of its collection. */
void items_reply(struct req *r, int status, const char *path, const struct item_info *i);
/* The answer of a DELETE, and of a list whose items `write` writes. */
int items_finish_delete(struct req *r, const char *object);
int items_finish_list(struct req *r, void (*write)(struct jw *w, const struct item_info *i,
                                                   const float *vector, size_t n));
/* The fields that all records have. */
void items_write_fields(struct jw *w, const char *object, const struct item_info *i);

#endif
