/* One Knuth-Morris-Pratt automaton a stop string, fed side by side: requests have few of them. */
#include "daemon/base/mem.h"
#include "engine/sampling/sampling.h"

struct stop_string {
    unsigned char *bytes; /* [len] */
    size_t *border; /* [len]: border[i] is the longest proper border of the first i + 1 bytes */
    size_t len;
    size_t matched; /* longest prefix that the text now ends with */
};

struct stop_matcher {
    struct stop_string *strings; /* [n] */
    size_t n;
    size_t held;  /* bytes fed and not released */
    int complete; /* index of the string that was found, or -1 */
};

/* The length matched after c, coming from `matched` < len. */
static size_t stop_step(const struct stop_string *s, size_t matched, unsigned char c)
{
    while (matched > 0 && s->bytes[matched] != c)
        matched = s->border[matched - 1];
    return matched + (s->bytes[matched] == c);
}

static bool stop_string_init(struct stop_string *s, const char *bytes, size_t len)
{
    s->len = len;
    s->bytes = malloc(len);
    s->border = calloc(len, sizeof *s->border);
    if (!s->bytes || !s->border)
        return false;
    memcpy(s->bytes, bytes, len);
    for (size_t i = 1; i < len; i++)
        s->border[i] = stop_step(s, s->border[i - 1], s->bytes[i]);
    return true;
}

struct stop_matcher *stop_new(const char *const *stops, const size_t *lens, size_t n)
{
    struct stop_matcher *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->complete = -1;
    m->strings = calloc(n ? n : 1, sizeof *m->strings);
    m->n = m->strings ? n : 0;
    bool ok = m->strings != NULL;
    for (size_t i = 0; ok && i < n; i++)
        ok = stop_string_init(&m->strings[i], stops[i], lens[i]);
    if (ok)
        return m;
    stop_free(m);
    return NULL;
}

void stop_free(struct stop_matcher *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++) {
        free(m->strings[i].bytes);
        free(m->strings[i].border);
    }
    free(m->strings);
    free(m);
}

/* Feeds one byte; *hold is the longest partial match then, or the length of the completed string.
 */
static int stop_feed_byte(struct stop_matcher *m, unsigned char c, size_t *hold)
{
    int found = -1;
    size_t found_len = 0;
    *hold = 0;
    for (size_t i = 0; i < m->n; i++) {
        struct stop_string *s = &m->strings[i];
        s->matched = stop_step(s, s->matched, c);
        *hold = s->matched > *hold ? s->matched : *hold;
        if (s->matched == s->len && s->len > found_len) {
            found = (int)i;
            found_len = s->len;
        }
    }
    if (found >= 0)
        *hold = found_len;
    return found;
}

int stop_feed(struct stop_matcher *m, const char *p, size_t n, size_t *release)
{
    size_t hold = 0;
    *release = 0;
    if (m->complete >= 0)
        return m->complete;
    for (size_t i = 0; i < n && m->complete < 0; i++) {
        m->complete = stop_feed_byte(m, (unsigned char)p[i], &hold);
        m->held++;
    }
    if (n == 0)
        return -1;
    *release = m->held - hold;
    m->held = hold;
    return m->complete;
}
