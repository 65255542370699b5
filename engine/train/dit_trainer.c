#include "engine/train/dit_trainer.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"

#include <math.h>

/* What a thread needs for a micro-batch. */
struct dit_bench {
    struct dit_work_f32 *work;
    float *x, *target, *out; /* [MICRO, n] */
    float *cond;             /* [MICRO, cond_dim] */
    double t[DIT_MICRO];
    uint32_t label[DIT_MICRO];
    double loss;
    double error[DIT_EVAL_COUNT][DIT_EVAL_TIMES];
};

/* Training rows sorted by document, and each row's document among them. */
static int index_rows(struct dit_trainer *t, struct err *e)
{
    const struct dataset *d = t->d;
    t->train = calloc(d->n, sizeof *t->train);
    t->begin = calloc(d->n, sizeof *t->begin);
    t->end = calloc(d->n, sizeof *t->end);
    if (!t->train || !t->begin || !t->end)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    for (size_t i = 0; i < d->n; i++) {
        size_t k = t->n_train;
        if (d->row[i].heldout)
            continue;
        /* rows come by document from baking; others are moved to their place */
        while (k > 0 && d->row[t->train[k - 1]].document > d->row[i].document) {
            t->train[k] = t->train[k - 1];
            k--;
        }
        t->train[k] = i;
        t->n_train++;
    }
    for (size_t a = 0, b; a < t->n_train; a = b) {
        for (b = a; b < t->n_train && d->row[t->train[b]].document == d->row[t->train[a]].document;)
            b++;
        for (size_t k = a; k < b; k++) {
            t->begin[t->train[k]] = a;
            t->end[t->train[k]] = b;
        }
    }
    return t->n_train ? 0 : err_set(e, ERR_INVALID, "dataset: no rows to train on");
}

static int encode_rows(struct dit_trainer *t, struct err *e)
{
    const struct dataset *d = t->d;
    const size_t S = d->state_floats, block = dit_codec_block(&t->net->codec);
    size_t total;
    float *states = malloc(block * S * sizeof *states);
    t->z = mem_mul(d->n, t->n, &total) ? mem_calloc_aligned(total, sizeof *t->z) : NULL;
    int rc = states && t->z ? 0 : err_set(e, ERR_NOMEM, "training: out of memory");
    for (size_t i = 0; i < d->n && rc == 0; i += block) {
        size_t m = d->n - i < block ? d->n - i : block;
        for (size_t k = 0; k < m; k++)
            dataset_state(d, i + k, states + k * S);
        rc = manifold_proceed(t->run, i, d->n, e);
        if (rc == 0)
            rc = dit_codec_encode(&t->net->codec, states, m, t->z + i * t->n, e);
    }
    free(states);
    return rc;
}

/* Each number of the vectors gets mean 0 and variance 1 over the training rows that have a text. */
static int normalise(struct dit_trainer *t, struct err *e)
{
    const struct dataset *d = t->d;
    const size_t Y = d->cond_dim;
    t->cond = mem_calloc_aligned(d->n * Y, sizeof *t->cond);
    t->net->cond_mean = calloc(Y + 1, sizeof(float));
    t->net->cond_scale = calloc(Y + 1, sizeof(float));
    if (!t->cond || !t->net->cond_mean || !t->net->cond_scale)
        return err_set(e, ERR_NOMEM, "training: out of memory");
    size_t n = 0;
    for (size_t k = 0; k < t->n_train; k++)
        n += d->row[t->train[k]].n_text > 0;
    for (size_t c = 0; c < Y; c++) {
        double sum = 0, squares = 0;
        for (size_t k = 0; k < t->n_train; k++)
            sum += (double)d->cond[t->train[k] * Y + c]; /* zero without text */
        double mean = sum / (double)(n + !n);
        for (size_t k = 0; k < t->n_train; k++) {
            double x = (double)d->cond[t->train[k] * Y + c] - mean;
            squares += d->row[t->train[k]].n_text ? x * x : 0;
        }
        double scale = sqrt(squares / (double)(n + !n));
        t->net->cond_mean[c] = (float)mean;
        t->net->cond_scale[c] = scale > 1e-8 ? (float)scale : 1;
    }
    for (size_t i = 0; i < d->n * Y; i++)
        t->cond[i] = (d->cond[i] - t->net->cond_mean[i % Y]) / t->net->cond_scale[i % Y];
    return 0;
}

static int make_buffers(struct dit_trainer *t, struct err *e)
{
    const struct dit_layout *l = &t->net->layout;
    t->bench = calloc((size_t)t->threads, sizeof *t->bench);
    bool ok = t->bench;
    for (int k = 0; ok && k < t->threads; k++) {
        struct dit_bench *b = &t->bench[k];
        b->work = dit_work_new_f32(l, &t->op, DIT_MICRO);
        b->x = mem_calloc_aligned(3 * DIT_MICRO * t->n, sizeof *b->x);
        b->cond = mem_calloc_aligned(DIT_MICRO * l->shape.cond_dim + 1, sizeof *b->cond);
        ok = b->work && b->x && b->cond;
        b->target = ok ? b->x + DIT_MICRO * t->n : NULL;
        b->out = ok ? b->target + DIT_MICRO * t->n : NULL;
    }
    return ok ? 0 : err_set(e, ERR_NOMEM, "training: out of memory");
}

double dit_trainer_plan(const struct dit_layout *l, size_t rows, int threads)
{
    const double work = (double)dit_work_plan_f32(l, DIT_MICRO), T = (double)threads;
    const double n = (double)(l->shape.n_token * l->shape.token_dim);
    const double row = n + (double)l->shape.cond_dim;  /* coordinates and vector, F32 */
    const double weights = (double)l->count * (4 + T); /* weights, average, m, v; gradients */
    const double samples = T * DIT_MICRO * (3 * n + (double)l->shape.cond_dim);
    return work > 0 ? (double)rows * (4 * row + 24) + 4 * (weights + samples) + T * work : 0;
}

int dit_trainer_init(struct dit_trainer *t, const struct dit_recipe *r, const struct dataset *d,
                     struct diffuser *net, const struct manifold_run *run, struct err *e)
{
    *t = (struct dit_trainer){.r = r,
                              .d = d,
                              .net = net,
                              .op = *nn_f32_for(CPU_AUTO),
                              .run = run,
                              .pool = run->pool,
                              .threads = pool_threads(run->pool),
                              .n = net->codec.n_token * net->codec.K};
    if (r->bf16)
        nn_bf16_products(&t->op);
    int rc = index_rows(t, e);
    if (rc == 0)
        rc = encode_rows(t, e);
    if (rc == 0)
        rc = normalise(t, e);
    if (rc == 0)
        rc = ema_init(&t->w, net->layout.count, net->params, t->threads, e);
    return rc < 0 ? rc : make_buffers(t, e);
}

void dit_trainer_fini(struct dit_trainer *t)
{
    for (int k = 0; k < t->threads; k++) {
        if (t->bench) {
            dit_work_free_f32(t->bench[k].work);
            free(t->bench[k].x);
            free(t->bench[k].cond);
        }
    }
    void *all[] = {t->bench, t->train, t->begin, t->end, t->z, t->cond};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    ema_fini(&t->w);
    memset(t, 0, sizeof *t);
}

static size_t other_row(const struct dit_trainer *t, size_t row, struct rng *rng)
{
    size_t a = t->begin[row], b = t->end[row];
    return t->train[a + rng_below(rng, b - a)];
}

/* The mean of 1, 2 or r->texts vectors of the row's document, the first its own every second
 * time. */
static void draw_text(const struct dit_trainer *t, size_t row, float *cond, struct rng *rng)
{
    const size_t Y = t->d->cond_dim, choice = rng_below(rng, 3);
    size_t n = choice == 0 ? 1 : choice == 1 ? 2 : t->r->texts;
    n = n < t->r->texts ? n : t->r->texts;
    memset(cond, 0, Y * sizeof *cond);
    for (size_t k = 0; k < n; k++) {
        bool own = k == 0 && rng_below(rng, 2);
        const float *from = t->cond + (own ? row : other_row(t, row, rng)) * Y;
        for (size_t c = 0; c < Y; c++)
            cond[c] += from[c] / (float)n;
    }
}

/* A row's label to train by: a fine style every second time if it has one, else the corpus; of a row
 * without text always the style. */
static int32_t draw_label(const struct dataset_row *row, struct rng *rng)
{
    bool fine = rng_below(rng, 2);
    if (!row->n_text)
        return row->style;
    return (fine && row->style >= 0) || row->corpus < 0 ? row->style : row->corpus;
}

/* Noises row `row` at timestep index `at` into place k of the bench. */
static void put_sample(const struct dit_trainer *t, struct dit_bench *b, size_t k, size_t row,
                       size_t at, struct rng *rng)
{
    const struct dit_step *p = &t->net->schedule.step[at];
    const float *z = t->z + row * t->n;
    const float a = (float)sqrt(p->alpha_bar), s = (float)sqrt(1 - p->alpha_bar);
    float *x = b->x + k * t->n, *y = b->target + k * t->n;
    for (size_t i = 0; i < t->n; i++) {
        float noise = (float)rng_normal(rng);
        x[i] = a * z[i] + s * noise;
        y[i] = t->r->prediction == DIT_PREDICT_V    ? a * noise - s * z[i]
               : t->r->prediction == DIT_PREDICT_X0 ? z[i]
                                                    : noise;
    }
    b->t[k] = p->t;
}

static void draw_sample(const struct dit_trainer *t, struct dit_bench *b, size_t k, uint64_t step,
                        size_t place)
{
    struct rng rng;
    rng_init(&rng, t->r->seed, (step << 20) + place);
    size_t row = t->train[rng_below(&rng, t->n_train)];
    size_t at = rng_below(&rng, t->net->schedule.n);
    double u = rng_uniform(&rng), w = rng_uniform(&rng);
    int32_t label = draw_label(&t->d->row[row], &rng);
    draw_text(t, row, b->cond + k * t->d->cond_dim, &rng);
    const bool by_label = (w < t->r->label_share && label >= 0) || !t->d->row[row].n_text;
    b->label[k] = u < t->r->condition_dropout || (by_label && label < 0) ? (uint32_t)t->d->n_label
                  : by_label                                             ? (uint32_t)label
                                                                         : DIT_LABEL_TEXT;
    put_sample(t, b, k, row, at, &rng);
}

struct step_job {
    struct dit_trainer *t;
    uint64_t step;
    size_t round, rounds; /* micro-batches of the thread that has most */
};

/* The round's micro-batch of this thread's samples. */
static void gradient_part(void *ctx, int part, int parts)
{
    const struct step_job *j = ctx;
    struct dit_trainer *t = j->t;
    struct dit_bench *b = &t->bench[part];
    const float scale = 2 / (float)(t->r->batch * t->n);
    size_t lo, hi;
    pool_slice(t->r->batch, 1, part, parts, &lo, &hi);
    if (j->round == 0) {
        memset(t->w.grad[part], 0, t->w.count * sizeof(float));
        b->loss = 0;
    }
    const size_t i = lo + j->round * DIT_MICRO;
    if (i < hi) {
        size_t S = hi - i < DIT_MICRO ? hi - i : DIT_MICRO;
        for (size_t k = 0; k < S; k++)
            draw_sample(t, b, k, j->step, i + k);
        const struct dit_input_f32 in = {
            .S = S, .x = b->x, .t = b->t, .label = b->label, .cond = b->cond};
        dit_forward_f32(b->work, t->w.params, &in, b->out);
        for (size_t k = 0; k < S * t->n; k++) {
            float d = b->out[k] - b->target[k];
            b->loss += (double)d * (double)d;
            b->out[k] = scale * d;
        }
        dit_backward_f32(b->work, t->w.params, t->w.grad[part], b->out, NULL, NULL);
    }
    if (j->round + 1 == j->rounds)
        ema_sum_part(&t->w, t->pool, part, parts);
}

/* The most samples that a thread has, in micro-batches. */
static size_t count_rounds(const struct dit_trainer *t)
{
    size_t most = 0, lo, hi;
    for (int k = 0; k < t->threads; k++) {
        pool_slice(t->r->batch, 1, k, t->threads, &lo, &hi);
        most = hi - lo > most ? hi - lo : most;
    }
    return (most + DIT_MICRO - 1) / DIT_MICRO;
}

double dit_trainer_step(struct dit_trainer *t, uint64_t step, double lr, double *norm)
{
    struct step_job j = {.t = t, .step = step, .rounds = count_rounds(t)};
    double loss = 0;
    for (; j.round < j.rounds; j.round++) {
        if (j.round && t->run->proceed)
            t->run->proceed(t->run->arg, j.round, j.rounds);
        pool_run(t->pool, gradient_part, &j);
    }
    for (int k = 0; k < t->threads; k++)
        loss += t->bench[k].loss;
    loss /= (double)(t->r->batch * t->n);
    *norm = ema_norm(&t->w, &t->op);
    if (!isfinite(loss) || !isfinite(*norm))
        return loss;
    const struct ema_options o = {&t->op, &t->r->adamw, t->r->ema};
    ema_step(&t->w, &o, t->pool, lr, step, *norm);
    return loss;
}

/* ---- evaluation ---- */

struct eval_job {
    struct dit_trainer *t;
    const size_t *row; /* [n] */
    size_t n;
};

/* Another row of the same document and side, or the row itself. */
static size_t neighbour(const struct dataset *d, size_t row)
{
    const struct dataset_row *r = d->row;
    if (row + 1 < d->n && r[row + 1].document == r[row].document)
        return row + 1;
    return row && r[row - 1].document == r[row].document ? row - 1 : row;
}

/* Coordinates of matrices, which come first. */
static size_t matrices(const struct dit_trainer *t)
{
    return t->net->codec.n_matrix * t->net->codec.K;
}

static void eval_sample(struct dit_trainer *t, struct dit_bench *b, size_t row, size_t time)
{
    const size_t Y = t->d->cond_dim, n = t->n, at = 100 + 200 * time;
    const struct dit_step *p = &t->net->schedule.step[at];
    const double a = sqrt(p->alpha_bar), s = sqrt(1 - p->alpha_bar);
    struct rng rng;
    rng_init(&rng, t->r->seed, ~(uint64_t)(row * DIT_EVAL_TIMES + time));
    put_sample(t, b, 0, row, at, &rng);
    for (size_t k = 1; k < DIT_EVAL_COUNT; k++) {
        memcpy(b->x + k * n, b->x, n * sizeof *b->x);
        b->t[k] = b->t[0];
    }
    const int32_t corpus = t->d->row[row].corpus;
    memcpy(b->cond, t->cond + row * Y, Y * sizeof *b->cond);
    memcpy(b->cond + Y, t->cond + neighbour(t->d, row) * Y, Y * sizeof *b->cond);
    b->label[DIT_EVAL_OWN] = b->label[DIT_EVAL_TEXT] = DIT_LABEL_TEXT;
    b->label[DIT_EVAL_LABEL] = corpus < 0 ? (uint32_t)t->d->n_label : (uint32_t)corpus;
    b->label[DIT_EVAL_NONE] = (uint32_t)t->d->n_label;
    const struct dit_input_f32 in = {
        .S = DIT_EVAL_COUNT, .x = b->x, .t = b->t, .label = b->label, .cond = b->cond};
    dit_forward_f32(b->work, t->net->params, &in, b->out);
    for (size_t k = 0; k < DIT_EVAL_COUNT; k++)
        for (size_t i = 0; i < matrices(t); i++) {
            double x = (double)b->x[i], y = (double)b->out[k * n + i];
            double x0 = t->r->prediction == DIT_PREDICT_V    ? a * x - s * y
                        : t->r->prediction == DIT_PREDICT_X0 ? y
                                                             : (x - s * y) / a;
            double d = x0 - (double)t->z[row * n + i];
            b->error[k][time] += d * d;
        }
}

static void eval_part(void *ctx, int part, int parts)
{
    const struct eval_job *j = ctx;
    struct dit_bench *b = &j->t->bench[part];
    memset(b->error, 0, sizeof b->error);
    for (size_t i = (size_t)part; i < j->n; i += (size_t)parts)
        for (size_t time = 0; time < DIT_EVAL_TIMES; time++)
            eval_sample(j->t, b, j->row[i], time);
}

void dit_trainer_evaluate(struct dit_trainer *t, size_t most,
                          double error[DIT_EVAL_COUNT][DIT_EVAL_TIMES])
{
    size_t row[256], all = 0, seen = 0;
    struct eval_job j = {.t = t, .row = row};
    most = most < 256 ? most : 256;
    const size_t held = t->d->n - t->n_train;
    all = held ? held : t->d->n;
    most = most < all ? most : all;
    for (size_t i = 0; i < t->d->n && j.n < most; i++)
        if (t->d->row[i].heldout || !held)
            if (seen++ == j.n * all / most)
                row[j.n++] = i;
    pool_run(t->pool, eval_part, &j);
    for (size_t k = 0; k < DIT_EVAL_COUNT; k++)
        for (size_t time = 0; time < DIT_EVAL_TIMES; time++) {
            error[k][time] = 0;
            for (int p = 0; p < t->threads; p++)
                error[k][time] += t->bench[p].error[k][time];
            error[k][time] /= (double)(j.n * matrices(t));
        }
}
