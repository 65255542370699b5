/* train_hybrid: a hybrid trained on the texts of a data set, as a job. */
#include "daemon/dataset_split.h"
#include "daemon/hybrids.h"
#include "daemon/job_decode.h"
#include "daemon/job_train.h"

#include "daemon/base/sha256.h"
#include "engine/train/hybrid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The request's keys that are not the recipe's. */
#define OUR_KEYS " kind model dataset name if_exists heldout "

struct ask {
    struct job_ask of;
    double heldout;
    struct hybrid_recipe recipe;
};

static void ask_free(struct ask *a)
{
    if (a)
        job_ask_fini(&a->of);
    free(a);
}

static int decode(const struct service *s, const char *request, struct ask *a, struct err *e)
{
    a->heldout = 0.1;
    if (job_ask_decode(&a->of, s, request, e) < 0 || job_ask_decode_result(&a->of, e) < 0 ||
        job_decode_real(a->of.json, "heldout", 0.001, 0.9, &a->heldout, e) < 0 ||
        job_check_gradients(a->of.model, e) < 0 ||
        hybrid_recipe_read_text(&a->recipe, request, OUR_KEYS, e) < 0)
        return e->code;
    int n = snprintf(a->recipe.model, RECIPE_PATH, "%s", a->of.model->path);
    return n < RECIPE_PATH
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "the model's path is too long for a training");
}

static int decode_new(const struct service *s, const char *request, struct ask **out, struct err *e)
{
    struct ask *a = *out = calloc(1, sizeof *a);
    return a ? decode(s, request, a, e) : err_set(e, ERR_NOMEM, "no memory for a training");
}

static int hybrid_check(const struct service *s, const char *request, struct err *e)
{
    struct ask *a;
    int rc = decode_new(s, request, &a, e);
    ask_free(a);
    return rc;
}

/* ---- what it will take ---- */

/* The corpora of a data set: what its labels begin with. */
struct corpora {
    char label[RECIPE_MAX_CORPORA][DATASET_LABEL + 1];
    size_t n;
};

static int add_corpus(struct corpora *c, const char *label, struct err *e)
{
    char name[DATASET_LABEL + 1];
    snprintf(name, sizeof name, "%.*s", (int)dataset_corpus(label), label);
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(c->label[i], name))
            return 0;
    if (c->n == RECIPE_MAX_CORPORA)
        return err_set_param(e, ERR_INVALID, "dataset",
                             "the data set has more than %d labels (styles not counted)",
                             RECIPE_MAX_CORPORA);
    memcpy(c->label[c->n++], name, sizeof name);
    return 0;
}

static int check_need(const struct service *s, const struct hybrid_need *n, double texts,
                      struct err *e)
{
    char what[64];
    snprintf(what, sizeof what, "training a hybrid of %zu parameters", n->n_params);
    if (2 * (double)n->n_params > (double)FETCH_FILE_MAX)
        return err_set(e, ERR_MEMORY_LIMIT, "a hybrid of %zu parameters is larger than %zu bytes",
                       n->n_params, FETCH_FILE_MAX);
    return job_check_memory(s, n->memory + 2 * texts, what, e);
}

static int look(struct service *s, const struct ask *a, const struct dataset_record *r, char **plan,
                struct err *e)
{
    struct hybrid_need need;
    struct corpora corpora = {.n = 0};
    const double texts = (double)dataset_number(r->meta, "bytes");
    const char *label;
    json_t *of;
    int rc = 0;
    json_object_foreach(json_object_get(r->meta, "labels"), label, of) if (rc == 0) rc =
        add_corpus(&corpora, label, e);
    if (rc == 0)
        rc = train_hybrid_plan(&a->recipe, pool_threads(lane_pool(&s->lane)), &need, e);
    if (rc == 0)
        rc = check_need(s, &need, texts, e);
    if (rc < 0)
        return rc;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "dataset_id", (json_int_t)r->info.seq,
                          "parts", (json_int_t)dataset_record_parts(r), "pairs",
                          (json_int_t)(a->recipe.pairs + a->recipe.eval_pairs), "parameters",
                          (json_int_t)need.n_params, "bytes", (json_int_t)(need.disk + texts),
                          "memory_bytes", (json_int_t)(need.memory + 2 * texts));
    *plan = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *plan ? 0 : err_set(e, ERR_NOMEM, "no memory for a job");
}

static int hybrid_plan(struct service *s, const char *request, char **plan, struct err *e)
{
    struct ask *a;
    struct dataset_record r = {0};
    int rc = decode_new(s, request, &a, e);
    if (rc == 0)
        rc = job_find_dataset(s, a->of.dataset, &r, e);
    if (rc == 0)
        rc = look(s, a, &r, plan, e);
    if (rc == 0)
        rc = job_ask_check_free(s, &a->of, STORE_HYBRID, NULL, e);
    dataset_record_fini(&r);
    ask_free(a);
    return rc;
}

/* ---- the texts, as files of the job's own ---- */

/* Corpus i as the recipe has it: a name of its own, and its file. */
static int set_corpus(struct recipe_corpus *c, const struct job_run *r, const char *label,
                      bool heldout, size_t i, struct err *e)
{
    const bool fits = strlen(label) < sizeof c->name;
    *c = (struct recipe_corpus){.weight = 1};
    if (fits)
        snprintf(c->name, sizeof c->name, "%s", label);
    else
        snprintf(c->name, sizeof c->name, "%.20s~%u", label, (unsigned)i);
    int n =
        snprintf(c->path, sizeof c->path, "%s/%s-%zu", r->dir, heldout ? "heldout" : "train", i);
    return n < (int)sizeof c->path
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "a path is too long for a training");
}

/* The texts of one corpus, held out or not, with a NUL between documents; *n: their bytes. */
static int write_corpus(const struct split_text *all, size_t n_all, const char *label, bool heldout,
                        const char *path, size_t *n, struct err *e)
{
    FILE *f = fopen(path, "w");
    const size_t bytes = strlen(label);
    size_t document = SIZE_MAX;
    *n = 0;
    for (size_t i = 0; f && i < n_all; i++) {
        const struct dataset_text *t = all[i].text;
        if (all[i].heldout != heldout || dataset_corpus(t->label) != bytes ||
            memcmp(t->label, label, bytes) != 0)
            continue;
        if (*n)
            fputc(all[i].document == document ? '\n' : 0, f);
        document = all[i].document;
        fwrite(t->text, 1, t->n_text, f);
        *n += t->n_text;
    }
    bool bad = !f || ferror(f);
    if (f)
        bad |= fclose(f) != 0;
    return bad ? err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "write a job's texts: %s",
                         strerror(errno))
               : 0;
}

/* All corpora, those to train on and those held out, as files and in the recipe. */
static int write_corpora(const struct job_run *r, struct ask *a, const struct split_text *all,
                         size_t n, struct err *e)
{
    struct hybrid_recipe *p = &a->recipe;
    struct corpora corpora = {.n = 0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_corpus(&corpora, all[i].text->label, e);
    for (size_t i = 0; rc == 0 && i < 2 * corpora.n; i++) {
        const bool held = i >= corpora.n;
        const char *label = corpora.label[i % corpora.n];
        struct recipe_corpus *to = held ? &p->eval[p->n_eval] : &p->data[p->n_data];
        size_t bytes = 0;
        rc = set_corpus(to, r, label, held, i % corpora.n, e);
        if (rc == 0)
            rc = write_corpus(all, n, label, held, to->path, &bytes, e);
        p->n_data += !held && bytes;
        p->n_eval += held && bytes;
    }
    if (rc == 0 && (!p->n_data || !p->n_eval))
        rc = err_set_param(e, ERR_INVALID, "heldout",
                           "no label has documents enough for some to train on and some held out");
    return rc;
}

static json_t *list_corpora(const struct recipe_corpus *c, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "name", c[i].name, "path", c[i].path));
    return list;
}

static void read_corpora(const json_t *list, struct recipe_corpus *c, size_t *n)
{
    for (*n = 0; *n < json_array_size(list) && *n < RECIPE_MAX_CORPORA; (*n)++) {
        const char *name = NULL, *path = NULL;
        json_unpack(json_array_get(list, *n), "{s:s, s:s}", "name", &name, "path", &path);
        c[*n] = (struct recipe_corpus){.weight = 1};
        snprintf(c[*n].name, sizeof c->name, "%s", name ? name : "");
        snprintf(c[*n].path, sizeof c->path, "%s", path ? path : "");
    }
}

/* The list of the corpora's files, written when they are whole; or read. */
static int corpora_list(const struct job_run *r, struct ask *a, bool write, struct err *e)
{
    struct hybrid_recipe *p = &a->recipe;
    char path[800], part[808];
    snprintf(path, sizeof path, "%s/corpora.json", r->dir);
    snprintf(part, sizeof part, "%s.part", path);
    json_t *o = write ? json_pack("{s:o, s:o}", "data", list_corpora(p->data, p->n_data), "eval",
                                  list_corpora(p->eval, p->n_eval))
                      : json_load_file(path, 0, NULL);
    bool ok = o && (!write || (json_dump_file(o, part, 0) == 0 && rename(part, path) == 0));
    if (ok && !write) {
        read_corpora(json_object_get(o, "data"), p->data, &p->n_data);
        read_corpora(json_object_get(o, "eval"), p->eval, &p->n_eval);
    }
    json_decref(o);
    return ok ? 0 : err_set(e, ERR_IO, "the list of a job's texts cannot be kept");
}

static int hold_texts(struct job_run *r, struct ask *a, struct err *e)
{
    struct dataset_record record = {0};
    struct dataset_texts texts = {0};
    struct split_text *all = NULL;
    struct err none = {0};
    if (corpora_list(r, a, false, &none) == 0)
        return 0;
    int rc = job_find_planned(r, a->of.dataset, &record, e);
    if (rc == 0)
        rc = job_ask_check_free(r->svc, &a->of, STORE_HYBRID, NULL, e);
    if (rc == 0)
        rc = datasets_read(r->svc, a->of.dataset, job_planned(r, "parts"), &texts, e);
    if (rc == 0 && !(all = dataset_split(&texts, a->heldout)))
        rc = err_set(e, ERR_NOMEM, "no memory for the texts of a data set");
    if (rc == 0)
        rc = write_corpora(r, a, all, texts.n, e);
    if (rc == 0)
        rc = corpora_list(r, a, true, e);
    free(all);
    dataset_texts_fini(&texts);
    dataset_record_fini(&record);
    return rc;
}

/* ---- the run ---- */

static bool is_served(const struct ask *a, const char *sha256)
{
    struct served_hybrid *h = hybrid_place_use(&a->of.model->hybrids);
    bool same = h && !strcmp(h->sha256, sha256);
    served_hybrid_unref(h);
    return same;
}

/* Stores the hybrid. One of these bytes is this job's own, of an attempt that was killed behind it. */
static int keep(const struct job_training *t, const struct ask *a, struct err *e)
{
    struct job_run *r = t->run;
    struct item_info saved = {0};
    char path[800], metrics[512], evaluation[EVALUATION_MAX], sha256[65] = "";
    struct buf text;
    uint8_t digest[32];
    snprintf(path, sizeof path, "%s/hybrid.safetensors", r->dir);
    job_training_read_eval(r, evaluation);
    buf_init(&text, 2 * EVALUATION_MAX);
    buf_printf(&text, "{\"job\": \"%s\", \"dataset\": \"%s\", \"evaluation\": %s}", r->id,
               a->of.dataset, evaluation);
    struct hybrid_put put = {.name = a->of.name, .replace = a->of.replace, .training = text.data};
    int rc = text.failed ? err_set(e, ERR_NOMEM, "no memory for a result")
                         : fetch_file(path, &put.file, &put.bytes, e);
    if (rc == 0) {
        sha256_of(put.file, put.bytes, digest);
        sha256_hex(digest, sha256);
        rc = hybrids_register_take(r->svc, &put, &saved, e);
    }
    if (rc == ERR_NAME_EXISTS) {
        *e = (struct err){0};
        rc = job_ask_check_free(r->svc, &a->of, STORE_HYBRID, sha256, e);
    }
    free(saved.meta);
    job_training_metrics(t, metrics, sizeof metrics);
    buf_reset(&text);
    buf_printf(&text,
               "{\"hybrid\": \"%s\", \"sha256\": \"%s\", \"served\": %s, \"metrics\": %s, "
               "\"evaluation\": %s}",
               a->of.name, sha256, is_served(a, sha256) ? "true" : "false", metrics, evaluation);
    if (rc == 0 && (text.failed || !(r->result = strdup(text.data))))
        rc = err_set(e, ERR_NOMEM, "no memory for a result");
    buf_fini(&text);
    return rc;
}

static int train(struct job_run *r, struct ask *a, struct err *e)
{
    struct job_training t = {.parts = "pairs"};
    struct train_control control = job_training_control(&t, r);
    struct pool *pool = lane_pool(r->lane);
    bool done = false;
    control.on_eval = job_training_keep_eval;
    a->recipe.threads = (uint64_t)pool_threads(pool);
    int rc = train_hybrid(&a->recipe, &control, pool, &done, e);
    rc = job_training_end(&t, rc, done, e);
    return rc < 0 ? rc : keep(&t, a, e);
}

static int hybrid_run(struct job_run *r, struct err *e)
{
    struct ask *a;
    int rc = decode_new(r->svc, r->request, &a, e);
    if (rc == 0)
        rc = hold_texts(r, a, e);
    if (rc == 0) {
        snprintf(a->recipe.out, RECIPE_PATH, "%s", r->dir);
        snprintf(a->recipe.dataset, RECIPE_PATH, "%s/pairs.safetensors", r->dir);
        rc = train(r, a, e);
    }
    ask_free(a);
    return rc;
}

const struct job_kind job_train_hybrid = {
    .name = "train_hybrid",
    .urgency = LANE_TRAIN,
    .resumable = true,
    .check = hybrid_check,
    .plan = hybrid_plan,
    .run = hybrid_run,
};
