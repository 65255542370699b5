/* A compiled JSON schema, as json_schema.c makes it and constraint.c walks it: nodes that refer to
 * each other by index, so that recursion is a cycle. Inside engine/sampling. */
#ifndef ENGINE_SCHEMA_PROGRAM_H
#define ENGINE_SCHEMA_PROGRAM_H

#include "engine/sampling/json_schema.h"
#include "engine/sampling/pattern.h"

#include <stdbool.h>
#include <stdint.h>

#define NODE_FALSE 0u /* no value */
#define NODE_TRUE  1u /* any value */

#define HEIGHT_NONE 255 /* no value that keeps within JSON_MAX_DEPTH */
#define NO_MAXIMUM  UINT32_MAX
/* Integers have at most 18 digits. */
#define INTEGER_LIMIT INT64_C(999999999999999999)

/* The kinds of values that a node takes, as bits. */
enum {
    TYPE_NULL = 1,
    TYPE_FALSE = 2,
    TYPE_TRUE = 4,
    TYPE_INTEGER = 8,
    TYPE_NUMBER = 16, /* integers as well */
    TYPE_STRING = 32,
    TYPE_ARRAY = 64,
    TYPE_OBJECT = 128,
    TYPE_LITERAL = 256, /* one of the spellings in literals */
    TYPE_ANY = 255
};

/* Byte strings in ascending order (memcmp's, the shorter first), each once, with a NUL behind it. */
struct literal_set {
    struct literal {
        const char *p;
        uint32_t len;
    } * at;
    uint32_t n;
};

struct schema_node {
    uint16_t types;
    uint8_t height; /* arrays and objects inside each other in its flattest value */
    bool is_any_of; /* one of alternatives instead of all that follows */
    struct {
        uint32_t min, max;      /* code points */
        struct literal_set set; /* n > 0: one of these instead */
        struct pattern *pattern;
    } string;
    int64_t lo, hi; /* TYPE_INTEGER without TYPE_NUMBER */
    struct literal_set literals;
    struct {
        uint8_t height;
        uint32_t min, max; /* items */
        uint32_t *prefix;  /* [n_prefix] nodes */
        uint32_t n_prefix;
        uint32_t rest; /* node of the items behind the prefix */
    } array;
    struct {
        uint8_t height;
        struct literal_set names;
        uint32_t *value;      /* [names.n] nodes */
        uint64_t required[2]; /* bit i: names.at[i] */
        uint32_t other;       /* node of the values under other names */
    } object;
    uint32_t *alternative; /* [n_alternatives], none of them is_any_of once compiled */
    uint32_t n_alternatives;
};

struct json_schema {
    struct schema_node *node; /* NODE_FALSE, NODE_TRUE, ... */
    uint32_t n;
    uint32_t root;
};

static inline bool property_bit(const uint64_t bits[2], uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* The node of item i. */
static inline uint32_t array_item(const struct schema_node *n, uint32_t i)
{
    return i < n->array.n_prefix ? n->array.prefix[i] : n->array.rest;
}

/* Sets the heights and clears the types that no value can have, once all nodes are there. */
void schema_measure(struct json_schema *s);
/* Puts for every alternative that is itself an anyOf those of it. ERR_INVALID: too many. ERR_NOMEM.
 */
int schema_flatten(struct json_schema *s, struct err *e);
/* Copies NUL-terminated strings [n], which are sorted on the way; out->at is one block, to free. 0,
 * ERR_NOMEM. */
int literal_set_build(const char **strings, size_t n, struct literal_set *out);
/* A node that takes any value. */
struct schema_node schema_any(void);
/* Room for one node more; ERR_NOMEM, or ERR_TOO_LARGE at JSON_SCHEMA_MAX_NODES. */
int schema_add_node(struct json_schema *s, uint32_t *index);

#endif
