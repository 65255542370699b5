/* Making and freeing of errands; no engine, no store. */
#include "daemon/errand.h"
#include "daemon/service_impl.h"

#include <stdlib.h>

static void *new_errand(size_t bytes, enum errand_kind kind, void (*free_fn)(struct call *c))
{
    struct errand *c = calloc(1, bytes);
    if (!c || call_init(&c->call, free_fn) < 0) {
        free(c);
        return NULL;
    }
    c->kind = kind;
    return c;
}

static void refs_free(char **refs, size_t n)
{
    for (size_t i = 0; refs && i < n; i++)
        free(refs[i]);
    free(refs);
}

static void edit_free(struct call *call)
{
    struct state_edit *c = (struct state_edit *)(void *)call;
    for (size_t i = 0; c->ops && i < c->n_ops; i++) {
        struct edit_op *op = &c->ops[i];
        refs_free(op->with, op->n_with);
        refs_free(op->minus, op->n_minus);
        free(op->layers);
        free(op->heads);
    }
    free(c->ops);
    free(c->ops_json);
    free(c->state);
    free(c->name);
    free(c->write.key);
    free(c->change.description);
    free(c->change.tags);
    if (c->saved)
        state_info_fini(c->saved);
    free(c->saved);
    free(c);
}

struct state_edit *state_edit_new(void)
{
    return new_errand(sizeof(struct state_edit), ERRAND_EDIT, edit_free);
}

static void comparison_free(struct call *call)
{
    struct state_comparison *c = (struct state_comparison *)(void *)call;
    free(c->a);
    free(c->b);
    free(c->layers);
    free(c->blocks);
    free(c);
}

struct state_comparison *state_comparison_new(void)
{
    return new_errand(sizeof(struct state_comparison), ERRAND_COMPARE, comparison_free);
}

static void projection_free(struct call *call)
{
    struct state_projection *c = (struct state_projection *)(void *)call;
    for (size_t i = 0; c->points && i < c->n_points; i++) {
        free(c->points[i].ref);
        free(c->points[i].label);
    }
    free(c->points);
    refs_free(c->refs, c->n_refs);
    free(c->tag);
    free(c->prefix);
    free(c->label_prefix);
    free(c->select.layers);
    free(c->select.heads);
    free(c->title);
    free(c->data);
    free(c);
}

struct state_projection *state_projection_new(void)
{
    return new_errand(sizeof(struct state_projection), ERRAND_PROJECT, projection_free);
}

static void neighbors_free(struct call *call)
{
    struct state_neighbors *c = (struct state_neighbors *)(void *)call;
    for (size_t i = 0; c->found && i < c->n_found; i++)
        free(c->found[i].ref);
    free(c->found);
    free(c->ref);
    free(c->tag);
    free(c->prefix);
    free(c);
}

struct state_neighbors *state_neighbors_new(void)
{
    return new_errand(sizeof(struct state_neighbors), ERRAND_NEIGHBORS, neighbors_free);
}
