/* Request headers that make a write safe to race and to repeat: If-Match, If-None-Match
 * (RFC 9110, 13.1) and Idempotency-Key. A state's entity tag is its revision in quotes: "7". */
#ifndef API_PRECONDITION_H
#define API_PRECONDITION_H

#include "api/req.h"

/* Gives the answer the ETag of the record. */
void precondition_set_etag(struct req *r, const struct state_info *s);
/* Does the client have this record already (If-None-Match)? Then the answer is a 304. */
bool precondition_not_modified(struct req *r, const struct state_info *s);
/* The revision that If-Match names; 0: any (no such header, or *). ERR_INVALID: several tags;
 * ERR_VERSION_CONFLICT: one that no state can have. */
int precondition_if_match(struct req *r, uint64_t *revision, struct err *e);
/* Idempotency-Key, with the SHA-256 of method, path and body, into w. ERR_INVALID. */
int precondition_key(struct req *r, struct state_write *w, struct err *e);

#endif
