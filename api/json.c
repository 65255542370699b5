#include "api/json.h"

#include <math.h>
#include <nettle/base64.h>
#include <stdlib.h>
#include <string.h>

/* ---- in ---- */

/* The deepest nesting of brackets outside strings; jansson recurses on each. */
static size_t nesting(const char *p, size_t n)
{
    size_t depth = 0, deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                quoted = false;
        } else if (p[i] == '"') {
            quoted = true;
        } else if (p[i] == '{' || p[i] == '[') {
            if (++depth > deepest)
                deepest = depth;
        } else if ((p[i] == '}' || p[i] == ']') && depth) {
            depth--;
        }
    }
    return deepest;
}

json_t *decode_object(const char *body, size_t bytes, struct err *e)
{
    if (!bytes) {
        err_set(e, ERR_INVALID, "the request body is empty: a JSON object is wanted");
        return NULL;
    }
    if (nesting(body, bytes) > DECODE_DEPTH) {
        err_set(e, ERR_INVALID, "the request body nests deeper than %d levels", DECODE_DEPTH);
        return NULL;
    }
    json_error_t at;
    json_t *o = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
    if (!o) {
        bool memory = json_error_code(&at) == json_error_out_of_memory;
        err_set(e, memory ? ERR_NOMEM : ERR_INVALID,
                "the request body is not valid JSON: %s (line %d, column %d)", at.text, at.line,
                at.column);
        return NULL;
    }
    if (!json_is_object(o)) {
        json_decref(o);
        err_set(e, ERR_INVALID, "the request body is not a JSON object");
        return NULL;
    }
    return o;
}

json_t *decode_field(const json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static const char *kind(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static int wrong_kind(const char *key, const json_t *v, const char *wanted, struct err *e)
{
    return err_set_param(e, ERR_INVALID, key, "%s is %s: %s is wanted", key, kind(v), wanted);
}

int decode_bool(const json_t *o, const char *key, bool *v, struct err *e)
{
    const json_t *f = decode_field(o, key);
    if (!f)
        return 0;
    if (!json_is_boolean(f))
        return wrong_kind(key, f, "true or false", e);
    *v = json_is_true(f);
    return 0;
}

bool decode_whole(const json_t *v, int64_t min, int64_t max, int64_t *out)
{
    int64_t x;
    if (json_is_integer(v)) {
        x = json_integer_value(v);
    } else if (json_is_real(v)) {
        double d = json_real_value(v);
        if (d != floor(d) || fabs(d) > 9007199254740992.0)
            return false;
        x = (int64_t)d;
    } else {
        return false;
    }
    *out = x;
    return x >= min && x <= max;
}

int decode_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *v,
               struct err *e)
{
    const json_t *f = decode_field(o, key);
    int64_t x;
    if (!f)
        return 0;
    if (!json_is_number(f))
        return wrong_kind(key, f, "an integer", e);
    if (!decode_whole(f, min, max, &x))
        return err_set_param(e, ERR_INVALID, key, "%s is not an integer from %lld to %lld", key,
                             (long long)min, (long long)max);
    *v = x;
    return 0;
}

int decode_number(const json_t *o, const char *key, double min, double max, float *v, struct err *e)
{
    const json_t *f = decode_field(o, key);
    if (!f)
        return 0;
    if (!json_is_number(f))
        return wrong_kind(key, f, "a number", e);
    double x = json_number_value(f);
    if (!(x >= min && x <= max))
        return err_set_param(e, ERR_INVALID, key, "%s is %g: a number from %g to %g is wanted", key,
                             x, min, max);
    *v = (float)x;
    return 0;
}

int decode_text(const json_t *o, const char *key, const char **v, size_t *bytes, struct err *e)
{
    const json_t *f = decode_field(o, key);
    if (!f)
        return 0;
    if (!json_is_string(f))
        return wrong_kind(key, f, "a string", e);
    *v = json_string_value(f);
    *bytes = json_string_length(f);
    return 0;
}

int decode_word(const json_t *o, const char *key, const char **v, struct err *e)
{
    const char *s = NULL;
    size_t bytes = 0;
    int rc = decode_text(o, key, &s, &bytes, e);
    if (rc < 0 || !s)
        return rc;
    if (strlen(s) != bytes)
        return err_set_param(e, ERR_INVALID, key, "%s holds a NUL character", key);
    *v = s;
    return 0;
}

int decode_base64(const json_t *o, const char *key, void **out, size_t *n, struct err *e)
{
    const char *text = NULL;
    size_t bytes = 0;
    struct base64_decode_ctx c;
    int rc = decode_text(o, key, &text, &bytes, e);
    if (rc < 0 || !text)
        return rc;
    uint8_t *p = malloc(BASE64_DECODE_LENGTH(bytes) + 1);
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes", bytes);
    base64_decode_init(&c);
    *n = BASE64_DECODE_LENGTH(bytes);
    if (!base64_decode_update(&c, n, p, bytes, text) || !base64_decode_final(&c)) {
        free(p);
        *n = 0;
        return err_set_param(e, ERR_INVALID, key, "%s is not base64", key);
    }
    *out = p;
    return 0;
}

int decode_token_ids(const json_t *array, const char *param, uint32_t n_vocab, uint32_t **ids,
                     size_t *n, struct err *e)
{
    if (!json_is_array(array))
        return wrong_kind(param, array, "an array of token ids", e);
    size_t count = json_array_size(array);
    uint32_t *out = calloc(count ? count : 1, sizeof *out);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for %zu token ids", count);
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        if (!decode_whole(json_array_get(array, i), 0, (int64_t)n_vocab - 1, &id)) {
            free(out);
            return err_set_param(e, ERR_INVALID, param,
                                 "%s[%zu] is not a token id: an integer from 0 to %lu is wanted",
                                 param, i, (unsigned long)n_vocab - 1);
        }
        out[i] = (uint32_t)id;
    }
    *ids = out;
    *n = count;
    return 0;
}

/* ---- UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF) ---- */

size_t utf8_char(const unsigned char *p, size_t n)
{
    static const unsigned char low[] = {0xc2, 0xe0, 0xe1, 0xed, 0xee, 0xf0, 0xf1, 0xf4};
    static const unsigned char second_min[] = {0x80, 0xa0, 0x80, 0x80, 0x80, 0x90, 0x80, 0x80};
    static const unsigned char second_max[] = {0xbf, 0xbf, 0xbf, 0x9f, 0xbf, 0xbf, 0xbf, 0x8f};
    if (!n)
        return 0;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4, row = sizeof low - 1;
    while (p[0] < low[row])
        row--;
    if (n < len || p[1] < second_min[row] || p[1] > second_max[row])
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

bool utf8_valid(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char((const unsigned char *)p + i, n - i);
        if (!len)
            return false;
        i += len;
    }
    return true;
}

/* ---- out ---- */

static void quote_ascii(struct buf *b, unsigned char c)
{
    static const char names[] = "btn?fr";
    if (c == '"' || c == '\\')
        buf_append(b, (char[]){'\\', (char)c}, 2);
    else if (c >= '\b' && c <= '\r' && c != '\v')
        buf_append(b, (char[]){'\\', names[c - '\b']}, 2);
    else if (c < 0x20 || c == 0x7f)
        buf_printf(b, "\\u%04x", c);
    else
        buf_append(b, &c, 1);
}

void json_quote(struct buf *b, const char *p, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)p;
    buf_append(b, "\"", 1);
    for (size_t i = 0; i < bytes;) {
        size_t plain = i;
        while (plain < bytes && s[plain] >= 0x20 && s[plain] < 0x7f && s[plain] != '"' &&
               s[plain] != '\\')
            plain++;
        if (plain > i) {
            buf_append(b, s + i, plain - i);
            i = plain;
            continue;
        }
        size_t len = utf8_char(s + i, bytes - i);
        if (len == 1)
            quote_ascii(b, s[i]);
        else if (len)
            buf_append(b, s + i, len);
        else
            buf_puts(b, "\xef\xbf\xbd");
        i += len ? len : 1;
    }
    buf_append(b, "\"", 1);
}

static void jw_key(struct jw *w, const char *key)
{
    if (w->comma)
        buf_append(w->b, ",", 1);
    w->comma = true;
    if (key) {
        json_quote(w->b, key, strlen(key));
        buf_append(w->b, ":", 1);
    }
}

void jw_object(struct jw *w, const char *key)
{
    jw_key(w, key);
    buf_append(w->b, "{", 1);
    w->comma = false;
}

void jw_end_object(struct jw *w)
{
    buf_append(w->b, "}", 1);
    w->comma = true;
}

void jw_array(struct jw *w, const char *key)
{
    jw_key(w, key);
    buf_append(w->b, "[", 1);
    w->comma = false;
}

void jw_end_array(struct jw *w)
{
    buf_append(w->b, "]", 1);
    w->comma = true;
}

void jw_text(struct jw *w, const char *key, const char *p, size_t bytes)
{
    jw_key(w, key);
    json_quote(w->b, p, bytes);
}

void jw_string(struct jw *w, const char *key, const char *s)
{
    if (s)
        jw_text(w, key, s, strlen(s));
    else
        jw_null(w, key);
}

void jw_int(struct jw *w, const char *key, int64_t v)
{
    jw_key(w, key);
    buf_printf(w->b, "%lld", (long long)v);
}

void jw_uint(struct jw *w, const char *key, uint64_t v)
{
    jw_key(w, key);
    buf_printf(w->b, "%llu", (unsigned long long)v);
}

void jw_number(struct jw *w, const char *key, double v)
{
    if (!isfinite(v)) {
        jw_null(w, key);
        return;
    }
    jw_key(w, key);
    buf_printf(w->b, "%.9g", v);
}

void jw_bool(struct jw *w, const char *key, bool v)
{
    jw_raw(w, key, v ? "true" : "false", v ? 4 : 5);
}

void jw_null(struct jw *w, const char *key)
{
    jw_raw(w, key, "null", 4);
}

void jw_raw(struct jw *w, const char *key, const char *json, size_t bytes)
{
    jw_key(w, key);
    buf_append(w->b, json, bytes);
}

void jw_base64(struct jw *w, const char *key, const void *p, size_t bytes)
{
    enum { PART = 3 * 1024 };
    char text[BASE64_ENCODE_RAW_LENGTH(PART)];
    const uint8_t *from = p;
    jw_key(w, key);
    buf_append(w->b, "\"", 1);
    for (size_t at = 0; at < bytes; at += PART) {
        size_t n = bytes - at < PART ? bytes - at : PART;
        base64_encode_raw(text, n, from + at);
        buf_append(w->b, text, BASE64_ENCODE_RAW_LENGTH(n));
    }
    buf_append(w->b, "\"", 1);
}

void json_error_body(struct buf *b, const struct err *e, const char *request_id)
{
    struct jw w = {b, false};
    jw_object(&w, NULL);
    jw_object(&w, "error");
    jw_string(&w, "message", e->msg);
    jw_string(&w, "type", err_type_name(e->code));
    jw_string(&w, "param", e->param[0] ? e->param : NULL);
    jw_string(&w, "code", err_code_name(e->code));
    if (request_id)
        jw_string(&w, "request_id", request_id);
    jw_end_object(&w);
    jw_end_object(&w);
}
