#include "api/messages.h"

#include <stdio.h>
#include <string.h>

/* The message in hand, for errors. */
struct place {
    size_t i;
    char param[48];
};

static const char *at(struct place *p, const char *what)
{
    snprintf(p->param, sizeof p->param, "messages[%zu]%s", p->i, what);
    return p->param;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Without outer white space, line ends as LF, no empty lines. */
static void append_text(struct buf *out, const char *p, size_t n)
{
    while (n && is_space(p[0]))
        p++, n--;
    while (n && is_space(p[n - 1]))
        n--;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '\n' && p[i] != '\r') {
            buf_append(out, p + i, 1);
            continue;
        }
        /* To the last line end before the next character that is not white space. */
        for (size_t k = i; is_space(p[k]); k++)
            i = p[k] == '\n' || p[k] == '\r' ? k : i;
        buf_append(out, "\n", 1);
    }
}

/* One part of a content array, a piece of text. */
static int append_part(struct buf *raw, const json_t *part, struct place *where, struct err *e)
{
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
    if (!json_is_string(type))
        return err_set_param(e, ERR_INVALID, at(where, ".content"),
                             "a part of a message is not an object with a type");
    if (strcmp(json_string_value(type), "text") != 0)
        return err_set_param(e, ERR_INVALID, at(where, ".content"),
                             "parts of type '%.40s' are not supported: this model reads text",
                             json_string_value(type));
    if (!json_is_string(text))
        return err_set_param(e, ERR_INVALID, at(where, ".content"), "a text part has no text");
    buf_append(raw, json_string_value(text), json_string_length(text));
    return 0;
}

/* The content of a message into raw: a string, or parts. The assistant's may be null. */
static int read_content(struct buf *raw, const json_t *m, bool assistant, struct place *where,
                        struct err *e)
{
    const json_t *v = json_object_get(m, "content");
    size_t i;
    json_t *part;
    if (json_is_string(v))
        return buf_append(raw, json_string_value(v), json_string_length(v));
    if (assistant && (!v || json_is_null(v)))
        return 0;
    if (!json_is_array(v))
        return err_set_param(e, ERR_INVALID, at(where, ".content"),
                             "the content of a message is not a string or an array of parts");
    json_array_foreach(v, i, part)
    {
        if (append_part(raw, part, where, e) < 0)
            return e->code;
    }
    return 0;
}

void messages_roles(const struct chat_template *t, struct messages_role out[MESSAGES_ROLES])
{
    const struct messages_role roles[MESSAGES_ROLES] = {{"system", t->system},
                                                        {"developer", t->system},
                                                        {"user", t->user},
                                                        {"assistant", t->assistant},
                                                        {"tool", t->tool}};
    memcpy(out, roles, sizeof roles);
}

/* What the template calls the role; NULL and e. */
static const char *role_name(const struct chat_template *t, const json_t *m, struct place *where,
                             struct err *e)
{
    struct messages_role roles[MESSAGES_ROLES];
    messages_roles(t, roles);
    const char *role = json_string_value(json_object_get(m, "role"));
    for (size_t i = 0; role && i < MESSAGES_ROLES; i++)
        if (!strcmp(role, roles[i].role))
            return roles[i].name;
    err_set_param(e, ERR_INVALID, at(where, ".role"),
                  "the role of a message is not one of system, developer, user, assistant, tool");
    return NULL;
}

static int check_name(const json_t *m, struct place *where, struct err *e)
{
    const json_t *name = json_object_get(m, "name");
    return !name || json_is_null(name) || json_is_string(name)
               ? 0
               : err_set_param(e, ERR_INVALID, at(where, ".name"), "name is not a string");
}

static int render_one(const json_t *m, const struct chat_template *t, struct place *where,
                      struct buf *out, struct err *e)
{
    struct buf raw;
    if (!json_is_object(m))
        return err_set_param(e, ERR_INVALID, at(where, ""), "a message is not an object");
    const char *name = role_name(t, m, where, e);
    if (!name || check_name(m, where, e) < 0)
        return e->code;
    buf_init(&raw, MESSAGES_LIMIT);
    int rc = read_content(&raw, m, name == t->assistant, where, e);
    size_t before = out->len;
    buf_printf(out, "%s%s ", name, t->colon);
    size_t begin = out->len;
    append_text(out, raw.data ? raw.data : "", raw.len);
    if (out->len == begin && !out->failed && out->len > before)
        out->len--; /* nothing was said: no space behind the colon */
    if (raw.failed)
        rc = err_set(e, ERR_NOMEM, "no memory for a message");
    buf_fini(&raw);
    return rc;
}

int messages_render(const json_t *messages, const struct chat_template *t, struct messages_how how,
                    struct buf *out, bool *continued, struct err *e)
{
    size_t n = json_array_size(messages);
    struct place where = {0};
    *continued = false;
    if (!json_is_array(messages) || !n)
        return err_set_param(e, ERR_INVALID, "messages",
                             "messages is not an array of at least one message");
    const char *last = json_string_value(json_object_get(json_array_get(messages, n - 1), "role"));
    *continued = how.answer && last && !strcmp(last, "assistant");
    for (; where.i < n; where.i++) {
        if (where.i || how.follows)
            buf_puts(out, t->separator);
        if (render_one(json_array_get(messages, where.i), t, &where, out, e) < 0)
            return e->code;
    }
    if (how.answer && !*continued)
        buf_printf(out, "%s%s%s", t->separator, t->assistant, t->colon);
    return out->failed ? err_set_param(e, ERR_TOO_LARGE, "messages",
                                       "the messages are too long to be read as one text")
                       : 0;
}
