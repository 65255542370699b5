/* What the handlers of states share: states.c (the resource), states_write.c (what adds versions). */
#ifndef API_STATES_H
#define API_STATES_H

#include "api/precondition.h"
#include "api/prompt.h"
#include "api/route.h"

/* A call to be filled and given to states_submit. NULL and e: no memory. */
struct state_call *states_call(enum state_op op, struct err *e);
/* The same, with its ref from the path. ERR_INVALID: it is none, or has a version where a bare name is
 * wanted. */
struct state_call *states_call_of_path(struct req *r, enum state_op op, bool versioned,
                                       struct err *e);
/* The call that the request waits for. */
struct state_call *states_call_of(struct req *r);
/* Submits the call and waits for it; takes over the reference. rc < 0: drops it, and gives rc. */
int states_submit(struct req *r, struct state_call *c, const struct task *t, int rc, struct err *e);

/* The query's limit, from min to 1000; 100 if there is none. */
int states_query_limit(struct req *r, size_t min, size_t *limit, struct err *e);

/* The fields description, tags, pinned, expires_at, expires_in. patch: null takes away (RFC 7396). */
int states_decode_change(const json_t *o, bool patch, struct state_change *c, struct err *e);

/* The functions of a task whose calls give no records, and one result. */
void states_no_record(struct req *r, size_t source, const void *record, size_t bytes);
int states_no_end(struct req *r, size_t source, struct err *e);
/* The answer that holds the one record: status, its ETag, Location for what is new. ERR_INTERNAL. */
int states_reply_record(struct req *r, int status, struct jw *w, struct err *e);
/* Its status line and headers alone. replayed: it answered an earlier request. */
void states_reply_info(struct req *r, int status, const struct state_info *s, bool replayed);

#endif
