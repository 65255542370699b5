/* The table of routes: which handler answers a method and a path. openapi.yaml describes the same
 * operations (a test compares the two).
 *
 * A pattern's segment {name} matches one non-empty path segment, percent-decoded into r->params.
 * Where a pattern without parameters matches, one with is not looked at. HEAD is answered wherever GET is. Handlers run on the connection's HTTP thread, return 0 or
 * ERR_*, and must not block. */
#ifndef API_ROUTE_H
#define API_ROUTE_H

#include "api/req.h"

struct route {
    const char *method, *pattern;
    int (*handle)(struct req *r, struct err *e);
    enum scope scope; /* what a key must allow */
    size_t max_body;  /* bytes; 0: no body is wanted (what comes is dropped); see also ROUTE_FILE */
};

/* In max_body: the body is a file of any type, not JSON, and --max-body does not lower the limit. */
#define ROUTE_FILE ((size_t)1 << 62)

const struct route *route_table(size_t *n);
/* NULL and e (ERR_ROUTE_NOT_FOUND; ERR_METHOD with r->reply.allow; ERR_INVALID: bad escape). */
const struct route *route_find(struct req *r, const char *method, const char *path, struct err *e);

int handle_backup(struct req *r, struct err *e);
int handle_health(struct req *r, struct err *e);
int handle_live(struct req *r, struct err *e);
int handle_props(struct req *r, struct err *e);
int handle_slots(struct req *r, struct err *e);
int handle_metrics(struct req *r, struct err *e);
int handle_openapi(struct req *r, struct err *e);
int handle_models(struct req *r, struct err *e);
int handle_model(struct req *r, struct err *e);
int handle_completions(struct req *r, struct err *e);
int handle_chat(struct req *r, struct err *e);
int handle_apply_template(struct req *r, struct err *e);
int handle_embeddings(struct req *r, struct err *e);
int handle_tokenize(struct req *r, struct err *e);
int handle_detokenize(struct req *r, struct err *e);
int handle_state_create(struct req *r, struct err *e);
int handle_state_list(struct req *r, struct err *e);
int handle_state_get(struct req *r, struct err *e);
int handle_state_patch(struct req *r, struct err *e);
int handle_state_delete(struct req *r, struct err *e);
int handle_state_data(struct req *r, struct err *e);
int handle_state_import(struct req *r, struct err *e);
int handle_state_fork(struct req *r, struct err *e);
int handle_state_versions(struct req *r, struct err *e);
int handle_state_append(struct req *r, struct err *e);
int handle_state_generations(struct req *r, struct err *e);
int handle_condition_create(struct req *r, struct err *e);
int handle_condition_list(struct req *r, struct err *e);
int handle_condition_get(struct req *r, struct err *e);
int handle_condition_patch(struct req *r, struct err *e);
int handle_condition_delete(struct req *r, struct err *e);
int handle_context_create(struct req *r, struct err *e);
int handle_context_list(struct req *r, struct err *e);
int handle_context_get(struct req *r, struct err *e);
int handle_context_delete(struct req *r, struct err *e);
int handle_diffuser_import(struct req *r, struct err *e);
int handle_diffuser_list(struct req *r, struct err *e);
int handle_diffuser_get(struct req *r, struct err *e);
int handle_diffuser_data(struct req *r, struct err *e);
int handle_diffuser_delete(struct req *r, struct err *e);
int handle_hybrid_import(struct req *r, struct err *e);
int handle_hybrid_list(struct req *r, struct err *e);
int handle_hybrid_get(struct req *r, struct err *e);
int handle_hybrid_data(struct req *r, struct err *e);
int handle_hybrid_delete(struct req *r, struct err *e);
int handle_dataset_append(struct req *r, struct err *e);
int handle_dataset_list(struct req *r, struct err *e);
int handle_dataset_get(struct req *r, struct err *e);
int handle_dataset_delete(struct req *r, struct err *e);
int handle_state_edits(struct req *r, struct err *e);
int handle_state_compare(struct req *r, struct err *e);
int handle_state_evaluate(struct req *r, struct err *e);
int handle_state_projections(struct req *r, struct err *e);
int handle_state_neighbors(struct req *r, struct err *e);
int handle_state_rollback(struct req *r, struct err *e);
int handle_job_create(struct req *r, struct err *e);
int handle_job_list(struct req *r, struct err *e);
int handle_job_get(struct req *r, struct err *e);
int handle_job_delete(struct req *r, struct err *e);
int handle_job_events(struct req *r, struct err *e);

#endif
