#include "daemon/schema.h"

#include <stdlib.h>

int schema_new(const char *text, size_t n, struct schema **out, struct err *e)
{
    struct schema *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "no memory for a schema");
    atomic_init(&s->refs, 1);
    int rc = 0;
    if (text)
        rc = json_schema_compile(text, n, &s->compiled, e);
    else if (!(s->compiled = json_schema_new_object(e)))
        rc = e->code;
    if (rc < 0)
        free(s);
    else
        *out = s;
    return rc;
}

void schema_ref(struct schema *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void schema_unref(struct schema *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    json_schema_free(s->compiled);
    free(s);
}
