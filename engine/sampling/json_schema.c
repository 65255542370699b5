#include "engine/sampling/json_schema.h"

#include "daemon/base/mem.h"
#include "engine/sampling/schema_json.h"
#include "engine/sampling/schema_program.h"
#include "engine/tokenizer/tokenizer.h"

#include <jansson.h>
#include <math.h>

#define MAX_REFS 32  /* $ref to $ref to ... */
#define MAX_PATH 120 /* bytes of a place in an error */

/* A subschema that became a node. */
struct source {
    const json_t *json;
    uint32_t parent;  /* node */
    const char *key;  /* under which the parent holds it (NULL: the root) ... */
    int64_t index;    /* ... and at which place in that list, -1 if it is none */
    const char *name; /* ... or under which name in that object, or NULL */
};

struct compiler {
    struct json_schema *s;
    const json_t *root;
    struct source *source; /* [JSON_SCHEMA_MAX_NODES] */
    struct err *e;
};

/* --- errors --- */

static void path_add(char *path, size_t *n, const char *text)
{
    size_t len = strnlen(text, 30);
    if (len > MAX_PATH - 1 - *n)
        len = MAX_PATH - 1 - *n;
    len = utf8_whole_prefix(text, len);
    memcpy(path + *n, text, len);
    *n += len;
    path[*n] = 0;
}

/* "#/properties/a/items": where node i stands; only the nearest steps of a long way. */
static void node_path(const struct compiler *c, uint32_t i, char path[MAX_PATH])
{
    uint32_t way[4], n_way = 0;
    size_t n = 0;
    while (c->source[i].key && n_way < sizeof way / sizeof way[0]) {
        way[n_way++] = i;
        i = c->source[i].parent;
    }
    path_add(path, &n, c->source[i].key ? "..." : "#");
    while (n_way > 0) {
        const struct source *from = &c->source[way[--n_way]];
        char index[24] = "";
        if (from->index >= 0)
            snprintf(index, sizeof index, "%lld", (long long)from->index);
        path_add(path, &n, "/");
        path_add(path, &n, from->key);
        if (from->name || *index)
            path_add(path, &n, "/");
        path_add(path, &n, from->name ? from->name : index);
    }
}

static int refuse(struct compiler *c, uint32_t at, const char *keyword, const char *why)
{
    char path[MAX_PATH], name[32];
    size_t n = utf8_whole_prefix(keyword, strnlen(keyword, sizeof name - 1));
    memcpy(name, keyword, n);
    name[n] = 0;
    node_path(c, at, path);
    return err_set_param(c->e, ERR_INVALID, "response_format", "json_schema: \"%s\" at %s: %s",
                         name, path, why);
}

static int no_memory(struct compiler *c)
{
    return err_set(c->e, ERR_NOMEM, "no memory for a JSON schema");
}

/* --- subschemas and references --- */

enum { NOTE = 1, TYPE = 2, ENUM = 4, ANY_OF = 8, REF = 16, RULE = 32 };

static unsigned keyword_kind(const char *name)
{
    static const struct {
        const char *name;
        unsigned kind;
    } keywords[] = {
        {"$comment", NOTE},
        {"$defs", NOTE},
        {"$ref", REF},
        {"$schema", NOTE},
        {"additionalProperties", RULE},
        {"anyOf", ANY_OF},
        {"const", ENUM},
        {"default", NOTE},
        {"definitions", NOTE},
        {"description", NOTE},
        {"enum", ENUM},
        {"examples", NOTE},
        {"exclusiveMaximum", RULE},
        {"exclusiveMinimum", RULE},
        {"items", RULE},
        {"maxItems", RULE},
        {"maxLength", RULE},
        {"maximum", RULE},
        {"minItems", RULE},
        {"minLength", RULE},
        {"minimum", RULE},
        {"oneOf", ANY_OF},
        {"pattern", RULE},
        {"prefixItems", RULE},
        {"properties", RULE},
        {"required", RULE},
        {"title", NOTE},
        {"type", TYPE},
    };
    for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++)
        if (strcmp(keywords[i].name, name) == 0)
            return keywords[i].kind;
    return 0;
}

/* The kinds of the keywords of o, or the refusal of one that is not supported; `at` and `key` tell
 * where o stands. */
static int read_kinds(struct compiler *c, const json_t *o, uint32_t at, unsigned *kinds)
{
    const char *name;
    json_t *value;
    *kinds = 0;
    json_object_foreach((json_t *)o, name, value)
    {
        unsigned kind = keyword_kind(name);
        if (!kind)
            return refuse(c, at, name, "this keyword is not supported");
        *kinds |= kind;
    }
    return 0;
}

/* Follows $ref from *json; what stands beside it is checked. */
static int follow_refs(struct compiler *c, const struct source *from, const json_t **json)
{
    for (int hops = 0; json_is_object(*json); hops++) {
        const json_t *ref = json_object_get(*json, "$ref");
        unsigned kinds;
        if (!ref)
            return 0;
        if (hops == MAX_REFS)
            return refuse(c, from->parent, "$ref",
                          "it refers to itself, or through too many others");
        int rc = read_kinds(c, *json, from->parent, &kinds);
        if (rc < 0)
            return rc;
        if (kinds & ~(unsigned)(REF | NOTE))
            return refuse(c, from->parent, "$ref", "it stands beside annotations only");
        *json = json_is_string(ref) ? schema_resolve(c->root, json_string_value(ref)) : NULL;
        if (!*json)
            return refuse(c, from->parent, "$ref",
                          "it must be \"#\" or \"#/...\" and lead to a part of this schema");
    }
    return 0;
}

/* The node of a subschema; a new one is compiled later, in its turn. */
static int node_of(struct compiler *c, struct source from, uint32_t *out)
{
    int rc = follow_refs(c, &from, &from.json);
    if (rc < 0)
        return rc;
    if (json_is_boolean(from.json)) {
        *out = json_is_true(from.json) ? NODE_TRUE : NODE_FALSE;
        return 0;
    }
    if (!json_is_object(from.json))
        return refuse(c, from.parent, from.key ? from.key : "schema",
                      "a schema is wanted: an object, true or false");
    for (uint32_t i = 2; i < c->s->n; i++)
        if (c->source[i].json == from.json) {
            *out = i;
            return 0;
        }
    rc = schema_add_node(c->s, out);
    if (rc == ERR_TOO_LARGE)
        return err_set_param(c->e, ERR_INVALID, "response_format",
                             "json_schema: more than %d schemas inside it", JSON_SCHEMA_MAX_NODES);
    if (rc < 0)
        return no_memory(c);
    c->source[*out] = from;
    return 0;
}

/* --- keywords --- */

static unsigned type_bits(const char *name)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {
        {"null", TYPE_NULL},       {"boolean", TYPE_FALSE | TYPE_TRUE},
        {"integer", TYPE_INTEGER}, {"number", TYPE_INTEGER | TYPE_NUMBER},
        {"string", TYPE_STRING},   {"array", TYPE_ARRAY},
        {"object", TYPE_OBJECT},
    };
    for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].bits;
    return 0;
}

static int read_type(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *v = json_object_get(c->source[at].json, "type");
    unsigned bits = type_bits(json_string_value(v)), one = 1;
    if (!v)
        return 0;
    for (size_t i = 0; one && i < json_array_size(v); i++) {
        one = type_bits(json_string_value(json_array_get(v, i)));
        bits |= one;
    }
    if (!bits || !one)
        return refuse(
            c, at, "type",
            "want null, boolean, integer, number, string, array, object or a list of them");
    n->types = (uint16_t)bits;
    return 0;
}

/* A number of things, 0 or more; *out stays if the keyword is absent. */
static int read_count(struct compiler *c, uint32_t at, const char *keyword, uint32_t *out)
{
    const json_t *v = json_object_get(c->source[at].json, keyword);
    if (!v)
        return 0;
    json_int_t x = json_is_integer(v) ? json_integer_value(v) : -1;
    if (x < 0)
        return refuse(c, at, keyword, "want an integer, 0 or more");
    *out = x < (json_int_t)NO_MAXIMUM ? (uint32_t)x : NO_MAXIMUM - 1;
    return 0;
}

static int64_t clamp(double x)
{
    double limit = (double)INTEGER_LIMIT; /* 1e18 exactly: one more than INTEGER_LIMIT */
    return x >= limit ? INTEGER_LIMIT + 1 : x <= -limit ? -INTEGER_LIMIT - 1 : (int64_t)x;
}

/* The least (sign 1) or, negated, the largest (sign -1) integer that a bound leaves; *out stays if
 * the keyword is absent. */
static int read_bound(struct compiler *c, uint32_t at, const struct schema_node *n,
                      const char *keyword, int sign, int64_t *out)
{
    const json_t *v = json_object_get(c->source[at].json, keyword);
    bool exclusive = keyword[0] == 'e';
    if (!v)
        return 0;
    if (!json_is_number(v))
        return refuse(c, at, keyword, "want a number");
    if (n->types & TYPE_NUMBER)
        return refuse(c, at, keyword, "it is supported for \"type\": \"integer\" only");
    int64_t bound;
    if (json_is_integer(v)) {
        json_int_t x = json_integer_value(v);
        x = x > INTEGER_LIMIT ? INTEGER_LIMIT + 1 : x < -INTEGER_LIMIT ? -INTEGER_LIMIT - 1 : x;
        bound = sign * x + exclusive;
    } else {
        double x = sign * json_real_value(v);
        bound = clamp(exclusive ? floor(x) + 1 : ceil(x));
    }
    if (bound > *out)
        *out = bound;
    return 0;
}

static int read_integer(struct compiler *c, uint32_t at, struct schema_node *n)
{
    int64_t least = -INTEGER_LIMIT, most = -INTEGER_LIMIT; /* most: negated */
    int rc = read_bound(c, at, n, "minimum", 1, &least);
    rc = rc < 0 ? rc : read_bound(c, at, n, "exclusiveMinimum", 1, &least);
    rc = rc < 0 ? rc : read_bound(c, at, n, "maximum", -1, &most);
    rc = rc < 0 ? rc : read_bound(c, at, n, "exclusiveMaximum", -1, &most);
    n->lo = least;
    n->hi = -most;
    return rc;
}

static int read_string(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *o = c->source[at].json, *pattern = json_object_get(o, "pattern");
    const char *why;
    int rc = read_count(c, at, "minLength", &n->string.min);
    rc = rc < 0 ? rc : read_count(c, at, "maxLength", &n->string.max);
    if (rc < 0 || !pattern)
        return rc;
    if (!json_is_string(pattern))
        return refuse(c, at, "pattern", "want a string");
    if (json_object_get(o, "minLength") || json_object_get(o, "maxLength"))
        return refuse(c, at, "pattern", "it does not stand beside minLength and maxLength");
    n->string.pattern = pattern_new(json_string_value(pattern), &why);
    if (!n->string.pattern)
        return why ? refuse(c, at, "pattern", why) : no_memory(c);
    return 0;
}

/* The node under a keyword that holds one schema; *out stays if it is absent. */
static int read_schema(struct compiler *c, uint32_t at, const char *keyword, uint32_t *out)
{
    const json_t *v = json_object_get(c->source[at].json, keyword);
    struct source from = {v, at, keyword, -1, NULL};
    return v ? node_of(c, from, out) : 0;
}

/* The nodes of a list of 1..max schemas, allocated; nothing if the keyword is absent. */
static int read_schemas(struct compiler *c, uint32_t at, const char *keyword, size_t max,
                        uint32_t **nodes, uint32_t *n)
{
    const json_t *v = json_object_get(c->source[at].json, keyword);
    size_t size = json_array_size(v);
    int rc = 0;
    if (!v)
        return 0;
    if (size < 1 || size > max)
        return refuse(c, at, keyword, "want a list of schemas, not empty and not too long");
    *nodes = calloc(size, sizeof **nodes);
    if (!*nodes)
        return no_memory(c);
    for (size_t i = 0; rc == 0 && i < size; i++) {
        struct source from = {json_array_get(v, i), at, keyword, (int64_t)i, NULL};
        rc = node_of(c, from, &(*nodes)[i]);
    }
    *n = (uint32_t)size;
    return rc;
}

static int read_array(struct compiler *c, uint32_t at, struct schema_node *n)
{
    int rc = read_count(c, at, "minItems", &n->array.min);
    rc = rc < 0 ? rc : read_count(c, at, "maxItems", &n->array.max);
    rc = rc < 0 ? rc
                : read_schemas(c, at, "prefixItems", JSON_SCHEMA_MAX_PREFIX, &n->array.prefix,
                               &n->array.n_prefix);
    return rc < 0 ? rc : read_schema(c, at, "items", &n->array.rest);
}

/* The names in "properties" and "required" into names, *n of them. */
static int read_names(struct compiler *c, uint32_t at, const char **names, size_t *n)
{
    const json_t *o = c->source[at].json, *required = json_object_get(o, "required");
    json_t *properties = json_object_get(o, "properties"), *value;
    const char *name;
    if (properties && !json_is_object(properties))
        return refuse(c, at, "properties", "want an object");
    if (required && !json_is_array(required))
        return refuse(c, at, "required", "want a list of strings");
    if (json_object_size(properties) + json_array_size(required) > 2 * JSON_SCHEMA_MAX_PROPERTIES)
        return refuse(c, at, "properties", "there are too many properties");
    json_object_foreach(properties, name, value) names[(*n)++] = name;
    for (size_t i = 0; i < json_array_size(required); i++) {
        name = json_string_value(json_array_get(required, i));
        if (!name)
            return refuse(c, at, "required", "want a list of strings");
        if (!json_object_get(properties, name))
            names[(*n)++] = name;
    }
    return 0;
}

static int read_properties(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *properties = json_object_get(c->source[at].json, "properties");
    n->object.value = calloc(n->object.names.n + 1, sizeof *n->object.value);
    if (!n->object.value)
        return no_memory(c);
    for (uint32_t i = 0; i < n->object.names.n; i++) {
        const char *name = n->object.names.at[i].p;
        struct source from = {json_object_get(properties, name), at, "properties", -1, name};
        n->object.value[i] = n->object.other;
        int rc = from.json ? node_of(c, from, &n->object.value[i]) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void require(struct schema_node *n, const char *name)
{
    for (uint32_t i = 0; i < n->object.names.n; i++)
        if (strcmp(n->object.names.at[i].p, name) == 0)
            n->object.required[i / 64] |= UINT64_C(1) << i % 64;
}

static int read_object(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *required = json_object_get(c->source[at].json, "required");
    const char *names[2 * JSON_SCHEMA_MAX_PROPERTIES];
    size_t n_names = 0;
    int rc = read_schema(c, at, "additionalProperties", &n->object.other);
    rc = rc < 0 ? rc : read_names(c, at, names, &n_names);
    if (rc < 0)
        return rc;
    if (literal_set_build(names, n_names, &n->object.names) < 0)
        return no_memory(c);
    if (n->object.names.n > JSON_SCHEMA_MAX_PROPERTIES)
        return refuse(c, at, "properties", "there are too many properties");
    for (size_t i = 0; i < json_array_size(required); i++)
        require(n, json_string_value(json_array_get(required, i)));
    return read_properties(c, at, n);
}

/* --- enum --- */

static unsigned value_type(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
        return TYPE_NULL;
    case JSON_TRUE:
        return TYPE_TRUE;
    case JSON_FALSE:
        return TYPE_FALSE;
    case JSON_INTEGER:
        return TYPE_INTEGER;
    case JSON_REAL:
        return TYPE_NUMBER;
    case JSON_STRING:
        return TYPE_STRING;
    case JSON_ARRAY:
        return TYPE_ARRAY;
    default:
        return TYPE_OBJECT;
    }
}

/* The values [size] of an enum that n's types leave. */
static int read_values(struct compiler *c, json_t *const *values, size_t size,
                       struct schema_node *n)
{
    const char **strings = calloc(size, sizeof *strings);
    char **spellings = calloc(size, sizeof *spellings);
    size_t n_strings = 0, n_spellings = 0;
    unsigned types = 0;
    int rc = strings && spellings ? 0 : ERR_NOMEM;
    for (size_t i = 0; rc == 0 && i < size; i++) {
        unsigned type = value_type(values[i]);
        if (!(n->types & type))
            continue;
        if (type & (TYPE_NULL | TYPE_TRUE | TYPE_FALSE)) {
            types |= type;
        } else if (type == TYPE_STRING) {
            types |= type;
            strings[n_strings++] = json_string_value(values[i]);
        } else {
            types |= TYPE_LITERAL;
            spellings[n_spellings] = schema_spell(values[i]);
            rc = spellings[n_spellings++] ? 0 : ERR_NOMEM;
        }
    }
    n->types = (uint16_t)types;
    if (rc == 0)
        rc = literal_set_build(strings, n_strings, &n->string.set);
    if (rc == 0)
        rc = literal_set_build((const char **)spellings, n_spellings, &n->literals);
    for (size_t i = 0; spellings && i < size; i++)
        free(spellings[i]);
    free(spellings);
    free(strings);
    return rc < 0 ? no_memory(c) : 0;
}

static int read_enum(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *o = c->source[at].json, *list = json_object_get(o, "enum");
    json_t *only = json_object_get(o, "const");
    json_t *values[JSON_SCHEMA_MAX_ENUM];
    size_t size = only ? 1 : json_array_size(list);
    if (only && list)
        return refuse(c, at, "const", "it does not stand beside enum");
    if (size < 1 || size > JSON_SCHEMA_MAX_ENUM)
        return refuse(c, at, "enum", "want a list of values, not empty and not too long");
    for (size_t i = 0; i < size; i++)
        values[i] = only ? only : json_array_get(list, i);
    return read_values(c, values, size, n);
}

/* --- the whole --- */

static int read_any_of(struct compiler *c, uint32_t at, struct schema_node *n)
{
    const json_t *o = c->source[at].json;
    const char *keyword = json_object_get(o, "anyOf") ? "anyOf" : "oneOf";
    if (json_object_get(o, "anyOf") && json_object_get(o, "oneOf"))
        return refuse(c, at, "oneOf", "it does not stand beside anyOf");
    n->types = 0;
    n->is_any_of = true;
    return read_schemas(c, at, keyword, JSON_SCHEMA_MAX_ALTERNATIVES, &n->alternative,
                        &n->n_alternatives);
}

static int read_node(struct compiler *c, uint32_t at, struct schema_node *n)
{
    unsigned kinds;
    int rc = read_kinds(c, c->source[at].json, at, &kinds);
    if (rc < 0)
        return rc;
    if (kinds & ANY_OF) {
        if (kinds & ~(unsigned)(ANY_OF | NOTE))
            return refuse(c, at, "anyOf", "it and oneOf stand beside annotations only");
        return read_any_of(c, at, n);
    }
    if ((rc = read_type(c, at, n)) < 0)
        return rc;
    if (kinds & ENUM) {
        if (kinds & ~(unsigned)(ENUM | TYPE | NOTE))
            return refuse(c, at, "enum", "it and const stand beside \"type\" and annotations only");
        return read_enum(c, at, n);
    }
    rc = read_integer(c, at, n);
    rc = rc < 0 ? rc : read_string(c, at, n);
    rc = rc < 0 ? rc : read_array(c, at, n);
    return rc < 0 ? rc : read_object(c, at, n);
}

/* Nodes are added while nodes are read, so a node is built aside; an unfinished one is kept too,
 * for json_schema_free. */
static int read_nodes(struct compiler *c)
{
    struct source from = {c->root, 0, NULL, -1, NULL};
    uint32_t reserved;
    int rc = schema_add_node(c->s, &reserved); /* NODE_FALSE */
    rc = rc < 0 ? rc : schema_add_node(c->s, &reserved);
    if (rc < 0)
        return no_memory(c);
    c->s->node[NODE_TRUE] = schema_any();
    rc = node_of(c, from, &c->s->root);
    for (uint32_t i = 2; rc == 0 && i < c->s->n; i++) {
        struct schema_node n = schema_any();
        rc = read_node(c, i, &n);
        c->s->node[i] = n;
    }
    return rc;
}

static int compile(struct compiler *c)
{
    int rc = read_nodes(c);
    rc = rc < 0 ? rc : schema_flatten(c->s, c->e);
    if (rc < 0)
        return rc;
    schema_measure(c->s);
    if (c->s->node[c->s->root].height == HEIGHT_NONE)
        return err_set_param(c->e, ERR_INVALID, "response_format",
                             "json_schema: no document of at most %d nested arrays and objects "
                             "satisfies it",
                             JSON_MAX_DEPTH);
    return 0;
}

int json_schema_compile(const char *text, size_t n, struct json_schema **out, struct err *e)
{
    struct compiler c = {.e = e};
    json_error_t je = {.line = 0};
    json_t *root = NULL;
    int rc;
    *out = NULL;
    if (n > JSON_SCHEMA_MAX_TEXT)
        return err_set_param(e, ERR_INVALID, "response_format",
                             "json_schema: %zu bytes, want at most %d", n, JSON_SCHEMA_MAX_TEXT);
    root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (!root && json_error_code(&je) != json_error_out_of_memory) {
        rc = err_set_param(e, ERR_INVALID, "response_format",
                           "json_schema: line %d column %d: not the JSON that is wanted", je.line,
                           je.column);
        goto out;
    }
    c.root = root;
    c.s = calloc(1, sizeof *c.s);
    c.source = calloc(JSON_SCHEMA_MAX_NODES, sizeof *c.source);
    rc = root && c.s && c.source ? compile(&c) : no_memory(&c);
out:
    json_decref(root);
    free(c.source);
    if (rc < 0)
        json_schema_free(c.s);
    else
        *out = c.s;
    return rc;
}
