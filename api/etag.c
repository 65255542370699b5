#include "api/etag.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

static const char *skip_blank(const char *s)
{
    return s + strspn(s, " \t");
}

bool etag_listed(const char *list, const char *etag, bool weak)
{
    size_t n = strlen(etag);
    if (!list)
        return false;
    list = skip_blank(list);
    if (*list == '*')
        return !*skip_blank(list + 1);
    for (;;) {
        list += strspn(list, " \t,");
        bool is_weak = list[0] == 'W' && list[1] == '/';
        list += is_weak ? 2 : 0;
        const char *end = *list == '"' ? strchr(list + 1, '"') : NULL;
        if (!end)
            return false; /* the end, or no tag */
        size_t len = (size_t)(end + 1 - list);
        if ((weak || !is_weak) && len == n && !memcmp(list, etag, n))
            return true;
        list = end + 1;
    }
}

/* Decimal digits at *s, moved past; what does not fit is UINT64_MAX. False: there are none. */
static bool number(const char **s, uint64_t *out)
{
    const char *p = *s;
    *out = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(*p - '0'), out))
            *out = UINT64_MAX / 10; /* the next digit overflows again */
    bool any = p != *s;
    *s = p;
    return any;
}

enum range range_parse(const char *header, uint64_t total, uint64_t *from, uint64_t *n)
{
    uint64_t first = 0, last = UINT64_MAX;
    if (!header || strncasecmp(header, "bytes", 5) != 0)
        return RANGE_NONE;
    const char *s = skip_blank(header + 5);
    if (*s != '=')
        return RANGE_NONE;
    s = skip_blank(s + 1);
    bool has_first = number(&s, &first);
    if (*s++ != '-')
        return RANGE_NONE;
    bool has_last = number(&s, &last);
    if (*skip_blank(s) || (!has_first && !has_last) || (has_first && has_last && last < first))
        return RANGE_NONE;
    if (!has_first) { /* the last so many bytes */
        if (last == 0 || total == 0)
            return RANGE_BEYOND;
        *n = last < total ? last : total;
        *from = total - *n;
        return RANGE_PART;
    }
    if (first >= total)
        return RANGE_BEYOND;
    *from = first;
    *n = (has_last && last < total ? last + 1 : total) - first;
    return RANGE_PART;
}
