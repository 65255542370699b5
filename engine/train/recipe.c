#include "engine/train/recipe.h"

#include <float.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { UINT, REAL, TEXT };

/* One key of an object: where its value goes and what it may be. */
struct key {
    const char *name;
    enum kind kind;
    size_t at;        /* offset in the struct that is filled */
    double low, high; /* numbers; texts: size of the array in high */
    bool required;
};

#define K(type, name, member, kind, low, high, required)                                           \
    {                                                                                              \
        name, kind, offsetof(type, member), low, high, required                                    \
    }

static const struct key model_keys[] = {
    K(struct rwkv_shape, "n_layer", n_layer, UINT, 1, 512, true),
    K(struct rwkv_shape, "n_embd", n_embd, UINT, 16, 65536, true),
    K(struct rwkv_shape, "head_size", head_size, UINT, 16, 128, true),
    K(struct rwkv_shape, "n_ffn", n_ffn, UINT, 1, 1048576, false),
    K(struct rwkv_shape, "n_vocab", n_vocab, UINT, 2, 256, false),
    K(struct rwkv_shape, "rank_w", rank_w, UINT, 1, 65536, false),
    K(struct rwkv_shape, "rank_a", rank_a, UINT, 1, 65536, false),
    K(struct rwkv_shape, "rank_v", rank_v, UINT, 1, 65536, false),
    K(struct rwkv_shape, "rank_g", rank_g, UINT, 1, 65536, false),
};

static const struct key corpus_keys[] = {
    K(struct recipe_corpus, "name", name, TEXT, 0, 32, true),
    K(struct recipe_corpus, "path", path, TEXT, 0, RECIPE_PATH, true),
    K(struct recipe_corpus, "weight", weight, REAL, 0, 1e9, false),
};

static const struct key keys[] = {
    K(struct recipe, "init_from", init_from, TEXT, 0, RECIPE_PATH, false),
    K(struct recipe, "out", out, TEXT, 0, RECIPE_PATH, true),
    K(struct recipe, "products", products, TEXT, 0, 8, false),
    K(struct recipe, "seed", seed, UINT, 0, 9e15, false),
    K(struct recipe, "threads", threads, UINT, 1, 256, false),
    K(struct recipe, "sequence", sequence, UINT, 1, 65536, true),
    K(struct recipe, "batch", batch, UINT, 1, 65536, true),
    K(struct recipe, "steps", schedule.steps, UINT, 1, 1e12, true),
    K(struct recipe, "warmup", schedule.warmup, UINT, 0, 1e12, false),
    K(struct recipe, "lr", schedule.lr, REAL, 1e-12, 1e3, true),
    K(struct recipe, "lr_final", schedule.lr_final, REAL, 0, 1e3, false),
    K(struct recipe, "beta1", adamw.beta1, REAL, 0, 0.99999, false),
    K(struct recipe, "beta2", adamw.beta2, REAL, 0, 0.9999999, false),
    K(struct recipe, "eps", adamw.eps, REAL, 1e-30, 1, false),
    K(struct recipe, "weight_decay", adamw.weight_decay, REAL, 0, 1e3, false),
    K(struct recipe, "clip", adamw.clip, REAL, 0, 1e9, false),
    K(struct recipe, "carry", carry, REAL, 0, 1, false),
    K(struct recipe, "document_start", document_start, REAL, 0, 1, false),
    K(struct recipe, "eval_every", eval_every, UINT, 1, 1e12, false),
    K(struct recipe, "eval_bytes", eval_bytes, UINT, 1, 1e12, false),
    K(struct recipe, "checkpoint_every", checkpoint_every, UINT, 1, 1e12, false),
    K(struct recipe, "max_minutes", max_minutes, REAL, 0, 1e6, false),
};
#define N_KEYS(a) (sizeof(a) / sizeof *(a))

static int read_value(void *to, const struct key *k, const json_t *v, const char *where,
                      struct err *e)
{
    char *at = (char *)to + k->at;
    if (k->kind == TEXT) {
        const char *s = json_string_value(v);
        if (!s || !*s || strlen(s) >= (size_t)k->high || strlen(s) != json_string_length(v))
            return err_set(e, ERR_INVALID, "recipe: %s%s must be a text of 1 to %d bytes", where,
                           k->name, (int)k->high - 1);
        memcpy(at, s, strlen(s) + 1);
        return 0;
    }
    double x = json_number_value(v);
    if ((k->kind == UINT ? !json_is_integer(v) : !json_is_number(v)) || x < k->low || x > k->high)
        return err_set(e, ERR_INVALID, "recipe: %s%s must be %s from %g to %g", where, k->name,
                       k->kind == UINT ? "a whole number" : "a number", k->low, k->high);
    uint64_t u = (uint64_t)json_integer_value(v);
    if (k->kind == UINT)
        memcpy(at, &u, sizeof u);
    else
        memcpy(at, &x, sizeof x);
    return 0;
}

/* Fills `to` from an object by its table; keys in `others` (space-separated) are left to the
 * caller. */
static int read_object(void *to, const json_t *o, const struct key *table, size_t n,
                       const char *others, const char *where, struct err *e)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o))
        return err_set(e, ERR_INVALID, "recipe: %s must be an object", *where ? where : "the file");
    json_object_foreach((json_t *)o, name, v)
    {
        size_t i = 0;
        char padded[64];
        while (i < n && strcmp(table[i].name, name))
            i++;
        snprintf(padded, sizeof padded, " %s ", name);
        if (i < n) {
            int rc = read_value(to, &table[i], v, where, e);
            if (rc < 0)
                return rc;
        } else if (!strstr(others, padded)) {
            return err_set(e, ERR_INVALID, "recipe: unknown key %s%s", where, name);
        }
    }
    for (size_t i = 0; i < n; i++)
        if (table[i].required && !json_object_get(o, table[i].name))
            return err_set(e, ERR_INVALID, "recipe: %s%s is missing", where, table[i].name);
    return 0;
}

static int read_corpora(struct recipe_corpus *to, size_t *n, const json_t *list, const char *where,
                        struct err *e)
{
    char entry[48];
    *n = 0;
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > RECIPE_MAX_CORPORA)
        return err_set(e, ERR_INVALID, "recipe: %s must be a list of at most %d corpora", where,
                       RECIPE_MAX_CORPORA);
    for (; *n < json_array_size(list); (*n)++) {
        snprintf(entry, sizeof entry, "%s[%zu].", where, *n);
        to[*n].weight = 1;
        int rc = read_object(&to[*n], json_array_get(list, *n), corpus_keys, N_KEYS(corpus_keys),
                             "", entry, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int read_model(struct recipe *r, const json_t *v, struct err *e)
{
    struct rwkv_shape *s = &r->shape, given = {0};
    const char *path = json_string_value(v);
    if (path) {
        if (!*path || strlen(path) >= sizeof r->model)
            return err_set(e, ERR_INVALID, "recipe: model is no usable path");
        memcpy(r->model, path, strlen(path) + 1);
        return 0;
    }
    int rc = read_object(&given, v, model_keys, N_KEYS(model_keys), "", "model.", e);
    if (rc < 0)
        return rc;
    *s = given;
    rwkv_default_ranks(s);
    s->rank_w = given.rank_w ? given.rank_w : s->rank_w;
    s->rank_a = given.rank_a ? given.rank_a : s->rank_a;
    s->rank_v = given.rank_v ? given.rank_v : s->rank_v;
    s->rank_g = given.rank_g ? given.rank_g : s->rank_g;
    s->n_ffn = given.n_ffn ? given.n_ffn : 4 * s->n_embd;
    s->n_vocab = given.n_vocab ? given.n_vocab : 256;
    return 0;
}

static int check(struct recipe *r, const json_t *root, struct err *e)
{
    double total = 0;
    for (size_t i = 0; i < r->n_data; i++)
        total += r->data[i].weight;
    if (!(total > 0))
        return err_set(e, ERR_INVALID,
                       "recipe: data must name at least one corpus of positive weight");
    if (!json_object_get(root, "model"))
        return err_set(e, ERR_INVALID, "recipe: model is missing");
    if (!json_object_get(root, "lr_final"))
        r->schedule.lr_final = r->schedule.lr / 25;
    r->bf16 = !strcmp(r->products, "bf16");
    if (!r->bf16 && strcmp(r->products, "f32"))
        return err_set(e, ERR_INVALID, "recipe: products must be \"f32\" or \"bf16\"");
    if (r->schedule.warmup > r->schedule.steps)
        return err_set(e, ERR_INVALID, "recipe: warmup is longer than steps");
    return 0;
}

int recipe_read(struct recipe *r, const char *path, struct err *e)
{
    *r = (struct recipe){.seed = 1,
                         .threads = 1,
                         .schedule = {.warmup = 10},
                         .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-18, .clip = 1},
                         .document_start = 0.1,
                         .products = "f32",
                         .eval_every = 500,
                         .eval_bytes = 16384,
                         .checkpoint_every = 500};
    json_error_t je;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return err_set(e, je.line < 0 ? ERR_IO : ERR_INVALID, "recipe %s: line %d: %s", path,
                       je.line, je.text);
    int rc = read_object(r, root, keys, N_KEYS(keys), " model data eval ", "", e);
    if (rc == 0)
        rc = read_corpora(r->data, &r->n_data, json_object_get(root, "data"), "data", e);
    if (rc == 0)
        rc = read_corpora(r->eval, &r->n_eval, json_object_get(root, "eval"), "eval", e);
    if (rc == 0 && json_object_get(root, "model"))
        rc = read_model(r, json_object_get(root, "model"), e);
    if (rc == 0)
        rc = check(r, root, e);
    json_decref(root);
    return rc;
}

int recipe_open_corpora(struct corpus *c, const struct recipe_corpus *from, size_t n, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = corpus_open(&c[i], from[i].name, from[i].path, from[i].weight, e);
    return rc;
}
