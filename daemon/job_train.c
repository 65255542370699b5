#include "daemon/job_train.h"

#include <math.h>
#include <stdio.h>
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
    put_number(text, size, "loss", t->step.loss);
    put_number(text, size, "first_loss", t->first_loss);
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

void job_training_eval(void *ctx, const struct train_eval *v)
{
    struct job_training *t = ctx;
    t->eval = v->mean;
    t->eval_name = v->what ? "x0_error" : "bits_per_byte";
}

struct train_control job_training_control(struct job_training *t, struct job_run *r)
{
    *t = (struct job_training){.run = r, .first_loss = NAN, .eval = NAN};
    return (struct train_control){.stop = r->stop,
                                  .between = between,
                                  .on_step = on_step,
                                  .on_eval = job_training_eval,
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

int job_find_dataset(struct service *s, const char *name, struct dataset_record *out, struct err *e)
{
    int rc = datasets_find(s, name, out, e);
    return rc == ERR_DATASET_NOT_FOUND
               ? err_set_param(e, rc, "dataset", "there is no data set '%s'", name)
               : rc;
}

struct state_shape job_state_shape(const struct model *m)
{
    const struct rwkv_info *i = m->rwkv_info;
    return (struct state_shape){i->n_layer, i->n_embd, i->head_size};
}
