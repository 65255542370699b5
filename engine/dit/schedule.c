#include "engine/dit/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"linear", "cosine"};

const char *dit_schedule_name(enum dit_schedule_kind k)
{
    return names[k];
}

bool dit_schedule_parse(const char *s, enum dit_schedule_kind *out)
{
    for (int k = 0; k < 2; k++)
        if (!strcmp(s, names[k]))
            return *out = (enum dit_schedule_kind)k, true;
    return false;
}

/* cos^2, whose ratios at the ends of a step give its beta. */
static double cosine_bar(double u)
{
    double c = cos((u + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

static double beta_of(enum dit_schedule_kind kind, size_t i, size_t n)
{
    double T = (double)n, x = (double)i;
    if (kind == DIT_SCHEDULE_LINEAR) {
        double scale = 1000 / T;
        return scale * (1e-4 + (0.02 - 1e-4) * x / (T - 1));
    }
    return fmin(1 - cosine_bar((x + 1) / T) / cosine_bar(x / T), 0.999);
}

/* Everything else from the betas. */
static void finish(struct dit_schedule *s)
{
    double bar = 1;
    for (size_t i = 0; i < s->n; i++) {
        struct dit_step *p = &s->step[i];
        p->alpha_bar_prev = bar;
        bar *= 1 - p->beta;
        p->alpha_bar = bar;
        double prev = p->alpha_bar_prev;
        p->variance = p->beta * (1 - prev) / (1 - bar);
        p->mean_x0 = p->beta * sqrt(prev) / (1 - bar);
        p->mean_xt = (1 - prev) * sqrt(1 - p->beta) / (1 - bar);
    }
    for (size_t i = 0; i < s->n; i++)
        s->step[i].log_variance = log(s->step[i || s->n == 1 ? i : 1].variance);
}

static int make(struct dit_schedule *s, enum dit_schedule_kind kind, size_t n, size_t limit,
                struct err *e)
{
    *s = (struct dit_schedule){.kind = kind};
    if (n < 1 || n > limit)
        return err_set(e, ERR_INVALID, "diffusion schedule: %zu steps, want 1 to %zu", n, limit);
    s->n = n;
    s->step = calloc(n, sizeof *s->step);
    return s->step ? 0 : err_set(e, ERR_NOMEM, "diffusion schedule: out of memory");
}

int dit_schedule_init(struct dit_schedule *s, enum dit_schedule_kind kind, size_t n, struct err *e)
{
    *s = (struct dit_schedule){.kind = kind};
    if (n < 2)
        return err_set(e, ERR_INVALID, "diffusion schedule: %zu steps, want 2 to %d", n,
                       DIT_TIMESTEPS);
    int rc = make(s, kind, n, DIT_TIMESTEPS, e);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        s->step[i].t = (double)i;
        s->step[i].beta = fmin(beta_of(kind, i, n), 0.999);
    }
    finish(s);
    return 0;
}

int dit_schedule_pick(struct dit_schedule *s, const struct dit_schedule *from, const size_t *t,
                      size_t n, struct err *e)
{
    int rc = make(s, from->kind, n, from->n, e);
    double prev = 1;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (t[i] >= from->n || (i && t[i] <= t[i - 1])) {
            dit_schedule_fini(s);
            return err_set(e, ERR_INVALID, "diffusion schedule: timesteps must ascend below %zu",
                           from->n);
        }
        const struct dit_step *p = &from->step[t[i]];
        s->step[i].t = p->t;
        s->step[i].beta = 1 - p->alpha_bar / prev;
        prev = p->alpha_bar;
    }
    if (rc == 0)
        finish(s);
    return rc;
}

int dit_schedule_respace(struct dit_schedule *s, const struct dit_schedule *from, size_t n,
                         struct err *e)
{
    size_t t[DIT_TIMESTEPS];
    *s = (struct dit_schedule){0};
    if (n < 2 || n > from->n)
        return err_set(e, ERR_INVALID, "diffusion steps: %zu, want 2 to %zu", n, from->n);
    for (size_t i = 0; i < n; i++) /* half to even, as Python's round */
        t[i] = (size_t)nearbyint((double)i * (double)(from->n - 1) / (double)(n - 1));
    return dit_schedule_pick(s, from, t, n, e);
}

void dit_schedule_fini(struct dit_schedule *s)
{
    free(s->step);
    memset(s, 0, sizeof *s);
}
