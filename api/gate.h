/* What stands before a handler: may this caller make this request, now? And behind it: what it took.
 * [thread: the connection's HTTP thread] */
#ifndef API_GATE_H
#define API_GATE_H

#include "api/req.h"

/* Keys (auth.h), hosts (cors.h), limits (limits.h). 0, or r->err is set: ERR_UNAUTHENTICATED,
 * ERR_PERMISSION, ERR_RATE_LIMIT with r->reply.retry_s. Fills r->grant and r->caller. */
int gate_check(struct req *r);
/* The request is over: its tokens are charged to its caller, and it is counted and logged. status:
 * of the answer that was sent. */
void gate_close(struct req *r, int status);

#endif
