/* Input: number of stop strings, then each with its length before it, then the text. The released
 * bytes must be the text up to the first byte of the stop string that ends first. */
#include "daemon/base/assert.h"
#include "engine/sampling/sampling.h"

#include <string.h>

#define MAX_STOPS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The end of the first stop string to end in text [n], or 0; *len is the longest that ends there.
 */
static size_t first_end(const char *text, size_t n, const char *const *stops, const size_t *lens,
                        size_t n_stops, size_t *len)
{
    *len = 0;
    for (size_t end = 1; end <= n; end++) {
        for (size_t i = 0; i < n_stops; i++)
            if (lens[i] <= end && lens[i] > *len &&
                memcmp(text + end - lens[i], stops[i], lens[i]) == 0)
                *len = lens[i];
        if (*len)
            return end;
    }
    return 0;
}

static void check(const char *text, size_t n, const char *const *stops, const size_t *lens,
                  size_t n_stops)
{
    size_t len, shown = 0, fed = 0, end = first_end(text, n, stops, lens, n_stops, &len);
    int found = -1;
    struct stop_matcher *m = stop_new(stops, lens, n_stops);
    ASSERT(m);
    while (fed < n && found < 0) {
        size_t release, step = 1 + (unsigned char)text[fed] % 7;
        step = step < n - fed ? step : n - fed;
        found = stop_feed(m, text + fed, step, &release);
        fed += step;
        shown += release;
        ASSERT(shown <= fed);
    }
    ASSERT((found >= 0) == (end > 0));
    ASSERT(found < 0 || (lens[found] == len && shown == end - len));
    stop_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *stops[MAX_STOPS], *p = (const char *)data;
    size_t lens[MAX_STOPS], n_stops = 0, want = size ? data[0] % (MAX_STOPS + 1) : 0, at = 1;
    while (n_stops < want && at < size) {
        size_t len = 1 + data[at++] % 32;
        if (len > size - at)
            break;
        stops[n_stops] = p + at;
        lens[n_stops++] = len;
        at += len;
    }
    if (at < size)
        check(p + at, size - at, stops, lens, n_stops);
    return 0;
}
