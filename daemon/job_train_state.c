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
    json_t *json;
    const struct model_info *model;
    const char *name, *text, *if_exists;
    struct recipe recipe;
};

static int check_model(const struct ask *a, struct err *e)
{
    const char *type = a->model->weights_type;
    if (type[0] == 'q')
        return err_set_param(e, ERR_QUANTIZED, "model",
                             "the weights of %s are held as %s: gradients want f32, f16 or bf16",
                             a->model->name, type);
    if (strcmp(a->model->tokenizer, "bytes") != 0)
        return err_set_param(e, ERR_UNSUPPORTED, "model",
                             "state tuning reads a text as bytes: %s has another vocabulary",
                             a->model->name);
    return 0;
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

/* a->json is the caller's also on an error. */
static int decode(const struct service *s, const char *request, struct ask *a, struct err *e)
{
    const char *model = NULL;
    char name[129];
    uint64_t version;
    *a = (struct ask){.json = job_decode(request, e), .if_exists = "error"};
    if (!a->json || job_decode_text(a->json, "model", 128, &model, e) < 0 ||
        job_decode_text(a->json, "name", 128, &a->name, e) < 0 ||
        job_decode_text(a->json, "text", MAX_TEXT, &a->text, e) < 0 ||
        job_decode_text(a->json, "if_exists", 16, &a->if_exists, e) < 0 ||
        decode_recipe(a->json, &a->recipe, e) < 0)
        return e->code;
    if (!(a->model = service_find_model(s, model)))
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'", model);
    if (!a->name || state_ref_parse(a->name, name, &version, e) < 0 || version)
        return err_set_param(e, ERR_INVALID, "name",
                             "name is not the name of a state, without a version");
    if (!a->text || !*a->text)
        return err_set_param(e, ERR_INVALID, "text", "text is what the state is tuned on");
    if (strcmp(a->if_exists, "error") != 0 && strcmp(a->if_exists, "new_version") != 0)
        return err_set_param(e, ERR_INVALID, "if_exists",
                             "if_exists is neither \"error\" nor \"new_version\"");
    return check_model(a, e);
}

static int state_check(const struct service *s, const char *request, struct err *e)
{
    struct ask a;
    int rc = decode(s, request, &a, e);
    json_decref(a.json);
    return rc;
}

static int write_text(const char *path, const char *text, struct err *e)
{
    FILE *f = fopen(path, "w");
    size_t n = strlen(text);
    bool ok = f && fwrite(text, 1, n, f) == n;
    int why = errno;
    ok = f && fclose(f) == 0 && ok;
    return ok ? 0
              : err_set(e, why == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "write a job's text: %s",
                        strerror(why));
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

/* The job's id is the write's key: a job that was killed behind its write does not write twice. */
static int keep(struct job_run *r, const struct ask *a, const char *metrics, const float *state,
                struct err *e)
{
    char origin[1024], result[1536];
    uint8_t digest[32];
    struct state_write key = {.key = (char *)(uintptr_t)r->id};
    struct state_info saved;
    struct claim claim = {0};
    const struct recipe *p = &a->recipe;
    sha256_of(r->request, strlen(r->request), digest);
    sha256_hex(digest, key.request_sha256);
    snprintf(origin, sizeof origin,
             "{\"kind\": \"train_state\", \"job\": \"%s\", \"steps\": %llu, \"batch\": %llu, "
             "\"sequence\": %llu, \"lr\": %.9g, \"seed\": %llu, \"metrics\": %s}",
             r->id, (unsigned long long)p->schedule.steps, (unsigned long long)p->batch,
             (unsigned long long)p->sequence, p->schedule.lr, (unsigned long long)p->seed, metrics);
    const struct model *m = registry_model(r->svc->options.registry, a->model);
    const struct state_put put = {.model = m,
                                  .name = a->name,
                                  .weights_type = m->weights_type,
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
    if (rc < 0)
        return rc;
    snprintf(result, sizeof result, "{\"state\": \"%s@%llu\", \"metrics\": %s}", saved.name,
             (unsigned long long)saved.version, metrics);
    state_info_fini(&saved);
    r->result = strdup(result);
    return r->result ? 0 : err_set(e, ERR_NOMEM, "no memory for a result");
}

/* Before hours of work: a name that is taken, unless the write was made already and its answer lost. */
static int check_free(struct job_run *r, const struct ask *a, const struct model *m, struct err *e)
{
    char checkpoint[800];
    struct fetched f;
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.safetensors", r->dir);
    if (strcmp(a->if_exists, "error") != 0 || access(checkpoint, F_OK) == 0)
        return 0;
    int rc = fetch_state(r->svc, m, a->name, "name", &f, e);
    if (rc == ERR_STATE_NOT_FOUND) {
        *e = (struct err){0};
        return 0;
    }
    if (rc == 0)
        fetched_fini(&f);
    return err_set_param(e, ERR_STATE_EXISTS, "name", "there is a state %s already", a->name);
}

static int train(struct job_run *r, struct ask *a, const struct model *m, struct err *e)
{
    char metrics[512];
    bool done = false;
    struct job_training t;
    const struct train_control control = job_training_control(&t, r);
    int rc = train_state(&a->recipe, &control, lane_pool(r->lane), &done, e);
    if (rc == 0 && !done) {
        *e = t.err;
        return e->code ? e->code : err_set(e, ERR_UNAVAILABLE, "the training was stopped");
    }
    float *state = rc == 0 ? rwkv_state_new(m->rwkv_info) : NULL;
    float *logits = calloc(m->rwkv_info->n_vocab, sizeof *logits);
    if (rc == 0 && (!state || !logits))
        rc = err_set(e, ERR_NOMEM, "no memory for a state");
    if (rc == 0)
        rc = read_state(r, m, state, logits, e);
    job_training_metrics(&t, metrics, sizeof metrics);
    if (rc == 0)
        rc = keep(r, a, metrics, state, e);
    free(state);
    free(logits);
    return rc;
}

static int state_run(struct job_run *r, struct err *e)
{
    struct ask *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(e, ERR_NOMEM, "no memory for a training");
    int rc = decode(r->svc, r->request, a, e);
    const struct model *m = rc == 0 ? registry_model(r->svc->options.registry, a->model) : NULL;
    if (rc == 0)
        rc = set_paths(r, m, &a->recipe, e);
    if (rc == 0)
        rc = check_free(r, a, m, e);
    if (rc == 0)
        rc = write_text(a->recipe.data[0].path, a->text, e);
    if (rc == 0)
        rc = train(r, a, m, e);
    json_decref(a->json);
    free(a);
    return rc;
}

const struct job_kind job_train_state = {"train_state", LANE_TRAIN, true,
                                         state_check,   NULL,       state_run};
