/* The states of a constraint: the readings of a document so far, side by side. Inside
 * engine/sampling. */
#ifndef ENGINE_MATCHER_H
#define ENGINE_MATCHER_H

#include "engine/sampling/constraint.h"
#include "engine/sampling/json_text.h"

/* An array or object that is open. */
struct frame {
    uint32_t node;
    uint32_t is_object;
    uint32_t count; /* items begun, as far as it matters */
    uint32_t pad;
    uint64_t seen[2]; /* properties read: bit i of object.names */
};

/* Where a number stands. */
struct number_state {
    uint8_t step;
    uint8_t digits; /* in this part of it */
    uint8_t negative;
    uint8_t pad[5];
    int64_t value; /* of an integer, without its sign */
};

/* One reading. Compared as bytes: what is not in use is zero, and there is no padding. */
struct reading {
    uint8_t mode;
    uint8_t depth; /* frames */
    uint8_t space; /* bytes of white space in a row */
    uint8_t word;  /* true, false, null: which */
    uint32_t node; /* of the value that is wanted or being read */
    struct text_state text;
    struct number_state number;
    struct frame frame[JSON_MAX_DEPTH];
};

struct readings {
    uint32_t n;
    struct reading at[CONSTRAINT_MAX_READINGS];
};

void readings_begin(const struct json_schema *s, struct readings *out);
void readings_copy(struct readings *out, const struct readings *in);
/* The readings after byte c; false if there are none. */
bool readings_step(const struct json_schema *s, const struct readings *in, unsigned char c,
                   struct readings *out);
bool readings_complete(const struct json_schema *s, const struct readings *in);
/* Whether some byte may come next. */
bool readings_may_grow(const struct json_schema *s, const struct readings *in);
/* Whether any n whole characters without quotes, backslashes and controls may follow. */
bool readings_free(const struct json_schema *s, const struct readings *in, size_t n);

struct constraint {
    const struct json_schema *schema;
    struct readings now, next; /* next: scratch */
};

#endif
