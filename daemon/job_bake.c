/* bake_dataset: a model reads the texts of a data set, and the states that they leave are kept. */
#include "daemon/dataset_split.h"
#include "daemon/job_decode.h"
#include "daemon/job_train.h"
#include "daemon/jobs_impl.h"

#include "daemon/base/clock.h"
#include "engine/train/bake.h"
#include "engine/train/dit_rows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_BYTES 96 /* of memory for each text and each piece of one, at most */

struct ask {
    struct job_ask of;
    uint64_t segments, segment_bytes;
    double heldout;
};

static int decode(const struct service *s, const char *request, struct ask *a, struct err *e)
{
    *a = (struct ask){.segments = 8000, .segment_bytes = 256, .heldout = 0.1};
    if (job_ask_decode(&a->of, s, request, e) < 0 ||
        job_decode_uint(a->of.json, "segments", 1, 10000000, &a->segments, e) < 0 ||
        job_decode_uint(a->of.json, "segment_bytes", 16, 65536, &a->segment_bytes, e) < 0 ||
        job_decode_real(a->of.json, "heldout", 0, 0.9, &a->heldout, e) < 0)
        return e->code;
    if (!a->of.model->tokenizer)
        return err_set_param(e, ERR_UNSUPPORTED, "model",
                             "the model %s has no vocabulary to read texts with (--vocab)",
                             a->of.model->name);
    return 0;
}

static int bake_check(const struct service *s, const char *request, struct err *e)
{
    struct ask a;
    int rc = decode(s, request, &a, e);
    job_ask_fini(&a.of);
    return rc;
}

/* ---- what it will take ---- */

/* Would so many bytes of states in place of those that there are be within the quota? */
static int check_quota(struct service *s, const struct ask *a, const struct dataset_record *r,
                       uint64_t bytes, struct err *e)
{
    uint64_t had =
        dataset_number(dataset_record_baked(r, a->of.model->rwkv_info->fingerprint), "bytes");
    return bytes > had ? datasets_check_quota(s, bytes - had, e) : 0;
}

static int estimate(struct service *s, const struct ask *a, const struct dataset_record *r,
                    char **plan, struct err *e)
{
    const struct state_shape shape = job_state_shape(a->of.model);
    const uint64_t texts = dataset_number(r->meta, "texts"),
                   text_bytes = dataset_number(r->meta, "bytes");
    uint64_t pieces = text_bytes / (a->segment_bytes / 2); /* each has half of that at least */
    uint64_t rows = pieces < a->segments ? pieces : a->segments;
    uint64_t read = rows * a->segment_bytes < text_bytes ? rows * a->segment_bytes : text_bytes;
    uint64_t bytes = dataset_file_bytes(&shape, shape.n_embd, rows, read);
    uint64_t memory = dataset_number(r->meta, "stored_bytes") + 2 * read +
                      (texts + pieces) * TEXT_BYTES + ((uint64_t)16 << 20);
    int rc = rows ? check_quota(s, a, r, bytes, e)
                  : err_set_param(e, ERR_INVALID, "dataset",
                                  "the data set %s has less than half a segment of %llu bytes",
                                  a->of.dataset, (unsigned long long)a->segment_bytes);
    if (rc == 0)
        rc = job_check_memory(s, (double)memory, "baking it", e);
    if (rc < 0)
        return rc;
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "dataset_id", (json_int_t)r->info.seq, "parts",
                  (json_int_t)dataset_record_parts(r), "texts", (json_int_t)texts, "rows",
                  (json_int_t)rows, "bytes", (json_int_t)bytes, "memory_bytes", (json_int_t)memory);
    *plan = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *plan ? 0 : err_set(e, ERR_NOMEM, "no memory for a job");
}

static int bake_plan(struct service *s, const char *request, char **plan, struct err *e)
{
    struct ask a;
    struct dataset_record r = {0};
    int rc = decode(s, request, &a, e);
    if (rc == 0)
        rc = job_find_dataset(s, a.of.dataset, &r, e);
    if (rc == 0)
        rc = estimate(s, &a, &r, plan, e);
    dataset_record_fini(&r);
    job_ask_fini(&a.of);
    return rc;
}

/* ---- from texts to rows ---- */

/* The label before a style. */
static int corpus_of(struct dit_rows *rows, const char *label, struct err *e)
{
    char name[DATASET_LABEL + 1];
    snprintf(name, sizeof name, "%.*s", (int)dataset_corpus(label), label);
    return dit_rows_label(rows, name, e);
}

static int add_all(const struct ask *a, const struct split_text *all, size_t n,
                   struct dit_rows *rows, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc >= 0; i++) /* corpora first in the list of labels */
        rc = corpus_of(rows, all[i].text->label, e);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        const struct dataset_text *t = all[i].text;
        int corpus = corpus_of(rows, t->label, e);
        int style = strchr(t->label, '/') ? dit_rows_label(rows, t->label, e) : -1;
        if (corpus < 0 || style < -1)
            return e->code;
        const struct dit_text add = {.text = t->text,
                                     .n = t->n_text,
                                     .corpus = corpus,
                                     .style = style,
                                     .document = (int32_t)all[i].document,
                                     .heldout = all[i].heldout};
        rc = dit_rows_add(rows, &add, a->segment_bytes, e);
    }
    return rc < 0 ? rc : 0;
}

static int make_rows(const struct ask *a, const struct dataset_texts *t, struct dit_rows *rows,
                     struct err *e)
{
    struct split_text *all = t->n < INT32_MAX ? dataset_split(t, a->heldout) : NULL;
    int rc = all ? add_all(a, all, t->n, rows, e)
                 : err_set(e, ERR_NOMEM, "no memory for the texts of a data set");
    free(all);
    if (rc < 0)
        return rc;
    dit_rows_thin(rows, 0, a->segments);
    rc = dit_rows_prune(rows, 1, e);
    return rc < 0 || rows->n
               ? rc
               : err_set_param(
                     e, ERR_INVALID, "dataset",
                     "no piece of a text ends with a line or a sentence within %llu bytes",
                     (unsigned long long)a->segment_bytes);
}

/* ---- the run ---- */

struct baking {
    struct job_run *run;
    const struct ask *ask;
    struct dataset_record record;
    struct dit_rows rows;
    char path[768];
    uint64_t began_ns;
    size_t began_at;
    struct err err; /* why it was told to stop */
};

static bool proceed(void *ctx, size_t done, size_t n)
{
    struct baking *b = ctx;
    char metrics[96];
    if (!b->began_ns) {
        b->began_ns = clock_ns();
        b->began_at = done;
    }
    double s = (double)(clock_ns() - b->began_ns) * 1e-9, made = (double)(done - b->began_at);
    double rate = s > 0 ? made / s : 0;
    snprintf(metrics, sizeof metrics, "{\"rows_per_second\": %.6g}", rate);
    const struct job_progress p = {done, n, rate > 0 ? (double)(n - done) / rate : NAN, metrics};
    return job_proceed(b->run, &p, &b->err) == 0;
}

/* In the job's folder, from where the whole file goes to its place. */
static int bake(struct baking *b, struct err *e)
{
    const struct model *m = b->ask->of.model;
    char path[sizeof b->run->dir + 32];
    snprintf(path, sizeof path, "%s/states.safetensors", b->run->dir);
    const struct bake o = {.model = m->rwkv,
                           .pool = lane_pool(b->run->lane),
                           .tokenizer = m->tokenizer,
                           .rows = b->rows.row,
                           .n = b->rows.n,
                           .label = (const char *const *)b->rows.label,
                           .n_label = b->rows.n_label,
                           .path = path,
                           .proceed = proceed,
                           .ctx = b};
    int rc = bake_run(&o, e);
    if (b->err.code) {
        *e = b->err;
        rc = e->code;
    }
    if (rc == 0 && rename(path, b->path) < 0)
        rc = err_set(e, ERR_IO, "put the states into their place: %s", strerror(errno));
    return rc;
}

/* Writes into the data set's record what there is now. */
static int keep(struct baking *b, struct err *e)
{
    const struct ask *a = b->ask;
    struct stat st;
    size_t heldout = 0;
    for (size_t i = 0; i < b->rows.n; i++)
        heldout += b->rows.row[i].heldout;
    if (stat(b->path, &st) < 0)
        return err_set(e, ERR_IO, "the file of the states is gone");
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "model", a->of.model->name,
                  "fingerprint", a->of.model->rwkv_info->fingerprint, "weights_type",
                  a->of.model->weights_type, "rows", (json_int_t)b->rows.n, "heldout_rows",
                  (json_int_t)heldout, "labels", (json_int_t)b->rows.n_label, "bytes",
                  (json_int_t)st.st_size, "segment_bytes", (json_int_t)a->segment_bytes, "texts",
                  (json_int_t)job_planned(b->run, "texts"), "job", b->run->id);
    int rc = o ? datasets_set_baked(b->run->svc, a->of.dataset, b->record.info.seq, o, e)
               : err_set(e, ERR_NOMEM, "no memory for a result");
    if (rc == ERR_DATASET_NOT_FOUND)
        unlink(b->path);
    json_t *result = rc == 0 ? json_pack("{s:s, s:O}", "dataset", a->of.dataset, "baked", o) : NULL;
    if (rc == 0 && !(b->run->result = result ? json_dumps(result, JSON_COMPACT) : NULL))
        rc = err_set(e, ERR_NOMEM, "no memory for a result");
    json_decref(result);
    json_decref(o);
    return rc;
}

static int run_all(struct baking *b, struct err *e)
{
    struct service *s = b->run->svc;
    const struct ask *a = b->ask;
    const struct state_shape shape = job_state_shape(a->of.model);
    struct dataset_texts texts = {0};
    int rc = job_find_planned(b->run, a->of.dataset, &b->record, e);
    if (rc == 0)
        rc = datasets_read(s, a->of.dataset, job_planned(b->run, "parts"), &texts, e);
    if (rc == 0)
        rc = make_rows(a, &texts, &b->rows, e);
    if (rc == 0)
        rc = check_quota(
            s, a, &b->record,
            dataset_file_bytes(&shape, shape.n_embd, b->rows.n, b->rows.n * a->segment_bytes), e);
    if (rc == 0)
        rc = datasets_states_path(s, &b->record.info, a->of.model->rwkv_info->fingerprint, b->path,
                                  sizeof b->path, e);
    if (rc == 0)
        rc = bake(b, e);
    if (rc == 0)
        rc = keep(b, e);
    dataset_texts_fini(&texts);
    return rc;
}

static int bake_run_job(struct job_run *r, struct err *e)
{
    struct ask a;
    struct baking b = {.run = r, .ask = &a};
    int rc = decode(r->svc, r->request, &a, e);
    if (rc == 0)
        rc = run_all(&b, e);
    dataset_record_fini(&b.record);
    dit_rows_fini(&b.rows);
    job_ask_fini(&a.of);
    return rc;
}

const struct job_kind job_bake_dataset = {
    .name = "bake_dataset",
    .urgency = LANE_BAKE,
    .resumable = true,
    .check = bake_check,
    .plan = bake_plan,
    .run = bake_run_job,
};
