#include "engine/train/dit_recipe.h"

#include "engine/train/recipe_json.h"

#include <stdio.h>
#include <string.h>

#define C(name, member, kind, high, required)                                                      \
    RECIPE_KEY(struct dit_corpus, name, member, kind, 0, high, required)
static const struct recipe_key corpus_keys[] = {
    C("name", name, RECIPE_TEXT, 32, true),
    C("path", path, RECIPE_TEXT, RECIPE_PATH, true),
    C("styles", styles, RECIPE_TEXT, RECIPE_PATH, false),
};

#define K(name, member, kind, low, high, required)                                                 \
    RECIPE_KEY(struct dit_recipe, name, member, kind, low, high, required)
enum { PLACES = 12 }; /* of the keys, the first: files, how it runs, what is baked */
static const struct recipe_key keys[] = {
    K("model", model, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("vocab", vocab, RECIPE_TEXT, 0, RECIPE_PATH, false),
    K("dataset", dataset, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("out", out, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("threads", threads, RECIPE_UINT, 1, 256, false),
    K("max_minutes", max_minutes, RECIPE_REAL, 0, 1e6, false),
    K("segments", segments, RECIPE_UINT, 1, 1e9, false),
    K("eval_segments", eval_segments, RECIPE_UINT, 1, 1e9, false),
    K("segment_bytes", segment_bytes, RECIPE_UINT, 16, 1e6, false),
    K("style_segments", style_segments, RECIPE_UINT, 1, 1e9, false),
    K("tuned", tuned, RECIPE_UINT, 0, 1e6, false),
    K("tuned_steps", tuned_steps, RECIPE_UINT, 1, 1e6, false),
    K("seed", seed, RECIPE_UINT, 0, 9e15, false),
    K("components", components, RECIPE_UINT, 1, 65536, false),
    K("basis", basis, RECIPE_UINT, 0, 256, false),
    K("shifts", shifts, RECIPE_BOOL, 0, 0, false),
    K("n_embd", n_embd, RECIPE_UINT, 1, 16384, false),
    K("n_head", n_head, RECIPE_UINT, 1, 1024, false),
    K("n_block", n_block, RECIPE_UINT, 1, 256, false),
    K("n_mlp", n_mlp, RECIPE_UINT, 1, 65536, false),
    K("per_token", per_token, RECIPE_BOOL, 0, 0, false),
    K("schedule", schedule_name, RECIPE_TEXT, 0, 16, false),
    K("prediction", prediction_name, RECIPE_TEXT, 0, 8, false),
    K("condition_dropout", condition_dropout, RECIPE_REAL, 0, 1, false),
    K("label_share", label_share, RECIPE_REAL, 0, 1, false),
    K("texts", texts, RECIPE_UINT, 1, 64, false),
    K("batch", batch, RECIPE_UINT, 1, 65536, false),
    K("steps", schedule.steps, RECIPE_UINT, 1, 1e12, true),
    K("warmup", schedule.warmup, RECIPE_UINT, 0, 1e12, false),
    K("lr", schedule.lr, RECIPE_REAL, 1e-12, 1e3, false),
    K("lr_final", schedule.lr_final, RECIPE_REAL, 0, 1e3, false),
    K("beta1", adamw.beta1, RECIPE_REAL, 0, 0.99999, false),
    K("beta2", adamw.beta2, RECIPE_REAL, 0, 0.9999999, false),
    K("eps", adamw.eps, RECIPE_REAL, 1e-30, 1, false),
    K("weight_decay", adamw.weight_decay, RECIPE_REAL, 0, 1e3, false),
    K("clip", adamw.clip, RECIPE_REAL, 0, 1e9, false),
    K("ema", ema, RECIPE_REAL, 0, 0.9999999, false),
    K("products", products, RECIPE_TEXT, 0, 8, false),
    K("eval_every", eval_every, RECIPE_UINT, 1, 1e12, false),
    K("checkpoint_every", checkpoint_every, RECIPE_UINT, 1, 1e12, false),
};

static int read_corpora(struct dit_corpus *to, size_t *n, const json_t *list, const char *where,
                        struct err *e)
{
    char entry[48];
    if (list && (!json_is_array(list) || json_array_size(list) > RECIPE_MAX_CORPORA))
        return err_set(e, ERR_INVALID, "recipe: %s must be a list of at most %d corpora", where,
                       RECIPE_MAX_CORPORA);
    for (*n = 0; *n < json_array_size(list); (*n)++) {
        snprintf(entry, sizeof entry, "%s[%zu].", where, *n);
        int rc = recipe_read_object(&to[*n], json_array_get(list, *n), corpus_keys,
                                    RECIPE_KEYS(corpus_keys), "", entry, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int check(struct dit_recipe *r, const json_t *root, struct err *e)
{
    if (!json_object_get(root, "lr_final"))
        r->schedule.lr_final = r->schedule.lr / 100;
    if (!json_object_get(root, "warmup") && r->schedule.warmup > r->schedule.steps)
        r->schedule.warmup = r->schedule.steps;
    if (!r->n_mlp)
        r->n_mlp = 4 * r->n_embd;
    r->bf16 = !strcmp(r->products, "bf16");
    if (!r->bf16 && strcmp(r->products, "f32"))
        return err_set_param(e, ERR_INVALID, "products",
                             "recipe: products must be \"f32\" or \"bf16\"");
    if (!dit_schedule_parse(r->schedule_name, &r->noise))
        return err_set_param(e, ERR_INVALID, "schedule",
                             "recipe: schedule must be \"cosine\" or \"linear\"");
    if (!dit_prediction_parse(r->prediction_name, &r->prediction))
        return err_set_param(e, ERR_INVALID, "prediction",
                             "recipe: prediction must be \"v\", \"x0\" or \"eps\"");
    if (r->n_embd % r->n_head)
        return err_set_param(e, ERR_INVALID, "n_head", "recipe: n_head must divide n_embd");
    if (r->schedule.warmup > r->schedule.steps)
        return err_set_param(e, ERR_INVALID, "warmup", "recipe: warmup is longer than steps");
    return 0;
}

static void set_presets(struct dit_recipe *r)
{
    *r = (struct dit_recipe){
        .seed = 1,
        .threads = 1,
        .segments = 8000,
        .eval_segments = 600,
        .segment_bytes = 256,
        .style_segments = 24,
        .tuned_steps = 100,
        .components = 64,
        .n_embd = 128,
        .n_head = 4,
        .n_block = 4,
        .per_token = true,
        .schedule_name = "cosine",
        .prediction_name = "v",
        .products = "f32",
        .condition_dropout = 0.1,
        .label_share = 0.3,
        .ema = 0.998,
        .texts = 4,
        .batch = 64,
        .schedule = {.lr = 2e-3, .warmup = 100},
        .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip = 1},
        .eval_every = 500,
        .checkpoint_every = 500,
    };
}

/* From an object whose keys are those from `first` on, and those in others. */
static int read_keys(struct dit_recipe *r, const json_t *root, size_t first, const char *others,
                     struct err *e)
{
    set_presets(r);
    int rc = recipe_read_object(r, root, keys + first, RECIPE_KEYS(keys) - first, others, "", e);
    return rc < 0 ? rc : check(r, root, e);
}

int dit_recipe_read(struct dit_recipe *r, const char *path, struct err *e)
{
    json_t *root = recipe_load(path, e);
    if (!root)
        return e->code;
    int rc = read_keys(r, root, 0, " data eval ", e);
    if (rc == 0)
        rc = read_corpora(r->data, &r->n_data, json_object_get(root, "data"), "data", e);
    if (rc == 0)
        rc = read_corpora(r->eval, &r->n_eval, json_object_get(root, "eval"), "eval", e);
    json_decref(root);
    return rc;
}

int dit_recipe_read_text(struct dit_recipe *r, const char *json, const char *others, struct err *e)
{
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    int rc = read_keys(r, root, PLACES, others, e);
    json_decref(root);
    return rc;
}
