/* Input: a JSON schema, a NUL byte, then bytes offered to its constraint. A schema is refused with an
 * error or compiled; of the bytes those are taken that may be, the others are left out. What is taken
 * must go on to a complete document, found by always closing what is open; that document and every
 * complete beginning is JSON. */
#include "daemon/base/assert.h"
#include "engine/sampling/constraint.h"

#include <jansson.h>
#include <string.h>

#define MAX_DOCUMENT 2048
#define MAX_SCHEMA   4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_json(const char *p, size_t n)
{
    json_t *v = json_loadb(p, n, JSON_DECODE_ANY, NULL);
    json_decref(v);
    return v != NULL;
}

/* Takes the byte if it may come next: *c becomes its successor. */
static bool offer(struct constraint **c, char byte)
{
    struct constraint *next = constraint_clone(*c);
    if (next && constraint_accept(next, &byte, 1)) {
        constraint_free(*c);
        *c = next;
        return true;
    }
    constraint_free(next);
    return false;
}

/* Some byte that may come next, those first that end a value. */
static bool offer_any(struct constraint **c, char *taken)
{
    static const char first[] = "\"]},:0a";
    for (size_t i = 0; i < sizeof first - 1; i++)
        if (offer(c, *taken = first[i]))
            return true;
    for (int b = 0; b < 256; b++)
        if (offer(c, *taken = (char)b))
            return true;
    return false;
}

static void drive(const struct json_schema *schema, const uint8_t *p, size_t n)
{
    char out[MAX_DOCUMENT];
    size_t len = 0;
    struct constraint *c = constraint_new(schema, NULL);
    ASSERT(c);
    for (size_t i = 0; i < n && len < MAX_DOCUMENT / 2; i++)
        if (offer(&c, (char)p[i]))
            out[len++] = (char)p[i];
    ASSERT(!constraint_is_complete(c) || is_json(out, len));
    while (len < MAX_DOCUMENT && !constraint_is_complete(c)) {
        bool more = offer_any(&c, &out[len]);
        ASSERT(more);
        len++;
    }
    ASSERT(!constraint_is_complete(c) || is_json(out, len));
    constraint_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *split = size ? memchr(data, 0, size) : NULL;
    size_t n = split ? (size_t)(split - data) : size;
    struct json_schema *schema = NULL;
    struct err e = {0};
    int rc = json_schema_compile((const char *)data, n < MAX_SCHEMA ? n : MAX_SCHEMA, &schema, &e);
    ASSERT((rc == 0) == (schema != NULL));
    ASSERT(rc == 0 || (rc == e.code && e.msg[0]));
    if (schema)
        drive(schema, split ? split + 1 : data, split ? size - n - 1 : size);
    json_schema_free(schema);
    return 0;
}
