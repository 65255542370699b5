#include "daemon/chat_template.h"

#include <string.h>

/* Copies one value, up to an unescaped ',' or ';', into out [size]; the place behind it, or NULL if
 * it is empty or too long. */
static const char *take_value(const char *p, char *out, size_t size)
{
    size_t n = 0;
    for (; *p && *p != ',' && *p != ';'; p++) {
        char c = *p;
        if (c == '\\' && p[1]) {
            c = *++p;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        if (n + 1 >= size)
            return NULL;
        out[n++] = c;
    }
    out[n] = 0;
    return n ? p : NULL;
}

/* "KEY=VALUE" at p; the place behind it, or NULL. */
static const char *take_pair(const char *p, struct chat_template *t)
{
    const struct {
        const char *key;
        char *value;
        size_t size;
    } fields[] = {
        {"system", t->system, sizeof t->system},
        {"user", t->user, sizeof t->user},
        {"assistant", t->assistant, sizeof t->assistant},
        {"tool", t->tool, sizeof t->tool},
        {"colon", t->colon, sizeof t->colon},
        {"separator", t->separator, sizeof t->separator},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        size_t n = strlen(fields[i].key);
        if (!strncmp(p, fields[i].key, n) && p[n] == '=')
            return take_value(p + n + 1, fields[i].value, fields[i].size);
    }
    return NULL;
}

int chat_template_parse(const char *spec, const char *model, struct chat_template *out,
                        struct err *e)
{
    const char *p = spec ? spec : "";
    *out = CHAT_TEMPLATE_WORLD;
    while (*p) {
        struct chat_template others = CHAT_TEMPLATE_WORLD, *to = out;
        size_t n = strcspn(p, ":=,;");
        if (p[n] == ':') {
            if (n != strlen(model) || strncmp(p, model, n) != 0)
                to = &others; /* read, and not used */
            p += n + 1;
        }
        while (p && (p = take_pair(p, to)) && *p == ',')
            p++;
        if (!p)
            return err_set(e, ERR_INVALID,
                           "--chat-template: want [MODEL:]KEY=VALUE,...;... with the keys system, "
                           "user, assistant, tool, colon, separator and short values");
        p += *p == ';';
    }
    return 0;
}
