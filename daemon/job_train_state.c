/* train_state: a state tuned by gradient on a text, as a job. */
#include "daemon/job_train.h"

#include "daemon/base/sha256.h"
#include "daemon/fetch.h"
#include "daemon/job_decode.h"
#include "daemon/state_import.h"
#include "engine/train/state.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT ((size_t)512 << 10) /* it is in the job's record; a dataset holds more */

struct ask {
    json_t *json; /* owned */
    const struct model *model;
    const char *name, *if_exists;
    const char *text, *dataset, *label; /* text or dataset; label NULL: all of it */
    struct recipe recipe;
};

static void ask_free(struct ask *a)
{
    if (a)
        json_decref(a->json);
    free(a);
}

static int decode_recipe(const json_t *o, struct recipe *r, struct err *e)
{
    *r = (struct recipe){.seed = 1,
                         .sequence = 128,
                         .batch = 8,
                         .schedule = {.lr = 0.05, .warmup = 10, .steps = 200},
                         .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-18, .clip = 1},
                         .document_start = 0.1,
                         .products = "f32",
                         .eval_bytes = 16384,
                         .checkpoint_every = 50};
    if (job_decode_uint(o, "seed", 0, (uint64_t)1 << 53, &r->seed, e) < 0 ||
        job_decode_uint(o, "sequence", 8, 4096, &r->sequence, e) < 0 ||
        job_decode_uint(o, "batch", 1, 256, &r->batch, e) < 0 ||
        job_decode_uint(o, "steps", 1, 1000000, &r->schedule.steps, e) < 0 ||
        job_decode_uint(o, "checkpoint_every", 1, 1000000, &r->checkpoint_every, e) < 0 ||
        job_decode_real(o, "lr", 1e-9, 100, &r->schedule.lr, e) < 0)
        return e->code;
    r->schedule.lr_final = r->schedule.lr / 25;
    r->eval_every = r->schedule.steps;
    if (r->schedule.warmup > r->schedule.steps)
        r->schedule.warmup = r->schedule.steps;
    return 0;
}

static int check_texts(const struct ask *a, struct err *e)
{
    if (a->text && a->dataset)
        return err_set_param(e, ERR_INVALID, "dataset", "either text or dataset, not both");
    if (a->dataset ? !*a->dataset : !a->text || !*a->text)
        return err_set_param(e, ERR_INVALID, a->dataset ? "dataset" : "text",
                             "text is what the state is tuned on, or dataset names it");
    if (a->label && !a->dataset)
        return err_set_param(e, ERR_INVALID, "label", "label is one of a dataset");
    return 0;
}

static int decode(const struct service *s, const char *request, struct ask *a, struct err *e)
{
    const char *model = NULL;
    char name[129];
    uint64_t version;
    *a = (struct ask){.json = job_decode(request, e), .if_exists = "error"};
    if (!a->json || job_decode_text(a->json, "model", 128, &model, e) < 0 ||
        job_decode_text(a->json, "name", 128, &a->name, e) < 0 ||
        job_decode_text(a->json, "text", MAX_TEXT, &a->text, e) < 0 ||
        job_decode_text(a->json, "dataset", DATASET_NAME, &a->dataset, e) < 0 ||
        job_decode_text(a->json, "label", DATASET_LABEL, &a->label, e) < 0 ||
        job_decode_text(a->json, "if_exists", 16, &a->if_exists, e) < 0 ||
        decode_recipe(a->json, &a->recipe, e) < 0)
        return e->code;
    const struct model_info *info = service_find_model(s, model);
    if (!info)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'", model);
    a->model = registry_model(s->options.registry, info);
    if (!a->name || state_ref_parse(a->name, name, &version, e) < 0 || version)
        return err_set_param(e, ERR_INVALID, "name",
                             "name is not the name of a state, without a version");
    if (strcmp(a->if_exists, "error") != 0 && strcmp(a->if_exists, "new_version") != 0)
        return err_set_param(e, ERR_INVALID, "if_exists",
                             "if_exists is neither \"error\" nor \"new_version\"");
    int rc = check_texts(a, e);
    return rc < 0 ? rc : job_check_gradients(a->model, e);
}

static int decode_new(const struct service *s, const char *request, struct ask **out, struct err *e)
{
    struct ask *a = *out = calloc(1, sizeof *a);
    return a ? decode(s, request, a, e) : err_set(e, ERR_NOMEM, "no memory for a training");
}

static int state_check(const struct service *s, const char *request, struct err *e)
{
    struct ask *a;
    int rc = decode_new(s, request, &a, e);
    ask_free(a);
    return rc;
}

/* ---- what it will take ---- */

/* Is this label asked for: itself, or as a style of it? */
static bool is_asked(const struct ask *a, const char *label)
{
    size_t n = a->label ? strlen(a->label) : 0;
    return !a->label || (!strncmp(a->label, label, n) && (!label[n] || label[n] == '/'));
}

/* Bytes of the texts that are asked for. */
static int count_texts(const struct ask *a, const struct dataset_record *r, uint64_t *bytes,
                       struct err *e)
{
    const char *label;
    json_t *of;
    *bytes = 0;
    json_object_foreach(json_object_get(r->meta, "labels"), label, of) *bytes +=
        is_asked(a, label) ? dataset_number(of, "bytes") : 0;
    return *bytes ? 0
                  : err_set_param(e, ERR_INVALID, "label", "the data set %s has no label '%s'",
                                  a->dataset, a->label ? a->label : "");
}

static int state_plan(struct service *s, const char *request, char **plan, struct err *e)
{
    struct ask *a;
    struct dataset_record r = {0};
    uint64_t bytes = 0;
    double memory = 0;
    int rc = decode_new(s, request, &a, e);
    if (rc == 0 && a->dataset)
        rc = job_find_dataset(s, a->dataset, &r, e);
    if (rc == 0 && a->dataset)
        rc = count_texts(a, &r, &bytes, e);
    else if (rc == 0)
        bytes = strlen(a->text);
    if (rc == 0 && strlen(a->model->path) < sizeof a->recipe.model) {
        memcpy(a->recipe.model, a->model->path, strlen(a->model->path) + 1);
        rc = train_state_plan(&a->recipe, pool_threads(lane_pool(&s->lane)), &memory, e);
    }
    memory += (double)(dataset_number(r.meta, "stored_bytes") + bytes);
    if (rc == 0)
        rc = job_check_memory(s, memory, "tuning a state", e);
    json_t *o = rc == 0 ? json_pack("{s:I, s:I}", "bytes", (json_int_t)bytes, "memory_bytes",
                                    (json_int_t)memory)
                        : NULL;
    if (o && a->dataset) {
        json_object_set_new(o, "dataset_id", json_integer((json_int_t)r.info.seq));
        json_object_set_new(o, "parts", json_integer((json_int_t)dataset_record_parts(&r)));
    }
    if (rc == 0 && !(*plan = o ? json_dumps(o, JSON_COMPACT) : NULL))
        rc = err_set(e, ERR_NOMEM, "no memory for a job");
    json_decref(o);
    dataset_record_fini(&r);
    ask_free(a);
    return rc;
}

/* ---- the text, as a file of the job's own ---- */

/* Those texts of the data set that the plan knew and the request asks for. */
static int write_dataset(struct job_run *r, const struct ask *a, FILE *f, struct err *e)
{
    struct dataset_record record = {0};
    struct dataset_texts texts = {0};
    int rc = job_find_planned(r, a->dataset, &record, e);
    if (rc == 0)
        rc = datasets_read(r->svc, a->dataset, job_planned(r, "parts"), &texts, e);
    size_t written = 0;
    for (size_t i = 0; rc == 0 && i < texts.n; i++)
        if (is_asked(a, texts.texts[i].label)) {
            if (written++)
                fputc(0, f); /* between documents */
            fwrite(texts.texts[i].text, 1, texts.texts[i].n_text, f);
        }
    dataset_texts_fini(&texts);
    dataset_record_fini(&record);
    return rc;
}

/* Once: an attempt that goes on finds it there, whatever became of the data set. */
static int write_text(struct job_run *r, const struct ask *a, const char *path, struct err *e)
{
    char part[RECIPE_PATH + 8];
    if (access(path, F_OK) == 0)
        return 0;
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "w");
    if (!f)
        return err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "write a job's text: %s",
                       strerror(errno));
    int rc = 0;
    if (a->dataset)
        rc = write_dataset(r, a, f, e);
    else
        fwrite(a->text, 1, strlen(a->text), f);
    bool bad = ferror(f);
    bad |= fclose(f) != 0;
    if (rc == 0 && (bad || rename(part, path) < 0))
        rc = err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "write a job's text: %s",
                     strerror(errno));
    return rc;
}

/* The recipe's files, all in the job's folder. */
static int set_paths(const struct job_run *r, const struct model *m, struct recipe *recipe,
                     struct err *e)
{
    struct recipe_corpus *c = &recipe->data[0];
    *c = (struct recipe_corpus){.name = "text", .weight = 1};
    recipe->n_data = 1;
    recipe->eval[0] = *c;
    recipe->threads = (uint64_t)pool_threads(lane_pool(r->lane));
    size_t room = sizeof c->path;
    if ((size_t)snprintf(c->path, room, "%s/text", r->dir) >= room ||
        (size_t)snprintf(recipe->out, room, "%s", r->dir) >= room ||
        (size_t)snprintf(recipe->model, room, "%s", m->path) >= room)
        return err_set(e, ERR_UNSUPPORTED, "a path is too long for a training");
    return 0;
}

static int read_state(const struct job_run *r, const struct model *m, float *state, float *logits,
                      struct err *e)
{
    char path[800];
    struct tensor_file *f = NULL;
    struct state_import in = {.info = m->rwkv_info, .state = state, .logits = logits};
    snprintf(path, sizeof path, "%s/state.safetensors", r->dir);
    int rc = tensor_file_open(path, &f, e);
    if (rc == 0)
        rc = state_import_file(f, &in, e);
    tensor_file_close(f);
    return rc;
}

/* How the state was made, for its record. NULL: no memory. */
static char *make_origin(const struct job_run *r, const struct ask *a, const char *metrics)
{
    const struct recipe *p = &a->recipe;
    json_t *o = json_pack("{s:s, s:s, s:s*, s:s*, s:I, s:I, s:I, s:f, s:I, s:o}", "kind",
                          "train_state", "job", r->id, "dataset", a->dataset, "label", a->label,
                          "steps", (json_int_t)p->schedule.steps, "batch", (json_int_t)p->batch,
                          "sequence", (json_int_t)p->sequence, "lr", p->schedule.lr, "seed",
                          (json_int_t)p->seed, "metrics", json_loads(metrics, 0, NULL));
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    return text;
}

/* The job's id is the write's key: a job that was killed behind its write does not write twice. */
static int keep(struct job_run *r, const struct ask *a, const char *metrics, const float *state,
                struct err *e)
{
    char result[1536];
    uint8_t digest[32];
    struct state_write key = {.key = (char *)(uintptr_t)r->id};
    struct state_info saved;
    struct claim claim = {0};
    char *origin = make_origin(r, a, metrics);
    if (!origin)
        return err_set(e, ERR_NOMEM, "no memory for a state's record");
    sha256_of(r->request, strlen(r->request), digest);
    sha256_hex(digest, key.request_sha256);
    const struct state_put put = {.model = a->model,
                                  .name = a->name,
                                  .weights_type = a->model->weights_type,
                                  .parents = "[]",
                                  .origin = origin,
                                  .state = state};
    const struct store_write how = {.if_exists = strcmp(a->if_exists, "error") != 0
                                                     ? STORE_EXISTS_NEW_VERSION
                                                     : STORE_EXISTS_ERROR,
                                    .key = key.key,
                                    .request_sha256 = key.request_sha256};
    bool replayed = false;
    int rc = service_claim(r->svc, &claim, a->name, e);
    if (rc == 0)
        rc = fetch_key(r->svc, &key, &saved, &replayed, e);
    if (rc == 0 && !replayed)
        rc = fetch_put(r->svc, &put, &how, &saved, e);
    service_unclaim(r->svc, &claim);
    free(origin);
    if (rc < 0)
        return rc;
    snprintf(result, sizeof result, "{\"state\": \"%s@%llu\", \"metrics\": %s}", saved.name,
             (unsigned long long)saved.version, metrics);
    state_info_fini(&saved);
    r->result = strdup(result);
    return r->result ? 0 : err_set(e, ERR_NOMEM, "no memory for a result");
}

/* Before hours of work: a name that is taken, unless the write was made already and its answer lost. */
static int check_free(struct job_run *r, const struct ask *a, struct err *e)
{
    char checkpoint[800];
    struct fetched f;
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.safetensors", r->dir);
    if (strcmp(a->if_exists, "error") != 0 || access(checkpoint, F_OK) == 0)
        return 0;
    int rc = fetch_state(r->svc, a->model, a->name, "name", &f, e);
    if (rc == ERR_STATE_NOT_FOUND) {
        *e = (struct err){0};
        return 0;
    }
    if (rc == 0)
        fetched_fini(&f);
    return err_set_param(e, ERR_STATE_EXISTS, "name", "there is a state %s already", a->name);
}

static int train(struct job_run *r, struct ask *a, struct err *e)
{
    char metrics[512];
    bool done = false;
    struct job_training t = {0};
    const struct rwkv_info *info = a->model->rwkv_info;
    const struct train_control control = job_training_control(&t, r);
    int rc = train_state(&a->recipe, &control, lane_pool(r->lane), &done, e);
    rc = job_training_end(&t, rc, done, e);
    if (rc < 0)
        return rc;
    float *state = rwkv_state_new(info), *logits = calloc(info->n_vocab, sizeof *logits);
    rc = state && logits ? read_state(r, a->model, state, logits, e)
                         : err_set(e, ERR_NOMEM, "no memory for a state");
    job_training_metrics(&t, metrics, sizeof metrics);
    if (rc == 0)
        rc = keep(r, a, metrics, state, e);
    free(state);
    free(logits);
    return rc;
}

static int state_run(struct job_run *r, struct err *e)
{
    struct ask *a;
    int rc = decode_new(r->svc, r->request, &a, e);
    if (rc == 0)
        rc = set_paths(r, a->model, &a->recipe, e);
    if (rc == 0)
        rc = check_free(r, a, e);
    if (rc == 0)
        rc = write_text(r, a, a->recipe.data[0].path, e);
    if (rc == 0)
        rc = train(r, a, e);
    ask_free(a);
    return rc;
}

const struct job_kind job_train_state = {
    .name = "train_state",
    .urgency = LANE_TRAIN,
    .resumable = true,
    .check = state_check,
    .plan = state_plan,
    .run = state_run,
};
