/* UTF-8 well-formedness by table 3-7 of the Unicode Standard: after the lead byte only the second
 * byte has a range narrower than 80..BF (no overlong forms, no surrogates, nothing above U+10FFFF).
 */
#include "engine/tokenizer/tokenizer.h"

/* Bytes of the sequence that lead byte c begins, and the range of its second byte; 0: not a lead.
 */
static size_t utf8_lead(unsigned char c, unsigned char *lo, unsigned char *hi)
{
    *lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    *hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (c < 0x80)
        return 1;
    if (c < 0xC2 || c > 0xF4)
        return 0;
    return c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* How many of p [n >= 1] belong together: a whole character (*want = their number), or the maximal
 * subpart of one (*want larger), or one byte that begins nothing (*want = 0). */
static size_t utf8_span(const unsigned char *p, size_t n, size_t *want)
{
    unsigned char lo, hi;
    *want = utf8_lead(p[0], &lo, &hi);
    size_t k = 1;
    while (k < *want && k < n && p[k] >= lo && p[k] <= hi) {
        k++;
        lo = 0x80;
        hi = 0xBF;
    }
    return k;
}

size_t utf8_whole_prefix(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        size_t want;
        /* A lead byte never continues another sequence, so where it stands in p does not matter. */
        if (utf8_span(p + n - k, k, &want) == k && want > k)
            return n - k;
    }
    return n;
}

bool utf8_is_valid(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    for (size_t i = 0, k, want; i < n; i += k)
        if ((k = utf8_span(p + i, n - i, &want)) != want)
            return false;
    return true;
}

int utf8_append_valid(struct buf *out, const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t done = 0; /* bytes before this are appended */
    int rc = 0;
    for (size_t i = 0, k, want; i < n && rc == 0; i += k) {
        k = utf8_span(p + i, n - i, &want);
        if (k == want)
            continue;
        rc = buf_append(out, s + done, i - done);
        if (rc == 0)
            rc = buf_append(out, "\xEF\xBF\xBD", 3);
        done = i + k;
    }
    return rc < 0 ? rc : buf_append(out, s + done, n - done);
}
