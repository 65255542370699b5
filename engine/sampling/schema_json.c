#include "engine/sampling/schema_json.h"

#include <stdbool.h>
#include <stdlib.h>

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One step of a JSON pointer in a URI fragment: ~0 ~1 %XX undone. The bytes used, 0 if it is wrong
 * or longer than out. */
static size_t pointer_step(const char *p, char *out, size_t cap)
{
    size_t i = 0, n = 0;
    while (p[i] && p[i] != '/' && n + 1 < cap) {
        char ch = p[i++];
        if (ch == '~' && (p[i] == '0' || p[i] == '1')) {
            ch = p[i++] == '0' ? '~' : '/';
        } else if (ch == '%') {
            int high = hex_value(p[i]), low = high < 0 ? -1 : hex_value(p[i + 1]);
            if (low < 0)
                return 0;
            ch = (char)(high << 4 | low);
            i += 2;
        }
        out[n++] = ch;
    }
    out[n] = 0;
    return p[i] && p[i] != '/' ? 0 : i;
}

const json_t *schema_resolve(const json_t *root, const char *ref)
{
    const json_t *at = root;
    char step[256];
    if (*ref++ != '#')
        return NULL;
    while (at && *ref == '/') {
        size_t n = pointer_step(++ref, step, sizeof step);
        if (n == 0)
            return NULL;
        ref += n;
        if (json_is_array(at)) {
            char *end;
            unsigned long i = strtoul(step, &end, 10);
            at = *step < '0' || *step > '9' || *end ? NULL : json_array_get(at, i);
        } else {
            at = json_object_get(at, step);
        }
    }
    return *ref ? NULL : at;
}

char *schema_spell(const json_t *v)
{
    for (size_t precision = 1; precision <= 17; precision++) {
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(precision));
        json_t *back = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        bool same = json_equal(v, back), failed = !back;
        json_decref(back);
        if (same)
            return text;
        free(text);
        if (failed)
            return NULL;
    }
    return NULL;
}
