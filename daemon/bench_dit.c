#include "daemon/bench_dit.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/bench_corpora.h"
#include "engine/dit/dit.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/gemm_bf16.h"
#include "engine/kernels/rng.h"
#include "engine/train/dit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH       600
#define WARM_UP    2 /* steps of training that are not counted */
#define TOGETHER   16
#define COMPONENTS 64
#define SIDE       2048 /* of the matrices of the product beside it */

enum { FILES = 8, MADE = 2 }; /* in the folder; the first that training makes */
static const char *const files[FILES] = {"states",
                                         "recipe.json",
                                         "out/codec.safetensors",
                                         "out/checkpoint.safetensors",
                                         "out/diffuser.safetensors",
                                         "out/log.jsonl",
                                         "out",
                                         ""};

static void path_of(const char *dir, const char *name, char path[PATH])
{
    snprintf(path, PATH, "%s%s%s", dir, *name ? "/" : "", name);
}

static void remove_files(const char *dir, size_t from, size_t to)
{
    char path[PATH];
    for (size_t i = from; i < to; i++) {
        path_of(dir, files[i], path);
        (void)remove(path);
    }
}

/* Standard normal states with conditions alike. */
static int write_states(const struct bench_dit *b, const char *path, struct err *e)
{
    static const char *const label[] = {"some"};
    const size_t S = state_shape_floats(&b->shape), C = b->shape.n_embd;
    struct dataset_row *rows = calloc(b->rows, sizeof *rows);
    float *x = calloc(S + C, sizeof *x);
    const struct dataset_plan plan = {
        .shape = b->shape,
        .cond_dim = C,
        .n = b->rows,
        .rows = rows,
        .label = label,
        .n_label = 1,
        .fingerprint = "0000000000000000000000000000000000000000000000000000000000000000",
        .weights = "F32"};
    struct dataset_writer w = {0};
    struct rng rng;
    rng_init(&rng, 1, 0);
    int rc = rows && x ? 0 : err_set(e, ERR_NOMEM, "bench: no memory for states");
    for (size_t i = 0; rc == 0 && i < b->rows; i++)
        rows[i] =
            (struct dataset_row){.style = -1, .document = (int32_t)i, .text = ".", .n_text = 1};
    if (rc == 0) {
        rc = dataset_writer_open(&w, path, &plan, e);
        for (size_t i = 0; rc == 0 && i < b->rows; i++) {
            for (size_t k = 0; k < S + C; k++)
                x[k] = (float)rng_normal(&rng);
            rc = dataset_writer_put(&w, i, x, x + S, e);
        }
        rc = dataset_writer_close(&w, rc, e);
    }
    free(rows);
    free(x);
    return rc;
}

static int write_recipe(const struct bench_dit *b, const char *dir, bool bf16, const char *path,
                        struct err *e)
{
    FILE *f = fopen(path, "w");
    if (!f)
        return err_set(e, ERR_IO, "bench: %s: %s", path, strerror(errno));
    fprintf(f,
            "{\"model\": \"none\", \"products\": \"%s\", \"dataset\": \"%s/states\", \"out\": "
            "\"%s/out\", "
            "\"components\": %d, "
            "\"n_embd\": %zu, \"n_head\": %zu, \"batch\": %zu, \"steps\": %zu, \"warmup\": 1, "
            "\"eval_every\": 1000000, \"checkpoint_every\": 1000000, "
            "\"data\": [{\"name\": \"some\", \"path\": \"none\"}]}\n",
            bf16 ? "bf16" : "f32", dir, dir, COMPONENTS, b->n_embd, b->n_head, b->batch, b->steps);
    return fclose(f) == 0 ? 0 : err_set(e, ERR_IO, "bench: %s: %s", path, strerror(errno));
}

struct product {
    const float *a, *b; /* [SIDE, SIDE] */
    float *c;
};

static void product_part(void *ctx, int part, int parts)
{
    const struct product *p = ctx;
    size_t lo, hi;
    pool_slice(SIDE, 16, part, parts, &lo, &hi);
    gemm_f32(false, false, hi - lo, SIDE, SIDE, 1, p->a + lo * SIDE, SIDE, p->b, SIDE, 0,
             p->c + lo * SIDE, SIDE);
}

static int measure_sgemm(struct pool *pool, double *gflops, struct err *e)
{
    const size_t n = (size_t)SIDE * SIDE;
    float *a = mem_calloc_aligned(3 * n, sizeof *a);
    if (!a)
        return err_set(e, ERR_NOMEM, "bench: no memory for a product");
    struct product p = {a, a + n, a + 2 * n};
    for (size_t i = 0; i < 2 * n; i++)
        a[i] = (float)(i % 7) - 3;
    gemm_setup();
    for (int k = 0; k < 5; k++) {
        uint64_t begin = clock_ns();
        pool_run(pool, product_part, &p);
        double speed = 2.0 * SIDE * (double)n / (double)(clock_ns() - begin);
        *gflops = speed > *gflops ? speed : *gflops;
    }
    free(a);
    return 0;
}

static void on_step(void *ctx, const struct train_step *s)
{
    uint64_t *at = ctx; /* [2]: behind the warm-up, now */
    at[s->step > WARM_UP] = clock_ns();
}

static int measure_training(const struct bench_dit *b, const char *dir, bool bf16,
                            struct pool *pool, double *samples_per_s, struct err *e)
{
    char path[PATH];
    uint64_t at[2] = {0};
    bool done;
    struct dit_recipe *r = calloc(1, sizeof *r);
    const struct train_control c = {.on_step = on_step, .ctx = at};
    path_of(dir, "recipe.json", path);
    int rc = r ? write_recipe(b, dir, bf16, path, e) : err_set(e, ERR_NOMEM, "bench: no memory");
    rc = rc < 0 ? rc : dit_recipe_read(r, path, e);
    rc = rc < 0 ? rc : train_dit(r, &c, pool, &done, e);
    if (rc == 0)
        *samples_per_s = (double)((b->steps - WARM_UP) * b->batch) * 1e9 / (double)(at[1] - at[0]);
    free(r);
    return rc;
}

/* Milliseconds a state of n made at once. */
static int sample(const struct diffuser *d, struct pool *pool, size_t n, bool bf16, double *ms,
                  struct err *e)
{
    const struct diffuser_info *i = diffuser_get_info(d);
    struct diffuser_options o = DIFFUSER_OPTIONS;
    o.bf16 = bf16;
    struct diffuser_condition *c = calloc(n, sizeof *c);
    float *states = malloc(n * state_shape_floats(&i->shape) * sizeof *states);
    float *vector = calloc(i->cond_dim, sizeof *vector);
    int rc = c && states && vector ? 0 : err_set(e, ERR_NOMEM, "bench: no memory for states");
    for (size_t k = 0; rc == 0 && k < n; k++)
        c[k] = (struct diffuser_condition){.label = DIFFUSER_VECTOR, .vector = vector};
    const struct diffuser_job job = {.n = n, .condition = c, .states = states};
    uint64_t begin = clock_ns();
    rc = rc < 0 ? rc : diffuser_run(d, pool, &o, &job, e);
    *ms = (double)(clock_ns() - begin) / 1e6 / (double)n;
    free(c);
    free(states);
    free(vector);
    return rc;
}

/* Twice the multiply-adds of a block's products with weights and of its attention, a sample: a training step
 * does them three times. */
static double block_flops(const struct diffuser_info *i)
{
    double T = (double)i->n_token, C = (double)i->n_embd, M = (double)i->n_mlp;
    return 2 * (double)i->n_block * (T * C * (4 * C + 2 * M) + 2 * T * T * C);
}

/* With one kind of products; what training makes is removed again. */
static int measure_products(const struct bench_dit *b, const char *dir, bool bf16, struct pool *one,
                            struct pool *pool, struct bench_dit_speed *out, struct err *e)
{
    struct bench_dit_products *p = &out->with[bf16];
    struct diffuser *d = NULL;
    char path[PATH];
    int rc = measure_training(b, dir, bf16, pool, &p->samples_per_s, e);
    path_of(dir, "out/diffuser.safetensors", path);
    rc = rc < 0 ? rc : diffuser_open(path, &d, e);
    rc = rc < 0 ? rc : sample(d, one, 1, bf16, &p->one_ms, e);
    rc = rc < 0 ? rc : sample(d, pool, TOGETHER, bf16, &p->each_ms, e);
    if (rc == 0) {
        const struct diffuser_info *i = diffuser_get_info(d);
        out->n_params = i->n_params;
        out->n_token = i->n_token;
        p->gflops = 3 * block_flops(i) * p->samples_per_s / 1e9;
    }
    diffuser_close(d);
    remove_files(dir, MADE, FILES - 1);
    return rc;
}

int measure_dit(const struct bench_dit *b, struct pool *one, struct pool *pool,
                struct bench_dit_speed *out, struct err *e)
{
    char dir[PATH / 2], path[PATH];
    *out = (struct bench_dit_speed){0};
    if (bench_folder(dir, sizeof dir, e) < 0)
        return e->code;
    path_of(dir, "states", path);
    int rc = write_states(b, path, e);
    rc = rc < 0 ? rc : measure_sgemm(pool, &out->sgemm, e);
    rc = rc < 0 ? rc : measure_products(b, dir, false, one, pool, out, e);
    if (rc == 0 && gemm_bf16_for(CPU_AUTO))
        rc = measure_products(b, dir, true, one, pool, out, e);
    remove_files(dir, 0, FILES);
    return rc;
}
