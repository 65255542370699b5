/* /v1/datasets: labelled texts to train on. */
#include "api/items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES ((size_t)4 << 20) /* of one text */

/* ---- the answer ---- */

static void write_value(struct jw *w, const json_t *meta, const char *key)
{
    char *text = json_dumps(json_object_get(meta, key), JSON_COMPACT | JSON_ENCODE_ANY);
    if (text)
        jw_raw(w, key, text, strlen(text));
    else
        jw_null(w, key);
    free(text);
}

static void write_fields(struct jw *w, const struct item_info *i, const void *data, size_t bytes)
{
    static const char *const keys[] = {"texts", "bytes", "labels", "baked"};
    json_t *meta = i->meta ? json_loads(i->meta, 0, NULL) : NULL;
    (void)data;
    (void)bytes;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        write_value(w, meta, keys[k]);
    json_decref(meta);
}

const struct item_resource items_datasets = {"dataset", false, write_fields};

/* ---- texts ---- */

/* A name without control characters, which are what lines and fields are told apart by. */
static int check_word(const char *key, const char *s, size_t n, size_t most, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return err_set_param(e, ERR_INVALID, key, "%s holds a control character", key);
    return n <= most ? 0
                     : err_set_param(e, ERR_INVALID, key, "%s is longer than %zu bytes", key, most);
}

/* "a", or "a/b": a fine style of a. */
static int check_label(const char *s, struct err *e)
{
    const char *slash = strchr(s, '/');
    int rc = check_word("label", s, strlen(s), DATASET_LABEL, e);
    if (rc == 0 && (!*s || (slash && (slash == s || !slash[1] || strchr(slash + 1, '/')))))
        rc = err_set_param(e, ERR_INVALID, "label", "label is neither \"name\" nor \"name/style\"");
    return rc;
}

static int add_text(struct buf *to, const char *label, const char *document, const char *text,
                    size_t n, struct err *e)
{
    int rc = check_label(label, e);
    if (rc == 0)
        rc = check_word("document", document, strlen(document), DATASET_DOCUMENT, e);
    if (rc == 0 && (!n || n > LINE_MAX_BYTES))
        rc = err_set_param(e, ERR_INVALID, "text", "text is not of 1 to %zu bytes", LINE_MAX_BYTES);
    if (rc == 0 && memchr(text, 0, n))
        rc = err_set_param(e, ERR_INVALID, "text", "text holds a NUL");
    if (rc < 0)
        return rc;
    buf_append(to, label, strlen(label) + 1);
    buf_append(to, document, strlen(document) + 1);
    buf_append(to, text, n);
    buf_append(to, "", 1);
    return to->failed ? err_set(e, ERR_NOMEM, "no memory for a request") : 0;
}

/* What the query says of all texts of a body. */
struct common {
    char label[3 * DATASET_LABEL], document[3 * DATASET_DOCUMENT];
    bool labelled;
};

static int decode_query(struct req *r, struct common *c, struct err *e)
{
    bool found;
    if (req_query(r, "label", c->label, sizeof c->label, &c->labelled, e) < 0 ||
        req_query(r, "document", c->document, sizeof c->document, &found, e) < 0)
        return e->code;
    if (!found)
        c->document[0] = 0;
    if (!utf8_valid(c->label, c->labelled ? strlen(c->label) : 0))
        return err_set_param(e, ERR_INVALID, "label", "label is not UTF-8");
    int rc = c->labelled ? check_label(c->label, e) : 0;
    return rc < 0 ? rc
                  : check_word("document", c->document, strlen(c->document), DATASET_DOCUMENT, e);
}

static int decode_line(const char *line, size_t n, const struct common *c, struct buf *to,
                       struct err *e)
{
    const char *label = c->labelled ? c->label : NULL, *document = c->document, *text = NULL;
    size_t n_text = 0;
    json_t *o = decode_object(line, n, e);
    int rc = o ? decode_word(o, "label", &label, e) : e->code;
    if (rc == 0)
        rc = decode_word(o, "document", &document, e);
    if (rc == 0)
        rc = decode_text(o, "text", &text, &n_text, e);
    if (rc == 0 && !label)
        rc = err_set_param(e, ERR_INVALID, "label", "label is missing");
    if (rc == 0 && !text)
        rc = err_set_param(e, ERR_INVALID, "text", "text is missing");
    if (rc == 0)
        rc = add_text(to, label, document, text, n_text, e);
    json_decref(o);
    return rc;
}

/* One object a line; empty lines are passed over. */
static int decode_lines(const struct buf *body, const struct common *c, struct buf *to,
                        struct err *e)
{
    size_t number = 1;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < body->len; number++) {
        const char *line = body->data + at, *end = memchr(line, '\n', body->len - at);
        size_t n = end ? (size_t)(end - line) : body->len - at;
        at += n + 1;
        if (n && line[n - 1] == '\r')
            n--;
        if (n && (rc = decode_line(line, n, c, to, e)) < 0)
            err_prefix(e, "line %zu", number);
    }
    return rc;
}

static int decode_plain(const struct buf *body, const struct common *c, struct buf *to,
                        struct err *e)
{
    if (!c->labelled)
        return err_set_param(e, ERR_INVALID, "label",
                             "label is missing: of a text/plain body it stands in the query");
    if (!utf8_valid(body->data, body->len))
        return err_set(e, ERR_INVALID, "the text is not UTF-8");
    return add_text(to, c->label, c->document, body->data, body->len, e);
}

static int decode_append(struct req *r, struct item_call *to, struct err *e)
{
    struct common c;
    const char *type = req_header(r, "Content-Type");
    bool plain = type && !strncasecmp(type, "text/plain", 10);
    struct buf texts;
    if (type && !plain && !strcasestr(type, "json"))
        return err_set(e, ERR_MEDIA_TYPE,
                       "the body is application/jsonl (a JSON object a line) or text/plain");
    buf_init(&texts, r->max_body + ((size_t)1 << 20));
    int rc = decode_query(r, &c, e);
    if (rc == 0)
        rc = plain ? decode_plain(&r->body, &c, &texts, e) : decode_lines(&r->body, &c, &texts, e);
    if (rc == 0 && !texts.len)
        rc = err_set(e, ERR_INVALID, "the body has no text in it");
    if (rc == 0) {
        req_keep_count(r);
        to->data = buf_take(&texts, &to->data_bytes);
    }
    buf_fini(&texts);
    return rc;
}

/* ---- requests ---- */

static int finish_append(struct req *r, struct err *e)
{
    (void)e;
    return items_finish_one(r, items_call_of(r)->made ? 201 : 200);
}

int handle_dataset_append(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_append, NULL, false};
    struct item_call *c = items_call(r, ITEM_DATASET, ITEM_PUT, e);
    if (!c)
        return e->code;
    int rc = (c->name = strdup(r->params[0])) ? decode_append(r, c, e)
                                              : err_set(e, ERR_NOMEM, "no memory for a request");
    return items_submit(r, c, &task, rc, e);
}

int handle_dataset_get(struct req *r, struct err *e)
{
    return items_get(r, ITEM_DATASET, e);
}

int handle_dataset_delete(struct req *r, struct err *e)
{
    return items_delete(r, ITEM_DATASET, e);
}

int handle_dataset_list(struct req *r, struct err *e)
{
    return items_list(r, ITEM_DATASET, e);
}
