#include "daemon/job_train.h"

#include "daemon/job_decode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_number(char *text, size_t size, const char *key, double v)
{
    size_t n = strlen(text);
    if (isfinite(v))
        snprintf(text + n, size - n, "%s\"%s\": %.9g", n > 1 ? ", " : "", key, v);
}

void job_training_metrics(const struct job_training *t, char *text, size_t size)
{
    snprintf(text, size, "{");
    if (t->parts && !t->step.step) {
        snprintf(text, size, "{\"%s\": %zu}", t->parts, t->part);
        return;
    }
    put_number(text, size, "loss", t->step.loss);
    put_number(text, size, "first_loss", t->first_loss);
    if (t->step.diffusion > 0)
        put_number(text, size, "diffusion_loss", t->step.diffusion);
    put_number(text, size, "lr", t->step.lr);
    put_number(text, size, "grad_norm", t->step.norm);
    put_number(text, size, t->samples ? "samples" : "tokens", (double)t->step.tokens);
    put_number(text, size, t->samples ? "samples_per_second" : "tokens_per_second",
               t->step.tokens_per_s);
    if (t->eval_name)
        put_number(text, size, t->eval_name, t->eval);
    size_t n = strlen(text);
    snprintf(text + n, size - n, "}");
}

static void on_step(void *ctx, const struct train_step *s)
{
    struct job_training *t = ctx;
    char text[512];
    t->step = *s;
    t->first_loss = isnan(t->first_loss) ? s->loss : t->first_loss;
    job_training_metrics(t, text, sizeof text);
    const struct job_progress p = {s->step, s->steps, s->eta_s, text};
    job_proceed(t->run, &p, &t->err);
}

static void between(void *ctx)
{
    struct job_training *t = ctx;
    job_proceed(t->run, NULL, &t->err);
}

static void on_part(void *ctx, size_t done, size_t n)
{
    struct job_training *t = ctx;
    char text[512];
    (void)n;
    t->part = done;
    job_training_metrics(t, text, sizeof text);
    const struct job_progress p = {0, 0, NAN, text};
    job_proceed(t->run, &p, &t->err);
}

static const char *eval_name(const struct train_eval *v)
{
    return v->what ? "x0_error" : "bits_per_byte";
}

static void on_eval(void *ctx, const struct train_eval *v)
{
    struct job_training *t = ctx;
    t->eval = v->mean;
    t->eval_name = eval_name(v);
}

static void eval_path(const struct job_run *r, char path[800])
{
    snprintf(path, 800, "%s/evaluation.json", r->dir);
}

void job_training_keep_eval(void *ctx, const struct train_eval *v)
{
    const struct job_training *t = ctx;
    char path[800];
    size_t written = 0;
    on_eval(ctx, v);
    eval_path(t->run, path);
    FILE *f = fopen(path, "w");
    if (!f)
        return;
    fprintf(f, "{\"step\": %llu, \"mean\": %.9g, \"%s\": {", (unsigned long long)v->step, v->mean,
            eval_name(v));
    for (size_t i = 0; i < v->n; i++)
        if (v->what || !strchr(v->names[i], '.'))
            fprintf(f, "%s\"%s\": %.9g", written++ ? ", " : "", v->names[i], v->bits[i]);
    fputs("}}", f);
    fclose(f);
}

void job_training_read_eval(const struct job_run *r, char text[EVALUATION_MAX])
{
    char path[800];
    eval_path(r, path);
    json_t *o = json_load_file(path, 0, NULL);
    char *json = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    snprintf(text, EVALUATION_MAX, "%s", json && strlen(json) < EVALUATION_MAX ? json : "null");
    free(json);
    json_decref(o);
}

struct train_control job_training_control(struct job_training *t, struct job_run *r)
{
    t->run = r;
    t->first_loss = t->eval = NAN;
    return (struct train_control){.stop = r->stop,
                                  .between = between,
                                  .on_step = on_step,
                                  .on_part = t->parts ? on_part : NULL,
                                  .on_eval = on_eval,
                                  .ctx = t};
}

int job_training_end(const struct job_training *t, int rc, bool done, struct err *e)
{
    if (t->err.code) {
        *e = t->err;
        return e->code;
    }
    return rc < 0 || done ? rc : err_set(e, ERR_UNAVAILABLE, "the training was stopped");
}

int job_check_memory(const struct service *s, double bytes, const char *what, struct err *e)
{
    const uint64_t most = s->options.train_bytes;
    if (!most || bytes <= (double)most)
        return 0;
    return err_set(e, ERR_MEMORY_LIMIT,
                   "%s would want %.0f bytes of memory, of --train-memory %llu", what, bytes,
                   (unsigned long long)most);
}

/* ---- requests ---- */

int job_ask_decode(struct job_ask *a, const struct service *s, const char *request, struct err *e)
{
    const char *model = NULL;
    *a = (struct job_ask){.json = job_decode(request, e)};
    if (!a->json || job_decode_text(a->json, "model", 128, &model, e) < 0 ||
        job_decode_text(a->json, "dataset", DATASET_NAME, &a->dataset, e) < 0)
        return e->code;
    const struct model_info *info = service_find_model(s, model);
    if (!info)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model '%s'", model);
    a->model = registry_model(s->options.registry, info);
    return a->dataset && *a->dataset
               ? 0
               : err_set_param(e, ERR_INVALID, "dataset", "dataset names what is to be read");
}

static bool is_name(const char *s)
{
    size_t n =
        s ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") : 0;
    return n && !s[n] && n <= STORE_NAME_MAX;
}

int job_ask_decode_result(struct job_ask *a, struct err *e)
{
    const char *if_exists = "error";
    if (job_decode_text(a->json, "name", STORE_NAME_MAX, &a->name, e) < 0 ||
        job_decode_text(a->json, "if_exists", 16, &if_exists, e) < 0)
        return e->code;
    if (!is_name(a->name))
        return err_set_param(e, ERR_INVALID, "name",
                             "name is 1 to %d of the characters A-Z a-z 0-9 . _ -", STORE_NAME_MAX);
    a->replace = !strcmp(if_exists, "replace");
    if (!a->replace && strcmp(if_exists, "error") != 0)
        return err_set_param(e, ERR_INVALID, "if_exists",
                             "if_exists is neither \"error\" nor \"replace\"");
    return 0;
}

void job_ask_fini(struct job_ask *a)
{
    json_decref(a->json);
    *a = (struct job_ask){0};
}

int job_ask_check_free(struct service *s, const struct job_ask *a, enum store_kind kind,
                       const char *sha256, struct err *e)
{
    struct fetched_item f;
    struct err why = {0};
    if (a->replace || fetch_item(s, kind, a->name, false, &f, &why) < 0)
        return 0;
    bool same = sha256 && !strcmp(f.info.sha256, sha256);
    fetched_item_fini(&f);
    return same ? 0
                : err_set_param(e, ERR_NAME_EXISTS, "name", "there is a %s %s already",
                                store_kind_name(kind), a->name);
}

/* ---- data sets ---- */

uint64_t job_planned(const struct job_run *r, const char *key)
{
    json_t *plan = r->plan ? json_loads(r->plan, 0, NULL) : NULL;
    uint64_t n = dataset_number(plan, key);
    json_decref(plan);
    return n;
}

int job_find_planned(struct job_run *r, const char *name, struct dataset_record *out, struct err *e)
{
    int rc = job_find_dataset(r->svc, name, out, e);
    return rc < 0 || out->info.seq == job_planned(r, "dataset_id")
               ? rc
               : err_set_param(e, ERR_DATASET_NOT_FOUND, "dataset",
                               "the data set %s is another one by now", name);
}

int job_find_dataset(struct service *s, const char *name, struct dataset_record *out, struct err *e)
{
    int rc = datasets_find(s, name, out, e);
    return rc == ERR_DATASET_NOT_FOUND
               ? err_set_param(e, rc, "dataset", "there is no data set '%s'", name)
               : rc;
}

int job_check_gradients(const struct model *m, struct err *e)
{
    if (m->weights_type[0] == 'q')
        return err_set_param(e, ERR_QUANTIZED, "model",
                             "the weights of %s are held as %s: gradients want f32, f16 or bf16",
                             m->name, m->weights_type);
    if (!m->tokenizer || tokenizer_vocab(m->tokenizer) > 256)
        return err_set_param(e, ERR_UNSUPPORTED, "model",
                             "this training reads a text as bytes: %s has another vocabulary",
                             m->name);
    return 0;
}

struct state_shape job_state_shape(const struct model *m)
{
    const struct rwkv_info *i = m->rwkv_info;
    return (struct state_shape){i->n_layer, i->n_embd, i->head_size};
}
