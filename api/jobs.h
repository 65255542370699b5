/* Making a job: the answer is 202 with its record and its Location. */
#ifndef API_JOBS_H
#define API_JOBS_H

#include "api/req.h"
#include "daemon/jobs.h"

/* request: malloc'd, taken in every case; NULL: there was no memory for it. own: as in jobs.h. */
int jobs_create_take(struct req *r, char *request, bool own, struct err *e);

#endif
