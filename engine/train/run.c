#include "engine/train/run.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define PATH_BYTES 1200

/* mkdir -p. */
static int make_folder(const char *path, struct err *e)
{
    char part[PATH_BYTES];
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
                   double max_minutes, uint64_t step, uint64_t tokens, struct err *e)
{
    char path[PATH_BYTES + 16];
    memset(r, 0, sizeof *r);
    r->control = c;
    r->max_minutes = c->max_minutes > 0 ? c->max_minutes : max_minutes;
    train_run_begin(r, step, tokens);
    int rc = make_folder(out, e);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof path, "%s/log.jsonl", out);
    r->log = fopen(path, "a");
    return r->log ? 0 : err_set(e, ERR_IO, "open %s: %s", path, strerror(errno));
}

void train_run_begin(struct train_run *r, uint64_t step, uint64_t tokens)
{
    r->began_ns = clock_ns();
    r->first_step = step;
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

void train_run_step(struct train_run *r, struct train_step *s)
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

bool train_run_must_stop(const struct train_run *r, uint64_t step)
{
    const struct train_control *c = r->control;
    if (c->stop && atomic_load(c->stop))
        return true;
    if (c->stop_at && step >= c->stop_at)
        return true;
    return r->max_minutes > 0 && seconds(r) >= 60 * r->max_minutes;
}
