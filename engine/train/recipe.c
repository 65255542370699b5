#include "engine/train/recipe.h"

#include "engine/train/recipe_json.h"

#include <float.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct recipe_key model_keys[] = {
    RECIPE_KEY(struct rwkv_shape, "n_layer", n_layer, RECIPE_UINT, 1, 512, true),
    RECIPE_KEY(struct rwkv_shape, "n_embd", n_embd, RECIPE_UINT, 16, 65536, true),
    RECIPE_KEY(struct rwkv_shape, "head_size", head_size, RECIPE_UINT, 16, 128, true),
    RECIPE_KEY(struct rwkv_shape, "n_ffn", n_ffn, RECIPE_UINT, 1, 1048576, false),
    RECIPE_KEY(struct rwkv_shape, "n_vocab", n_vocab, RECIPE_UINT, 2, 256, false),
    RECIPE_KEY(struct rwkv_shape, "rank_w", rank_w, RECIPE_UINT, 1, 65536, false),
    RECIPE_KEY(struct rwkv_shape, "rank_a", rank_a, RECIPE_UINT, 1, 65536, false),
    RECIPE_KEY(struct rwkv_shape, "rank_v", rank_v, RECIPE_UINT, 1, 65536, false),
    RECIPE_KEY(struct rwkv_shape, "rank_g", rank_g, RECIPE_UINT, 1, 65536, false),
};

static const struct recipe_key corpus_keys[] = {
    RECIPE_KEY(struct recipe_corpus, "name", name, RECIPE_TEXT, 0, 32, true),
    RECIPE_KEY(struct recipe_corpus, "path", path, RECIPE_TEXT, 0, RECIPE_PATH, true),
    RECIPE_KEY(struct recipe_corpus, "weight", weight, RECIPE_REAL, 0, 1e9, false),
};

static const struct recipe_key keys[] = {
    RECIPE_KEY(struct recipe, "init_from", init_from, RECIPE_TEXT, 0, RECIPE_PATH, false),
    RECIPE_KEY(struct recipe, "out", out, RECIPE_TEXT, 0, RECIPE_PATH, true),
    RECIPE_KEY(struct recipe, "products", products, RECIPE_TEXT, 0, 8, false),
    RECIPE_KEY(struct recipe, "seed", seed, RECIPE_UINT, 0, 9e15, false),
    RECIPE_KEY(struct recipe, "threads", threads, RECIPE_UINT, 1, 256, false),
    RECIPE_KEY(struct recipe, "sequence", sequence, RECIPE_UINT, 1, 65536, true),
    RECIPE_KEY(struct recipe, "batch", batch, RECIPE_UINT, 1, 65536, true),
    RECIPE_KEY(struct recipe, "steps", schedule.steps, RECIPE_UINT, 1, 1e12, true),
    RECIPE_KEY(struct recipe, "warmup", schedule.warmup, RECIPE_UINT, 0, 1e12, false),
    RECIPE_KEY(struct recipe, "lr", schedule.lr, RECIPE_REAL, 1e-12, 1e3, true),
    RECIPE_KEY(struct recipe, "lr_final", schedule.lr_final, RECIPE_REAL, 0, 1e3, false),
    RECIPE_KEY(struct recipe, "beta1", adamw.beta1, RECIPE_REAL, 0, 0.99999, false),
    RECIPE_KEY(struct recipe, "beta2", adamw.beta2, RECIPE_REAL, 0, 0.9999999, false),
    RECIPE_KEY(struct recipe, "eps", adamw.eps, RECIPE_REAL, 1e-30, 1, false),
    RECIPE_KEY(struct recipe, "weight_decay", adamw.weight_decay, RECIPE_REAL, 0, 1e3, false),
    RECIPE_KEY(struct recipe, "clip", adamw.clip, RECIPE_REAL, 0, 1e9, false),
    RECIPE_KEY(struct recipe, "carry", carry, RECIPE_REAL, 0, 1, false),
    RECIPE_KEY(struct recipe, "document_start", document_start, RECIPE_REAL, 0, 1, false),
    RECIPE_KEY(struct recipe, "jump", jump, RECIPE_REAL, 0, 1, false),
    RECIPE_KEY(struct recipe, "eval_every", eval_every, RECIPE_UINT, 1, 1e12, false),
    RECIPE_KEY(struct recipe, "eval_bytes", eval_bytes, RECIPE_UINT, 1, 1e12, false),
    RECIPE_KEY(struct recipe, "checkpoint_every", checkpoint_every, RECIPE_UINT, 1, 1e12, false),
    RECIPE_KEY(struct recipe, "max_minutes", max_minutes, RECIPE_REAL, 0, 1e6, false),
};

int recipe_read_corpora(struct recipe_corpus *to, size_t *n, const json_t *list, const char *where,
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
        int rc = recipe_read_object(&to[*n], json_array_get(list, *n), corpus_keys,
                                    RECIPE_KEYS(corpus_keys), "", entry, e);
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
    int rc = recipe_read_object(&given, v, model_keys, RECIPE_KEYS(model_keys), "", "model.", e);
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
    json_t *root = recipe_load(path, e);
    if (!root)
        return e->code;
    int rc = recipe_read_object(r, root, keys, RECIPE_KEYS(keys), " model data eval ", "", e);
    if (rc == 0)
        rc = recipe_read_corpora(r->data, &r->n_data, json_object_get(root, "data"), "data", e);
    if (rc == 0)
        rc = recipe_read_corpora(r->eval, &r->n_eval, json_object_get(root, "eval"), "eval", e);
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
