/* The fields of a job's request; inside daemon only. Each leaves *v as it was where the field is absent or
 * null; ERR_INVALID names it. */
#ifndef DAEMON_JOB_DECODE_H
#define DAEMON_JOB_DECODE_H

#include "daemon/base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

json_t *job_decode(const char *request, struct err *e); /* NULL: no JSON object */
int job_decode_uint(const json_t *o, const char *key, uint64_t min, uint64_t max, uint64_t *v,
                    struct err *e);
int job_decode_real(const json_t *o, const char *key, double min, double max, double *v,
                    struct err *e);
/* A text without NUL of at most `most` bytes; it belongs to o. */
int job_decode_text(const json_t *o, const char *key, size_t most, const char **v, struct err *e);

#endif
