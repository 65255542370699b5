/* JSON schemas compiled for constrained decoding: which documents response_format allows.
 *
 *     struct json_schema *schema;
 *     if (json_schema_compile(text, n, &schema, &e) < 0) ...; // 400: e names the keyword and where
 *     struct constraint *c = constraint_new(schema, &e);      // constraint.h
 *     ...
 *     json_schema_free(schema);
 *
 * Keywords (JSON Schema 2020-12); any other one is refused, with its name and place:
 *
 *     type                      one of the seven, or a list of them
 *     enum, const               beside "type" only. Strings may be spelt with any escapes; other
 *                               values have one spelling, the shortest without spaces
 *     anyOf, oneOf              oneOf is taken as anyOf; beside annotations only
 *     $ref                      "#" or "#/..." in the same schema, recursion allowed; beside
 *                               annotations only
 *     properties, required      any order of the keys, each declared key at most once
 *     additionalProperties      true, false or a schema; such a key may come again (the last
 * counts) items, prefixItems, minItems, maxItems minLength, maxLength      in code points pattern
 * the regular subset that pattern.h lists; not beside minLength and maxLength minimum, maximum,
 * exclusiveMinimum, exclusiveMaximum    of integers ("type": "integer") only $defs, definitions
 * looked at when a $ref leads there title, description, default, examples, $schema, $comment
 * ignored
 *
 * What the documents are beside that, so that all of them end and every parser takes them: at most
 * JSON_MAX_DEPTH arrays and objects inside each other; at most JSON_MAX_SPACE bytes of white space
 * in a row, none behind the end; numbers of at most 18 digits before and after the point and 2 in
 * the exponent; integers without point and exponent; strings in valid UTF-8 without NUL, escaped
 * surrogates only in pairs.
 *
 * Limits of a schema, refused beyond: JSON_SCHEMA_MAX_* below. A schema that no document satisfies
 * is refused as well.
 *
 * jansson parses the schema; no json_t is kept or crosses this header. Threads: immutable once
 * compiled, shared freely. Ownership: the caller frees, after the constraints made of it. */
#ifndef ENGINE_JSON_SCHEMA_H
#define ENGINE_JSON_SCHEMA_H

#include "daemon/base/err.h"

#include <stddef.h>

#define JSON_MAX_DEPTH 32
#define JSON_MAX_SPACE 32

#define JSON_SCHEMA_MAX_TEXT         (256 * 1024) /* bytes */
#define JSON_SCHEMA_MAX_NODES        2048         /* schemas and subschemas that are reached */
#define JSON_SCHEMA_MAX_PROPERTIES   128          /* of one object, "required" included */
#define JSON_SCHEMA_MAX_ENUM         1024
#define JSON_SCHEMA_MAX_PREFIX       1024
#define JSON_SCHEMA_MAX_ALTERNATIVES 32 /* of anyOf, those of nested anyOf included */

struct json_schema;
/* Compiles text [n bytes]. ERR_INVALID with param "response_format", ERR_NOMEM. */
int json_schema_compile(const char *text, size_t n, struct json_schema **out, struct err *e)
    __attribute__((warn_unused_result));
/* The schema of response_format json_object: any object. NULL: no memory. */
struct json_schema *json_schema_new_object(struct err *e);
void json_schema_free(struct json_schema *s); /* NULL is fine */

#endif
