/* JSON in and out. In: strict reading of request bodies. Out: a writer over struct buf.
 *
 *     json_t *o = decode_object(body, n, &e);            (400 with the place of a syntax error)
 *     rc = decode_int(o, "max_tokens", 0, MAX, &v, &e);  (400 with error.param = "max_tokens")
 *
 *     struct jw w = {&buf};
 *     jw_object(&w, NULL); jw_string(&w, "object", "list"); jw_end_object(&w);
 *
 * What a body must be: one object in UTF-8, no key twice, at most DECODE_DEPTH levels, no number
 * that does not fit a double or an int64. Fields that are not known are ignored; null is as if
 * absent; a known field of a wrong type is an error. An integer may be written with a fraction of
 * zero (3.0, 1e3): JSON has one kind of number, and some clients write every number so.
 *
 * Limits: what the caller reads is bounded by the body's size. Threads: one at a time; a json_t
 * never leaves its thread. Ownership: decoded strings belong to the json_t; arrays are the
 * caller's. */
#ifndef API_JSON_H
#define API_JSON_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define DECODE_DEPTH 32

/* NULL and e, or the object: json_decref it. */
json_t *decode_object(const char *body, size_t bytes, struct err *e);

/* Each leaves *v as it was where the field is absent or null. 0 or ERR_INVALID. */
int decode_bool(const json_t *o, const char *key, bool *v, struct err *e);
int decode_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *v,
               struct err *e);
int decode_number(const json_t *o, const char *key, double min, double max, float *v,
                  struct err *e);
/* Any text; it may hold NUL. */
int decode_text(const json_t *o, const char *key, const char **v, size_t *bytes, struct err *e);
/* A word with no NUL, as names are. */
int decode_word(const json_t *o, const char *key, const char **v, struct err *e);
/* Base64 (RFC 4648, padded; line breaks are looked past) as bytes [*n], malloc'd; NULL and 0 where the
 * field is absent. ERR_NOMEM too. */
int decode_base64(const json_t *o, const char *key, void **out, size_t *n, struct err *e);
/* Token ids below n_vocab into ids [*n], malloc'd (never NULL after success). */
int decode_token_ids(const json_t *array, const char *param, uint32_t n_vocab, uint32_t **ids,
                     size_t *n, struct err *e);
/* The field, or NULL where it is absent or null. */
json_t *decode_field(const json_t *o, const char *key);

/* Is it a whole number in [min, max]? */
bool decode_whole(const json_t *v, int64_t min, int64_t max, int64_t *out);

/* The length of the valid UTF-8 character at p (of n bytes), 1 to 4; 0 if there is none. */
size_t utf8_char(const unsigned char *p, size_t n);
bool utf8_valid(const char *p, size_t n);

/* ---- the writer: commas by itself; key NULL inside arrays and at the top ---- */

struct jw {
    struct buf *b;
    bool comma;
};

void jw_object(struct jw *w, const char *key);
void jw_end_object(struct jw *w);
void jw_array(struct jw *w, const char *key);
void jw_end_array(struct jw *w);
void jw_text(struct jw *w, const char *key, const char *p, size_t bytes);
void jw_string(struct jw *w, const char *key, const char *s); /* NULL is written null */
void jw_int(struct jw *w, const char *key, int64_t v);
void jw_uint(struct jw *w, const char *key, uint64_t v);
/* Nine digits; what is not finite is written null. */
void jw_number(struct jw *w, const char *key, double v);
void jw_bool(struct jw *w, const char *key, bool v);
void jw_null(struct jw *w, const char *key);
/* Base64 (RFC 4648, padded) of any bytes. */
void jw_base64(struct jw *w, const char *key, const void *p, size_t bytes);
/* JSON text as it is. */
void jw_raw(struct jw *w, const char *key, const char *json, size_t bytes);

/* A quoted string: control characters escaped, bytes that are not UTF-8 written as U+FFFD. */
void json_quote(struct buf *b, const char *p, size_t bytes);

/* {"error": {...}}; request_id: NULL, or what error.request_id says */
void json_error_body(struct buf *b, const struct err *e, const char *request_id);

#endif
