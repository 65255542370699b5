#include "engine/train/hybrid_recipe.h"

#include "engine/rwkv/params.h"
#include "engine/train/recipe_json.h"

#include <string.h>

#define K(name, member, kind, low, high, required)                                                 \
    RECIPE_KEY(struct hybrid_recipe, name, member, kind, low, high, required)
enum { PLACES = 5 }; /* of the keys, the first: files, how it runs */
static const struct recipe_key keys[] = {
    K("model", model, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("dataset", dataset, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("out", out, RECIPE_TEXT, 0, RECIPE_PATH, true),
    K("threads", threads, RECIPE_UINT, 1, 256, false),
    K("max_minutes", max_minutes, RECIPE_REAL, 0, 1e6, false),
    K("seed", seed, RECIPE_UINT, 0, 9e15, false),
    K("pairs", pairs, RECIPE_UINT, 1, 1e6, false),
    K("eval_pairs", eval_pairs, RECIPE_UINT, 1, 1e6, false),
    K("context_min", context_min, RECIPE_UINT, 1, 1e8, false),
    K("context_max", context_max, RECIPE_UINT, 1, 1e8, false),
    K("gap", gap, RECIPE_UINT, 0, 1e6, false),
    K("continuation", continuation, RECIPE_UINT, 1, 4096, false),
    K("continuations", continuations, RECIPE_UINT, 1, 4096, false),
    K("max_context", max_context, RECIPE_UINT, 2, 4096, false),
    K("corpus_steps", corpus_steps, RECIPE_UINT, 0, 1e6, false),
    K("corpus_lr", corpus_lr, RECIPE_REAL, 0, 10, false),
    K("target_steps", target_steps, RECIPE_UINT, 0, 1000, false),
    K("target_bytes", target_bytes, RECIPE_UINT, 1, 65536, false),
    K("target_lr", target_lr, RECIPE_REAL, 0, 10, false),
    K("n_embd", n_embd, RECIPE_UINT, 1, 16384, false),
    K("n_head", n_head, RECIPE_UINT, 1, 1024, false),
    K("n_block", n_block, RECIPE_UINT, 1, 256, false),
    K("n_mlp", n_mlp, RECIPE_UINT, 1, 65536, false),
    K("rank", rank, RECIPE_UINT, 0, RWKV_MAX_RANK, false),
    K("products", products, RECIPE_TEXT, 0, sizeof((struct hybrid_recipe *)0)->products, false),
    K("sampling_steps", sampling_steps, RECIPE_UINT, 1, 100, false),
    K("lambda", lambda, RECIPE_REAL, 0, 1e6, false),
    K("alpha", alpha, RECIPE_REAL, 0.001, 0.999, false),
    K("context_dropout", context_dropout, RECIPE_REAL, 0, 1, false),
    K("states", states, RECIPE_REAL, 0, 1, false),
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
    K("eval_every", eval_every, RECIPE_UINT, 1, 1e12, false),
    K("checkpoint_every", checkpoint_every, RECIPE_UINT, 1, 1e12, false),
};

static int check(struct hybrid_recipe *r, const json_t *root, struct err *e)
{
    if (!json_object_get(root, "lr_final"))
        r->schedule.lr_final = r->schedule.lr / 25;
    if (!json_object_get(root, "warmup") && r->schedule.warmup > r->schedule.steps)
        r->schedule.warmup = r->schedule.steps;
    if (!r->n_mlp)
        r->n_mlp = 4 * r->n_embd;
    if (r->n_embd % r->n_head)
        return err_set_param(e, ERR_INVALID, "n_head", "recipe: n_head must divide n_embd");
    if (r->max_context % 2)
        return err_set_param(e, ERR_INVALID, "max_context", "recipe: max_context must be even");
    if ((r->target_bytes - 1) / r->continuation >= HYBRID_TARGET_WINDOWS)
        return err_set_param(e, ERR_INVALID, "target_bytes",
                             "recipe: target_bytes is above %d continuations",
                             HYBRID_TARGET_WINDOWS);
    if (!r->corpus_steps && !r->target_steps)
        return err_set_param(e, ERR_INVALID, "target_steps",
                             "recipe: corpus_steps and target_steps are both 0");
    r->bf16 = !strcmp(r->products, "bf16");
    if (!r->bf16 && strcmp(r->products, "f32"))
        return err_set_param(e, ERR_INVALID, "products",
                             "recipe: products must be \"f32\" or \"bf16\"");
    if (r->context_min > r->context_max)
        return err_set_param(e, ERR_INVALID, "context_min",
                             "recipe: context_min is above context_max");
    if (r->schedule.warmup > r->schedule.steps)
        return err_set_param(e, ERR_INVALID, "warmup", "recipe: warmup is longer than steps");
    return 0;
}

/* From an object whose keys are those from `first` on, and those in others. */
static int read_keys(struct hybrid_recipe *r, const json_t *root, size_t first, const char *others,
                     struct err *e)
{
    *r = (struct hybrid_recipe){
        .seed = 1,
        .threads = 1,
        .pairs = 4000,
        .eval_pairs = 240,
        .context_min = 32,
        .context_max = 8192,
        .gap = 32,
        .continuation = 64,
        .max_context = 64,
        .continuations = 8,
        .corpus_steps = 200,
        .corpus_lr = 0.01,
        .target_steps = 4,
        .target_bytes = 256,
        .target_lr = 0.01,
        .products = "f32",
        .n_embd = 128,
        .n_head = 4,
        .n_block = 3,
        .sampling_steps = 1,
        .lambda = 1,
        .alpha = 0.73,
        .context_dropout = 0.1,
        .ema = 0.99,
        .batch = 16,
        .schedule = {.lr = 1e-3, .warmup = 20},
        .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip = 1},
        .eval_every = 100,
        .checkpoint_every = 100,
    };
    int rc = recipe_read_object(r, root, keys + first, RECIPE_KEYS(keys) - first, others, "", e);
    return rc < 0 ? rc : check(r, root, e);
}

int hybrid_recipe_read(struct hybrid_recipe *r, const char *path, struct err *e)
{
    json_t *root = recipe_load(path, e);
    if (!root)
        return e->code;
    int rc = read_keys(r, root, 0, " data eval ", e);
    if (rc == 0)
        rc = recipe_read_corpora(r->data, &r->n_data, json_object_get(root, "data"), "data", e);
    if (rc == 0)
        rc = recipe_read_corpora(r->eval, &r->n_eval, json_object_get(root, "eval"), "eval", e);
    json_decref(root);
    return rc;
}

int hybrid_recipe_read_text(struct hybrid_recipe *r, const char *json, const char *others,
                            struct err *e)
{
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    int rc = read_keys(r, root, PLACES, others, e);
    json_decref(root);
    return rc;
}
