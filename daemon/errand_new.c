/* Making and freeing of errands; no engine, no store. */
#include "daemon/items.h"
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

static void texts_free(struct token_list *texts, size_t n)
{
    for (size_t i = 0; texts && i < n; i++)
        free(texts[i].ids);
    free(texts);
}

static void mix_fini(struct mix *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->parts[i].name);
        free(m->parts[i].label);
        free(m->parts[i].text.ids);
    }
    free(m->parts);
}

static void diffusion_fini(struct diffusion *d)
{
    free(d->diffuser);
    mix_fini(&d->condition);
    mix_fini(&d->negative);
    mix_fini(&d->source);
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
        if (op->diffusion)
            diffusion_fini(op->diffusion);
        free(op->diffusion);
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

static void item_free(struct call *call)
{
    struct item_call *c = (struct item_call *)(void *)call;
    for (size_t i = 0; c->items && i < c->n_items; i++)
        free(c->items[i].meta);
    free(c->items);
    texts_free(c->texts, c->n_texts);
    adjustment_unref(c->adjustment);
    free(c->name);
    free(c->after);
    free(c->meta);
    free(c->data);
    free(c);
}

struct item_call *item_call_new(enum item_kind kind, enum item_op op)
{
    struct item_call *c = new_errand(sizeof *c, ERRAND_ITEM, item_free);
    if (c) {
        c->kind = kind;
        c->op = op;
    }
    return c;
}

static void generation_free(struct call *call)
{
    struct state_generation *c = (struct state_generation *)(void *)call;
    for (size_t i = 0; c->saved && i < c->n_states; i++)
        state_info_fini(&c->saved[i]);
    free(c->saved);
    diffusion_fini(&c->diffusion);
    free(c->name);
    free(c->params_json);
    free(c->write.key);
    free(c->change.description);
    free(c->change.tags);
    free(c);
}

struct state_generation *state_generation_new(void)
{
    return new_errand(sizeof(struct state_generation), ERRAND_GENERATE, generation_free);
}
