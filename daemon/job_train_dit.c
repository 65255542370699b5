/* train_dit: a diffuser trained on the states that a model left of a data set, as a job. */
#include "daemon/diffusers.h"
#include "daemon/job_decode.h"
#include "daemon/job_train.h"

#include "daemon/base/sha256.h"
#include "engine/train/dit.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The request's keys that are not the recipe's. */
#define OUR_KEYS " kind model dataset name if_exists "

struct ask {
    struct job_ask of;
    struct dit_recipe recipe;
};

static void ask_free(struct ask *a)
{
    if (a)
        job_ask_fini(&a->of);
    free(a);
}

static int decode(const struct service *s, const char *request, struct ask *a, struct err *e)
{
    int rc = job_ask_decode(&a->of, s, request, e);
    if (rc == 0)
        rc = job_ask_decode_result(&a->of, e);
    return rc < 0 ? rc : dit_recipe_read_text(&a->recipe, request, OUR_KEYS, e);
}

static int decode_new(const struct service *s, const char *request, struct ask **out, struct err *e)
{
    struct ask *a = *out = calloc(1, sizeof *a);
    return a ? decode(s, request, a, e) : err_set(e, ERR_NOMEM, "no memory for a training");
}

static int dit_check(const struct service *s, const char *request, struct err *e)
{
    struct ask *a;
    int rc = decode_new(s, request, &a, e);
    ask_free(a);
    return rc;
}

/* ---- what it will take ---- */

static int check_need(const struct service *s, const struct dit_need *n, struct err *e)
{
    char what[64];
    snprintf(what, sizeof what, "training a diffuser of %zu parameters", n->n_params);
    if (4 * (double)n->n_params > (double)FETCH_FILE_MAX)
        return err_set(e, ERR_MEMORY_LIMIT, "a diffuser of %zu parameters is larger than %zu bytes",
                       n->n_params, FETCH_FILE_MAX);
    return job_check_memory(s, n->memory, what, e);
}

/* Everything that can be refused; *plan (or NULL): as the record has it. */
static int look(struct service *s, const struct ask *a, struct dataset_record *r, char **plan,
                struct err *e)
{
    struct dit_need need;
    int rc = 0;
    const json_t *baked = dataset_record_baked(r, a->of.model->rwkv_info->fingerprint);
    if (!baked)
        return err_set_param(e, ERR_NOT_BAKED, "dataset",
                             "the data set %s has no states of the model %s: bake_dataset makes "
                             "them",
                             a->of.dataset, a->of.model->name);
    const uint64_t rows = dataset_number(baked, "rows");
    const uint64_t train = rows - dataset_number(baked, "heldout_rows");
    const struct dit_rows_info info = {job_state_shape(a->of.model), rows,
                                       dataset_number(baked, "labels"),
                                       rows * dataset_number(baked, "segment_bytes")};
    rc = train_dit_plan(&a->recipe, &info, pool_threads(lane_pool(&s->lane)), &need, e);
    if (rc == 0)
        rc = check_need(s, &need, e);
    if (rc == 0 && (train < 2 || train < a->recipe.components))
        rc = err_set_param(e, ERR_INVALID, "components",
                           "%llu states to train on, of which %llu components are asked",
                           (unsigned long long)train, (unsigned long long)a->recipe.components);
    if (rc < 0 || !plan)
        return rc;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "dataset_id", (json_int_t)r->info.seq,
                          "rows", (json_int_t)rows, "parameters", (json_int_t)need.n_params,
                          "tokens", (json_int_t)need.n_token, "bytes", (json_int_t)need.disk,
                          "memory_bytes", (json_int_t)need.memory);
    *plan = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *plan ? 0 : err_set(e, ERR_NOMEM, "no memory for a job");
}

static int dit_plan(struct service *s, const char *request, char **plan, struct err *e)
{
    struct ask *a;
    struct dataset_record r = {0};
    int rc = decode_new(s, request, &a, e);
    if (rc == 0)
        rc = job_find_dataset(s, a->of.dataset, &r, e);
    if (rc == 0)
        rc = look(s, a, &r, plan, e);
    if (rc == 0)
        rc = job_ask_check_free(s, &a->of, STORE_DIFFUSER, NULL, e);
    dataset_record_fini(&r);
    ask_free(a);
    return rc;
}

/* ---- the run ---- */

/* The states under a name of the job's own, so that it goes on with them whatever becomes of the data
 * set. */
static int hold_states(struct job_run *r, struct ask *a, struct err *e)
{
    struct dataset_record record = {0};
    char from[768];
    int n = snprintf(a->recipe.dataset, RECIPE_PATH, "%s/states.safetensors", r->dir);
    if (n < 0 || n >= RECIPE_PATH)
        return err_set(e, ERR_UNSUPPORTED, "a path is too long for a training");
    if (access(a->recipe.dataset, F_OK) == 0)
        return 0;
    int rc = job_find_planned(r, a->of.dataset, &record, e);
    if (rc == 0)
        rc = look(r->svc, a, &record, NULL, e);
    if (rc == 0)
        rc = job_ask_check_free(r->svc, &a->of, STORE_DIFFUSER, NULL, e);
    if (rc == 0)
        rc = datasets_states_path(r->svc, &record.info, a->of.model->rwkv_info->fingerprint, from,
                                  sizeof from, e);
    if (rc == 0 && link(from, a->recipe.dataset) < 0)
        rc = errno == ENOENT
                 ? err_set_param(e, ERR_NOT_BAKED, "dataset",
                                 "the states of the data set %s are gone", a->of.dataset)
                 : err_set(e, ERR_IO, "hold a data set's states: %s", strerror(errno));
    dataset_record_fini(&record);
    return rc;
}

/* Stores the diffuser. One of these bytes is this job's own, of an attempt that was killed behind it. */
static int keep(const struct job_training *t, const struct ask *a, struct err *e)
{
    struct job_run *r = t->run;
    struct item_info saved = {0};
    char path[800], metrics[512], evaluation[EVALUATION_MAX];
    struct buf training;
    snprintf(path, sizeof path, "%s/diffuser.safetensors", r->dir);
    job_training_read_eval(r, evaluation);
    buf_init(&training, 2 * EVALUATION_MAX);
    buf_printf(&training, "{\"job\": \"%s\", \"dataset\": \"%s\", \"evaluation\": %s}", r->id,
               a->of.dataset, evaluation);
    struct diffuser_put put = {
        .name = a->of.name, .replace = a->of.replace, .training = training.data};
    int rc = training.failed ? err_set(e, ERR_NOMEM, "no memory for a result")
                             : fetch_file(path, &put.file, &put.bytes, e);
    uint8_t digest[32];
    char sha256[65];
    if (rc == 0) {
        sha256_of(put.file, put.bytes, digest);
        sha256_hex(digest, sha256);
        rc = diffusers_register_take(r->svc, &put, &saved, e);
    }
    if (rc == ERR_NAME_EXISTS) {
        *e = (struct err){0};
        rc = job_ask_check_free(r->svc, &a->of, STORE_DIFFUSER, sha256, e);
    }
    free(saved.meta);
    job_training_metrics(t, metrics, sizeof metrics);
    buf_reset(&training);
    buf_printf(&training,
               "{\"diffuser\": \"%s\", \"sha256\": \"%s\", \"metrics\": %s, \"evaluation\": %s}",
               a->of.name, rc == 0 ? sha256 : "", metrics, evaluation);
    if (rc == 0 && (training.failed || !(r->result = strdup(training.data))))
        rc = err_set(e, ERR_NOMEM, "no memory for a result");
    buf_fini(&training);
    return rc;
}

static int train(struct job_run *r, struct ask *a, struct err *e)
{
    struct job_training t = {.samples = true};
    struct train_control control = job_training_control(&t, r);
    bool done = false;
    struct pool *pool = lane_pool(r->lane);
    control.on_eval = job_training_keep_eval;
    a->recipe.threads = (uint64_t)pool_threads(pool);
    int rc = train_dit(&a->recipe, &control, pool, &done, e);
    rc = job_training_end(&t, rc, done, e);
    return rc < 0 ? rc : keep(&t, a, e);
}

static int dit_run_job(struct job_run *r, struct err *e)
{
    struct ask *a;
    int rc = decode_new(r->svc, r->request, &a, e);
    if (rc == 0)
        rc = hold_states(r, a, e);
    if (rc == 0)
        snprintf(a->recipe.out, RECIPE_PATH, "%s", r->dir);
    if (rc == 0)
        rc = train(r, a, e);
    ask_free(a);
    return rc;
}

const struct job_kind job_train_dit = {
    .name = "train_dit",
    .urgency = LANE_TRAIN,
    .resumable = true,
    .check = dit_check,
    .plan = dit_plan,
    .run = dit_run_job,
};
