/* What the handlers of work on stored states share: edits.c, maps.c. */
#ifndef API_ERRANDS_H
#define API_ERRANDS_H

#include "api/states.h"
#include "daemon/errand.h"

/* Submits an errand and waits for it; takes over the reference. rc < 0: drops it, and gives rc. */
int errands_submit(struct req *r, struct errand *c, const struct task *t, int rc, struct err *e);

/* A state reference, or an array of 1 to `most`, into *out [*n] (the caller's, also on failure). param
 * names the field. */
int errands_decode_refs(const json_t *v, const char *param, size_t most, char ***out, size_t *n,
                        struct err *e);
/* The fields layers, heads and parts of o. prefix stands before their names in error.param. Without
 * parts all are chosen; with heads only the matrices. */
int errands_decode_select(const json_t *o, const char *prefix, struct edit_op *op, struct err *e);

#endif
