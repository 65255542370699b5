/* Making and editing states: groups of samples side by side on the pool. With F32 products each sample is alone in
 * its batch, as BLAS adds in another order for another number of rows; with BF16 ones several share it. */
#include "engine/dit/denoiser.h"
#include "engine/dit/diffuser.h"

#include "daemon/base/mem.h"

#include <math.h>

#define GROUP 16  /* samples a thread between two calls of proceed */
#define ROWS  512 /* of a batch with BF16 products: weights are packed once for all */

/* Moments of a sample's noise: where it starts, then by step. */
enum { MOMENT_START = 0, MOMENT_STEP = 1, MOMENT_KEEP = 1 + DIT_TIMESTEPS };

struct sample {
    double *x, *x0; /* [n] coordinates; of the start, with one */
    struct dit_solver solver;
};

/* What a thread needs for a batch of samples, each with a row under its condition and, behind those of all, one
 * under the negative condition. */
struct bench {
    struct dit_work_f32 *work;
    float *in, *out;             /* [2 batch, n] */
    double *pred, *base, *noise; /* [n] */
    double *t;                   /* [2 batch] */
    uint32_t *label;             /* [2 batch] */
    float *cond;                 /* [2 batch, cond_dim] */
};

struct run {
    const struct diffuser *d;
    const struct diffuser_options *o;
    const struct diffuser_job *job;
    struct dit_schedule s; /* respaced */
    size_t n;              /* coordinates of a state */
    size_t begin;          /* steps begin..0 are taken */
    struct nn_f32 op;
    size_t batch; /* samples at most */
    int threads;
    struct bench *bench;        /* [threads] */
    struct sample *sample;      /* [group] */
    size_t group, first, count; /* samples at a time; the present group */
    size_t step;                /* of the schedule, in this call of the pool */
    bool inverting;
};

static int check_condition(const struct diffuser *d, const struct diffuser_condition *c,
                           const char *param, struct err *e)
{
    if (c->label == DIFFUSER_VECTOR) {
        for (size_t i = 0; i < d->info.cond_dim; i++)
            if (!isfinite(c->vector[i]))
                return err_set_param(e, ERR_INVALID, param, "a condition's vector is not finite");
        return d->info.cond_dim ? 0
                                : err_set_param(e, ERR_INVALID, param,
                                                "this diffuser knows conditions by label only");
    }
    if (c->label < DIFFUSER_NONE || c->label >= (int64_t)d->info.n_label)
        return err_set_param(e, ERR_INVALID, param, "the diffuser has no label %d", c->label);
    return 0;
}

static int check(const struct diffuser *d, const struct diffuser_options *o,
                 const struct diffuser_job *job, struct err *e)
{
    int rc = 0;
    if (o->steps < 2 || o->steps > DIT_TIMESTEPS)
        return err_set_param(e, ERR_INVALID, "num_inference_steps", "steps must be 2 to %d",
                             DIT_TIMESTEPS);
    if (!(o->guidance >= 0 && o->guidance <= 100))
        return err_set_param(e, ERR_INVALID, "guidance_scale", "guidance must be 0 to 100");
    if (!(o->eta >= 0 && o->eta <= 1))
        return err_set_param(e, ERR_INVALID, "eta", "eta must be 0 to 1");
    if (!(o->clip >= 0))
        return err_set_param(e, ERR_INVALID, "clip", "clip must not be negative");
    if (job->start && !(job->strength > 0 && job->strength <= 1))
        return err_set_param(e, ERR_INVALID, "strength", "strength must be above 0 and at most 1");
    for (size_t i = 0; i < job->n && rc == 0; i++) {
        rc = check_condition(d, &job->condition[i], "condition", e);
        if (rc == 0 && job->start && job->source)
            rc = check_condition(d, &job->source[i], "source", e);
    }
    return rc < 0 ? rc : check_condition(d, &o->negative, "negative_condition", e);
}

static int bench_init(struct bench *b, const struct run *r, struct err *e)
{
    const size_t n = r->n, Y = r->d->info.cond_dim, rows = 2 * r->batch;
    b->work = dit_work_new_forward_f32(&r->d->layout, &r->op, rows);
    b->in = calloc(2 * rows * n, sizeof *b->in);
    b->out = b->in ? b->in + rows * n : NULL;
    b->pred = calloc(3 * n, sizeof *b->pred);
    b->base = b->pred ? b->pred + n : NULL;
    b->noise = b->pred ? b->base + n : NULL;
    b->t = calloc(rows, sizeof *b->t);
    b->label = calloc(rows, sizeof *b->label);
    b->cond = calloc(rows * Y + 1, sizeof *b->cond);
    return b->work && b->in && b->pred && b->t && b->label && b->cond
               ? 0
               : err_set(e, ERR_NOMEM, "diffusion: out of memory");
}

/* Samples of a batch: as many as there are for a thread, up to ROWS rows of the network. */
static size_t batch_of(const struct run *r)
{
    const size_t threads = (size_t)r->threads, rows = 2 * r->d->info.n_token;
    const size_t share = r->group > threads ? (r->group + threads - 1) / threads : 1,
                 most = rows < ROWS ? ROWS / rows : 1;
    return share < most ? share : most;
}

static int run_init(struct run *r, struct pool *pool, struct err *e)
{
    const struct diffuser_job *job = r->job;
    const struct dit_solver_options so = {.prediction = r->d->info.prediction,
                                          .scheduler = r->o->scheduler,
                                          .eta = r->o->eta,
                                          .clip = r->o->clip};
    int rc = dit_schedule_respace(&r->s, &r->d->schedule, r->o->steps, e);
    if (rc < 0)
        return rc;
    r->n = r->d->info.n_token * r->d->info.token_dim;
    r->begin = r->s.n - 1;
    if (job->start) {
        double k = ceil(job->strength * (double)r->s.n);
        r->begin = k < 1 ? 0 : (size_t)k - 1;
    }
    r->threads = pool_threads(pool);
    r->group = GROUP * (size_t)r->threads < job->n ? GROUP * (size_t)r->threads : job->n;
    r->op = *nn_f32_for(CPU_AUTO);
    r->batch = r->o->bf16 && nn_bf16_products(&r->op) ? batch_of(r) : 1;
    r->bench = calloc((size_t)r->threads, sizeof *r->bench);
    r->sample = calloc(r->group + 1, sizeof *r->sample);
    if (!r->bench || !r->sample)
        return err_set(e, ERR_NOMEM, "diffusion: out of memory");
    for (int k = 0; k < r->threads && rc == 0; k++)
        rc = bench_init(&r->bench[k], r, e);
    for (size_t i = 0; i < r->group && rc == 0; i++) {
        r->sample[i].x = calloc(2 * r->n, sizeof(double));
        if (!r->sample[i].x)
            return err_set(e, ERR_NOMEM, "diffusion: out of memory");
        r->sample[i].x0 = r->sample[i].x + r->n;
        rc = dit_solver_init(&r->sample[i].solver, &r->s, &so, r->n, e);
    }
    return rc;
}

static void run_fini(struct run *r)
{
    for (int k = 0; k < r->threads && r->bench; k++) {
        dit_work_free_f32(r->bench[k].work);
        free(r->bench[k].in);
        free(r->bench[k].pred);
        free(r->bench[k].t);
        free(r->bench[k].label);
        free(r->bench[k].cond);
    }
    for (size_t i = 0; i < r->group && r->sample; i++) {
        free(r->sample[i].x);
        dit_solver_fini(&r->sample[i].solver);
    }
    free(r->bench);
    free(r->sample);
    dit_schedule_fini(&r->s);
}

/* Row k of a bench's batch: x, at t, under the condition c. */
static void set_row(const struct run *r, struct bench *b, size_t k, const double *x,
                    const struct diffuser_condition *c)
{
    const size_t Y = r->d->info.cond_dim;
    for (size_t i = 0; i < r->n; i++)
        b->in[k * r->n + i] = (float)x[i];
    b->t[k] = r->s.step[r->step].t;
    b->label[k] = c->label == DIFFUSER_VECTOR ? DIT_LABEL_TEXT
                  : c->label == DIFFUSER_NONE ? (uint32_t)r->d->info.n_label
                                              : (uint32_t)c->label;
    for (size_t i = 0; c->label == DIFFUSER_VECTOR && i < Y; i++)
        b->cond[k * Y + i] = (c->vector[i] - r->d->cond_mean[i]) / r->d->cond_scale[i];
}

/* What the network says at each of m samples' x under their conditions [m] and, but for a guidance of 1, under the
 * negative one: out, behind each other. */
static void predict(const struct run *r, struct bench *b, const struct sample *s, size_t m,
                    const struct diffuser_condition *c, double guidance)
{
    const size_t S = guidance == 1 ? m : 2 * m;
    for (size_t k = 0; k < S; k++)
        set_row(r, b, k, s[k % m].x, k < m ? &c[k] : &r->o->negative);
    const struct dit_input_f32 in = {
        .S = S, .x = b->in, .t = b->t, .label = b->label, .cond = b->cond};
    dit_forward_f32(b->work, r->d->params, &in, b->out);
}

/* Of sample k of m, guided: b->pred. */
static void take_prediction(const struct run *r, struct bench *b, size_t k, size_t m,
                            double guidance)
{
    for (size_t i = 0; i < r->n; i++)
        b->pred[i] = (double)b->out[k * r->n + i];
    if (guidance == 1)
        return;
    for (size_t i = 0; i < r->n; i++)
        b->base[i] = (double)b->out[(m + k) * r->n + i];
    dit_guide(b->pred, b->base, guidance, r->n);
}

/* The tokens to keep take the noise level they would have on the way. */
static void put_back(const struct run *r, struct bench *b, struct sample *s, uint32_t number)
{
    const size_t K = r->d->info.token_dim;
    if (r->step)
        dit_noise(b->noise, r->n, r->o->seed, number, (uint32_t)(MOMENT_KEEP + r->step));
    for (size_t t = 0; t < r->d->info.n_token; t++)
        if (r->job->keep[t] && r->step)
            dit_add_noise(s->x + t * K, s->x0 + t * K, b->noise + t * K, &r->s.step[r->step - 1],
                          K);
        else if (r->job->keep[t])
            memcpy(s->x + t * K, s->x0 + t * K, K * sizeof(double));
}

/* From b->pred, the number of the sample in the job being at. */
static void step_sample(const struct run *r, struct bench *b, struct sample *s, size_t at)
{
    const struct diffuser_job *job = r->job;
    const uint32_t number = job->first + (uint32_t)at;
    if (r->inverting) {
        dit_solver_invert(&s->solver, r->step, s->x, b->pred);
        return;
    }
    bool noisy = dit_solver_wants_noise(&s->solver, r->step);
    if (noisy)
        dit_noise(b->noise, r->n, r->o->seed, number, (uint32_t)(MOMENT_STEP + r->step));
    dit_solver_step(&s->solver, r->step, s->x, b->pred, noisy ? b->noise : NULL);
    if (job->start && job->keep)
        put_back(r, b, s, number);
}

static void step_part(void *ctx, int part, int parts)
{
    struct run *r = ctx;
    struct bench *b = &r->bench[part];
    const struct diffuser_condition *c = r->inverting ? r->job->source : r->job->condition;
    const double guidance = r->inverting ? 1 : r->o->guidance;
    size_t lo, hi;
    pool_slice(r->count, 1, part, parts, &lo, &hi);
    for (size_t i = lo, m; i < hi; i += m) {
        m = hi - i < r->batch ? hi - i : r->batch;
        predict(r, b, &r->sample[i], m, c + r->first + i, guidance);
        for (size_t k = 0; k < m; k++) {
            take_prediction(r, b, k, m, guidance);
            step_sample(r, b, &r->sample[i + k], r->first + i + k);
        }
    }
}

/* Where the group's samples start: noise, or the start's coordinates, noised unless inverted. */
static int start_group(struct run *r, struct err *e)
{
    const struct diffuser_job *job = r->job;
    const size_t S = state_shape_floats(&r->d->info.shape);
    double *noise = r->bench[0].noise;
    float *z = r->bench[0].in;
    for (size_t i = 0; i < r->count; i++) {
        struct sample *s = &r->sample[i];
        s->solver.has_prev = false;
        dit_noise(noise, r->n, r->o->seed, job->first + (uint32_t)(r->first + i), MOMENT_START);
        if (!job->start) {
            memcpy(s->x, noise, r->n * sizeof *noise);
            continue;
        }
        int rc = dit_codec_encode(&r->d->codec, job->start + (r->first + i) * S, 1, z, e);
        if (rc < 0)
            return rc;
        for (size_t k = 0; k < r->n; k++)
            s->x0[k] = (double)z[k];
        if (job->source)
            memcpy(s->x, s->x0, r->n * sizeof *s->x);
        else
            dit_add_noise(s->x, s->x0, noise, &r->s.step[r->begin], r->n);
    }
    return 0;
}

/* Kept tokens come from the start as they are. */
static void copy_kept(const struct run *r, float *state, const float *start)
{
    const struct diffuser_info *info = &r->d->info;
    const size_t N = info->shape.head_size, C = info->shape.n_embd, layer = 2 * C + C * N;
    for (size_t l = 0; l < info->shape.n_layer; l++) {
        for (size_t h = 0; h < C / N; h++)
            if (r->job->keep[diffuser_matrix_token(info, l, h)])
                memcpy(state + l * layer + C + h * N * N, start + l * layer + C + h * N * N,
                       N * N * sizeof *state);
        for (size_t k = 0; k < 2 && info->shifts; k++)
            if (r->job->keep[diffuser_shift_token(info, l, k)])
                memcpy(state + l * layer + k * (C + C * N), start + l * layer + k * (C + C * N),
                       C * sizeof *state);
    }
}

static int finish_group(struct run *r, struct err *e)
{
    const struct diffuser_job *job = r->job;
    const size_t S = state_shape_floats(&r->d->info.shape);
    float *z = r->bench[0].in;
    for (size_t i = 0; i < r->count; i++) {
        float *state = job->states + (r->first + i) * S;
        for (size_t k = 0; k < r->n; k++)
            z[k] = (float)r->sample[i].x[k];
        int rc = dit_codec_decode(&r->d->codec, z, state, e);
        if (rc < 0)
            return rc;
        if (job->coordinates)
            memcpy(job->coordinates + (r->first + i) * r->n, z, r->n * sizeof *z);
        if (job->start && job->keep)
            copy_kept(r, state, job->start + (r->first + i) * S);
        for (size_t k = 0; k < S; k++)
            if (!isfinite(state[k]))
                return err_set(e, ERR_NUMERIC, "diffusion: state %zu is not finite", r->first + i);
    }
    return 0;
}

/* One step of the whole group, then whether to go on. */
static int step_group(struct run *r, struct pool *pool, size_t step, size_t *done, struct err *e)
{
    const struct diffuser_job *job = r->job;
    const size_t groups = (job->n + r->group - 1) / r->group;
    const size_t each = r->begin + 1 + (job->start && job->source ? r->begin : 0);
    r->step = step;
    pool_run(pool, step_part, r);
    ++*done;
    if (job->proceed && !job->proceed(job->ctx, *done, groups * each))
        return err_set(e, ERR_CANCELLED, "diffusion: stopped at step %zu of %zu", *done,
                       groups * each);
    return 0;
}

static int run_group(struct run *r, struct pool *pool, size_t *done, struct err *e)
{
    int rc = start_group(r, e);
    r->inverting = true;
    for (size_t i = 0; i < r->begin && r->job->start && r->job->source && rc == 0; i++)
        rc = step_group(r, pool, i, done, e);
    r->inverting = false;
    for (size_t i = r->begin + 1; i-- > 0 && rc == 0;)
        rc = step_group(r, pool, i, done, e);
    return rc < 0 ? rc : finish_group(r, e);
}

int diffuser_run(const struct diffuser *d, struct pool *pool, const struct diffuser_options *o,
                 const struct diffuser_job *job, struct err *e)
{
    struct run r = {.d = d, .o = o, .job = job};
    size_t done = 0;
    int rc = check(d, o, job, e);
    if (rc == 0)
        rc = run_init(&r, pool, e);
    for (; r.first < job->n && rc == 0; r.first += r.count) {
        r.count = job->n - r.first < r.group ? job->n - r.first : r.group;
        rc = run_group(&r, pool, &done, e);
    }
    run_fini(&r);
    return rc;
}

int diffuser_encode(const struct diffuser *d, const float *states, size_t n, float *coordinates,
                    struct err *e)
{
    return dit_codec_encode(&d->codec, states, n, coordinates, e);
}
