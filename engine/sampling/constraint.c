#include "engine/sampling/constraint.h"

#include "engine/sampling/matcher.h"

#include <stdlib.h>
#include <string.h>

struct constraint *constraint_new(const struct json_schema *schema, struct err *e)
{
    struct constraint *c = calloc(1, sizeof *c);
    if (!c) {
        err_set(e, ERR_NOMEM, "no memory for a constraint");
        return NULL;
    }
    c->schema = schema;
    readings_begin(schema, &c->now);
    return c;
}

struct constraint *constraint_clone(const struct constraint *c)
{
    struct constraint *copy = calloc(1, sizeof *copy);
    if (!copy)
        return NULL;
    copy->schema = c->schema;
    readings_copy(&copy->now, &c->now);
    return copy;
}

void constraint_free(struct constraint *c)
{
    free(c);
}

bool constraint_accept(struct constraint *c, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) {
        bool alive = readings_step(c->schema, &c->now, p[i], &c->next);
        readings_copy(&c->now, &c->next);
        if (!alive)
            return false;
    }
    return c->now.n > 0;
}

bool constraint_is_complete(const struct constraint *c)
{
    return readings_complete(c->schema, &c->now);
}

bool constraint_is_final(const struct constraint *c)
{
    return constraint_is_complete(c) && !readings_may_grow(c->schema, &c->now);
}
