/* Entity tags and byte ranges (RFC 9110, 8.8.3, 13.1, 14): what a request's headers ask of one
 * representation. Pure functions over header values; NULL is a header that is absent. */
#ifndef API_ETAG_H
#define API_ETAG_H

#include <stdbool.h>
#include <stdint.h>

/* Is etag ("..." with its quotes) in a list as If-None-Match and If-Match have it, or is that "*"?
 * weak: W/ is looked past, as If-None-Match wants it. */
bool etag_listed(const char *list, const char *etag, bool weak);

enum range { RANGE_NONE, RANGE_PART, RANGE_BEYOND };
/* The one range of a Range header over `total` bytes: *n bytes from *from. NONE: absent, not
 * understood, or several: the whole is sent. BEYOND: nothing of it is there (416). */
enum range range_parse(const char *header, uint64_t total, uint64_t *from, uint64_t *n);

#endif
