#include "engine/sampling/schema_program.h"

#include "daemon/base/mem.h"

struct schema_node schema_any(void)
{
    struct schema_node n = {.types = TYPE_ANY, .lo = -INTEGER_LIMIT, .hi = INTEGER_LIMIT};
    n.string.max = NO_MAXIMUM;
    n.array.max = NO_MAXIMUM;
    n.array.rest = NODE_TRUE;
    n.object.other = NODE_TRUE;
    return n;
}

int schema_add_node(struct json_schema *s, uint32_t *index)
{
    if (s->n == JSON_SCHEMA_MAX_NODES)
        return ERR_TOO_LARGE;
    if ((s->n & (s->n - 1)) == 0) { /* a power of two: as many are allocated */
        size_t cap = s->n ? 2 * (size_t)s->n : 1;
        struct schema_node *node = realloc(s->node, cap * sizeof *node);
        if (!node)
            return ERR_NOMEM;
        s->node = node;
    }
    memset(&s->node[s->n], 0, sizeof *s->node);
    *index = s->n++;
    return 0;
}

static void free_node(struct schema_node *n)
{
    free(n->string.set.at);
    pattern_free(n->string.pattern);
    free(n->literals.at);
    free(n->array.prefix);
    free(n->object.names.at);
    free(n->object.value);
    free(n->alternative);
}

void json_schema_free(struct json_schema *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n; i++)
        free_node(&s->node[i]);
    free(s->node);
    free(s);
}

struct json_schema *json_schema_new_object(struct err *e)
{
    struct json_schema *s = calloc(1, sizeof *s);
    for (uint32_t i = 0, at; s && i < 3; i++)
        if (schema_add_node(s, &at) < 0) {
            json_schema_free(s);
            s = NULL;
        }
    if (!s) {
        err_set(e, ERR_NOMEM, "no memory for a JSON schema");
        return NULL;
    }
    s->node[NODE_TRUE] = schema_any();
    s->root = 2;
    s->node[2] = schema_any();
    s->node[2].types = TYPE_OBJECT;
    schema_measure(s);
    return s;
}

/* --- sets of strings --- */

static int string_order(const void *pa, const void *pb)
{
    return strcmp(*(const char *const *)pa, *(const char *const *)pb);
}

int literal_set_build(const char **strings, size_t n, struct literal_set *out)
{
    size_t bytes = 0, kept = 0;
    if (n == 0)
        return 0;
    qsort(strings, n, sizeof *strings, string_order);
    for (size_t i = 0; i < n; i++)
        bytes += strlen(strings[i]) + 1;
    out->at = malloc(n * sizeof *out->at + bytes); /* the bytes behind the table */
    if (!out->at)
        return ERR_NOMEM;
    char *p = (char *)(out->at + n);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(strings[i], strings[i - 1]) == 0)
            continue;
        size_t len = strlen(strings[i]);
        memcpy(p, strings[i], len + 1);
        out->at[kept++] = (struct literal){p, (uint32_t)len};
        p += len + 1;
    }
    out->n = (uint32_t)kept;
    return 0;
}

/* --- heights --- */

static uint8_t around(uint8_t height)
{
    return height < JSON_MAX_DEPTH ? (uint8_t)(height + 1) : HEIGHT_NONE;
}

static uint8_t higher(uint8_t a, uint8_t b)
{
    return a > b ? a : b;
}

static uint8_t array_height(const struct json_schema *s, const struct schema_node *n)
{
    uint8_t inside = 0;
    if (n->array.min > n->array.max)
        return HEIGHT_NONE;
    /* Behind the prefix all items are of one node: one of them is enough. */
    for (uint32_t i = 0; i < n->array.min && i <= n->array.n_prefix; i++)
        inside = higher(inside, s->node[array_item(n, i)].height);
    return around(inside);
}

static uint8_t object_height(const struct json_schema *s, const struct schema_node *n)
{
    uint8_t inside = 0;
    for (uint32_t i = 0; i < n->object.names.n; i++)
        if (property_bit(n->object.required, i))
            inside = higher(inside, s->node[n->object.value[i]].height);
    return around(inside);
}

/* The node's height from what is known of the others; false if it stays. */
static bool measure_node(struct json_schema *s, struct schema_node *n)
{
    uint8_t before = n->height;
    if (n->types & ~(TYPE_ARRAY | TYPE_OBJECT))
        n->height = 0;
    if (n->types & TYPE_ARRAY) {
        n->array.height = array_height(s, n);
        n->height = n->array.height < n->height ? n->array.height : n->height;
    }
    if (n->types & TYPE_OBJECT) {
        n->object.height = object_height(s, n);
        n->height = n->object.height < n->height ? n->object.height : n->height;
    }
    for (uint32_t i = 0; i < n->n_alternatives; i++) {
        uint8_t height = s->node[n->alternative[i]].height;
        n->height = height < n->height ? height : n->height;
    }
    return n->height != before;
}

static void drop_impossible(struct schema_node *n)
{
    struct pattern_state begin = {.matches = true};
    if (n->string.pattern)
        begin = pattern_begin(n->string.pattern);
    if (n->string.min > n->string.max || pattern_is_dead(&begin))
        n->types &= (uint16_t)~TYPE_STRING;
    if (!(n->types & TYPE_NUMBER) && n->lo > n->hi)
        n->types &= (uint16_t)~TYPE_INTEGER;
}

/* Heights only fall, from "none", until nothing changes: the least fixed point. */
void schema_measure(struct json_schema *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        drop_impossible(&s->node[i]);
        s->node[i].height = HEIGHT_NONE;
    }
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = s->n; i-- > 0;)
            more |= measure_node(s, &s->node[i]);
    }
}

/* --- anyOf in anyOf --- */

/* Collects into list the alternatives of node i that are no anyOf; seen [s->n] tells where it was.
 */
static int collect(const struct json_schema *s, uint32_t i, bool *seen, uint32_t *stack,
                   uint32_t *list, uint32_t *n_list)
{
    uint32_t n_stack = 0;
    stack[n_stack++] = i;
    seen[i] = true;
    while (n_stack > 0) {
        const struct schema_node *n = &s->node[stack[--n_stack]];
        if (!n->is_any_of) {
            if (*n_list == JSON_SCHEMA_MAX_ALTERNATIVES)
                return ERR_TOO_LARGE;
            list[(*n_list)++] = stack[n_stack];
            continue;
        }
        for (uint32_t k = n->n_alternatives; k-- > 0;)
            if (!seen[n->alternative[k]]) {
                seen[n->alternative[k]] = true;
                stack[n_stack++] = n->alternative[k];
            }
    }
    return 0;
}

int schema_flatten(struct json_schema *s, struct err *e)
{
    uint32_t **lists = calloc(s->n, sizeof *lists), *count = calloc(s->n, sizeof *count);
    bool *seen = calloc(s->n, sizeof *seen);
    uint32_t *stack = calloc(s->n, sizeof *stack);
    int rc = lists && count && seen && stack ? 0 : ERR_NOMEM;
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        if (!s->node[i].is_any_of)
            continue;
        memset(seen, 0, s->n * sizeof *seen);
        lists[i] = calloc(JSON_SCHEMA_MAX_ALTERNATIVES, sizeof *lists[i]);
        rc = lists[i] ? collect(s, i, seen, stack, lists[i], &count[i]) : ERR_NOMEM;
    }
    for (uint32_t i = 0; lists && i < s->n; i++) {
        if (rc < 0) {
            free(lists[i]);
        } else if (lists[i]) {
            free(s->node[i].alternative);
            s->node[i].alternative = lists[i];
            s->node[i].n_alternatives = count[i];
        }
    }
    free(lists);
    free(count);
    free(seen);
    free(stack);
    if (rc == ERR_TOO_LARGE)
        return err_set_param(e, ERR_INVALID, "response_format",
                             "json_schema: an anyOf has more than %d alternatives",
                             JSON_SCHEMA_MAX_ALTERNATIVES);
    return rc < 0 ? err_set(e, rc, "no memory for a JSON schema") : 0;
}
