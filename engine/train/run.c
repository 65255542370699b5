#include "engine/train/run.h"

#include "daemon/base/clock.h"
#include "engine/tensor/write.h"
#include "engine/train/trainer.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

/* mkdir -p. */
static int make_folder(const char *path, struct err *e)
{
    char part[TRAIN_PATH - 32]; /* room for a name behind it */
    size_t n = strlen(path);
    if (n >= sizeof part)
        return err_set(e, ERR_INVALID, "training: the output folder's name is too long");
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i])
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) < 0 && errno != EEXIST)
            return err_set(e, ERR_IO, "make folder %s: %s", part, strerror(errno));
    }
    return 0;
}

int train_run_open(struct train_run *r, const struct train_control *c, const char *out,
                   double max_minutes, struct err *e)
{
    char path[TRAIN_PATH];
    memset(r, 0, sizeof *r);
    r->control = c;
    r->out = out;
    r->max_minutes = c->max_minutes > 0 ? c->max_minutes : max_minutes;
    train_run_begin(r, 0);
    int rc = make_folder(out, e);
    if (rc < 0)
        return rc;
    file_remove_unfinished(out);
    train_run_path(r, "log.jsonl", path);
    r->log = fopen(path, "a");
    return r->log ? 0 : err_set(e, ERR_IO, "open %s: %s", path, strerror(errno));
}

void train_run_path(const struct train_run *r, const char *name, char path[TRAIN_PATH])
{
    snprintf(path, TRAIN_PATH, "%s/%s", r->out, name);
}

void train_run_begin(struct train_run *r, uint64_t tokens)
{
    r->began_ns = clock_ns();
    r->first_step = r->step;
    r->first_tokens = tokens;
}

void train_run_close(struct train_run *r)
{
    if (r->log)
        fclose(r->log);
    r->log = NULL;
}

/* Writes one line and takes the object. */
static void log_line(struct train_run *r, json_t *o)
{
    if (o) {
        json_dumpf(o, r->log, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fputc('\n', r->log);
        fflush(r->log);
    }
    json_decref(o);
}

static double seconds(const struct train_run *r)
{
    return (double)(clock_ns() - r->began_ns) * 1e-9;
}

/* Fills in the rates, logs, reports. */
static void report_step(struct train_run *r, struct train_step *s)
{
    double t = seconds(r);
    s->tokens_per_s = (double)(s->tokens - r->first_tokens) / t;
    s->eta_s = t / (double)(s->step - r->first_step) * (double)(s->steps - s->step);
    json_t *o =
        json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "step", (json_int_t)s->step, "tokens",
                  (json_int_t)s->tokens, "loss", s->loss, "bits", s->loss * 1.4426950408889634,
                  "lr", s->lr, "grad_norm", s->norm, "tokens_per_s", s->tokens_per_s);
    if (s->diffusion > 0)
        json_object_set_new(o, "diffusion_loss", json_real(s->diffusion));
    log_line(r, o);
    if (r->control->on_step)
        r->control->on_step(r->control->ctx, s);
}

void train_run_eval(struct train_run *r, const struct train_eval *v)
{
    json_t *bits = json_object();
    for (size_t i = 0; i < v->n; i++)
        json_object_set_new(bits, v->names[i], json_real(v->bits[i]));
    log_line(r, json_pack("{s:I, s:f, s:o}", "step", (json_int_t)v->step,
                          v->what ? v->what : "eval_bits", v->mean, "eval", bits));
    if (r->control->on_eval)
        r->control->on_eval(r->control->ctx, v);
}

void train_run_note(struct train_run *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_line(r, json_pack("{s:s}", "note", text));
    if (r->control->on_note)
        r->control->on_note(r->control->ctx, text);
}

bool train_run_goes_on(const struct train_run *r)
{
    const struct train_control *c = r->control;
    if (c->between)
        c->between(c->ctx);
    return !(c->stop && atomic_load(c->stop));
}

bool train_run_prepares(const struct train_run *r, size_t done, size_t n)
{
    if (r->control->on_part)
        r->control->on_part(r->control->ctx, done, n);
    return train_run_goes_on(r);
}

static bool must_stop(const struct train_run *r)
{
    const struct train_control *c = r->control;
    if (c->stop && atomic_load(c->stop))
        return true;
    if (c->stop_at && r->step >= c->stop_at)
        return true;
    return r->max_minutes > 0 && seconds(r) >= 60 * r->max_minutes;
}

static int one_step(struct train_run *r, const struct train_schedule *schedule,
                    const struct train_kind *k, void *ctx, struct err *e)
{
    struct train_step s = {.steps = schedule->steps, .lr = train_lr(schedule, r->step)};
    int rc = k->step(ctx, &s, e);
    if (rc < 0)
        return rc;
    if (!isfinite(s.loss) || !isfinite(s.diffusion) || !isfinite(s.norm))
        return err_set(e, ERR_NUMERIC,
                       "training step %llu: loss %g, diffusion %g, gradient norm %g%s%s",
                       (unsigned long long)r->step, s.loss, s.diffusion, s.norm,
                       s.culprit ? ", first in " : "", s.culprit ? s.culprit : "");
    s.step = ++r->step;
    report_step(r, &s);
    return 0;
}

int train_run_steps(struct train_run *r, const struct train_plan *p, const struct train_kind *k,
                    void *ctx, bool *done, struct err *e)
{
    const uint64_t steps = p->schedule->steps;
    int rc = 0;
    bool stop = r->step >= steps;
    while (!stop && rc == 0) {
        rc = one_step(r, p->schedule, k, ctx, e);
        const bool last = r->step >= steps;
        stop = last || must_stop(r);
        if (rc == 0 && (last || r->step % p->eval_every == 0))
            rc = k->evaluate(ctx, e);
        if (rc == 0 && (stop || r->step % p->checkpoint_every == 0))
            rc = k->save(ctx, e);
    }
    *done = rc == 0 && r->step >= steps;
    return rc;
}
