/* What the compiler of schemas asks of jansson's values beside their members. Needs jansson.h: inside
 * engine/sampling, for json_schema.c. */
#ifndef ENGINE_SCHEMA_JSON_H
#define ENGINE_SCHEMA_JSON_H

#include <jansson.h>

/* Where a "$ref" of "#" or "#/..." (a JSON pointer, RFC 6901, as a URI fragment) leads inside root;
 * NULL if nowhere. Borrowed from root. */
const json_t *schema_resolve(const json_t *root, const char *ref);
/* The shortest spelling without spaces that reads as v; free it. NULL: no memory. */
char *schema_spell(const json_t *v);

#endif
