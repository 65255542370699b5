#include "daemon/job_decode.h"

#include <string.h>

json_t *job_decode(const char *request, struct err *e)
{
    json_t *o = json_loads(request, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json_is_object(o))
        return o;
    json_decref(o);
    err_set(e, ERR_INVALID, "a job is asked for with a JSON object");
    return NULL;
}

int job_decode_uint(const json_t *o, const char *key, uint64_t min, uint64_t max, uint64_t *v,
                    struct err *e)
{
    double x = (double)*v;
    int rc = job_decode_real(o, key, (double)min, (double)max, &x, e);
    if (rc == 0 && x != (double)(uint64_t)x)
        rc = err_set_param(e, ERR_INVALID, key, "%s is not a whole number", key);
    if (rc == 0)
        *v = (uint64_t)x;
    return rc;
}

int job_decode_real(const json_t *o, const char *key, double min, double max, double *v,
                    struct err *e)
{
    const json_t *n = json_object_get(o, key);
    if (!n || json_is_null(n))
        return 0;
    double x = json_number_value(n);
    if (!json_is_number(n) || !(x >= min && x <= max))
        return err_set_param(e, ERR_INVALID, key, "%s is not a number from %g to %g", key, min,
                             max);
    *v = x;
    return 0;
}

int job_decode_text(const json_t *o, const char *key, size_t most, const char **v, struct err *e)
{
    const json_t *t = json_object_get(o, key);
    if (!t || json_is_null(t))
        return 0;
    const char *s = json_string_value(t);
    size_t n = json_string_length(t);
    if (!s || n > most || strlen(s) != n)
        return err_set_param(e, ERR_INVALID, key,
                             "%s is not a string of at most %zu bytes without NUL", key, most);
    *v = s;
    return 0;
}
