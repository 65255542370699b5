/* What the making of named states by a diffuser is, whether a request waits for it (errand_generate.c) or a
 * job does it (job_generate.c).
 *
 * Threads: THREAD_LANE, but for generation_read and generation_check: any. */
#ifndef DAEMON_GENERATION_H
#define DAEMON_GENERATION_H

#include "daemon/diffusion.h"

/* The generation out of its text (items.h: generation_request), without what a job does not have: a key. One
 * reference. ERR_INVALID, ERR_MODEL_NOT_FOUND, ERR_NOMEM. */
int generation_read(const struct service *s, const char *request, struct state_generation **out,
                    struct err *e);
/* What can be refused before it waits. */
int generation_check(const struct state_generation *c, struct err *e);

/* The name of state i. */
void generation_name(const struct state_generation *c, size_t i, char name[160]);
/* ERR_STATE_EXISTS: there is a state of this name, and versions are not to be added. */
int generation_check_free(const struct errand_run *r, const struct state_generation *c,
                          const char *name, struct err *e);
/* Writes state i, whose name is claimed, and its record into c->saved[i]. key: c->write, or what stands in
 * for it; job: its id, for the record, or NULL. */
int generation_save(const struct errand_run *r, struct state_generation *c, size_t i,
                    const float *state, const struct state_write *key, const char *job,
                    struct err *e);

#endif
