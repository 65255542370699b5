/* Fitting a codec: means over the rows, then token by token its bases and its scale. */
#include "engine/dit/codec.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/lapack.h"
#include "engine/manifold/pca.h"
#include "engine/tensor/dtype.h"

#include <math.h>

struct fit {
    struct dit_codec *c;
    const struct dataset *d;
    const struct manifold_run *run;
    size_t *row; /* [n] of the dataset */
    size_t n;
    float *x;     /* [n, width] of a token, the mean taken off */
    float *state; /* [S] */
};

static int choose_rows(struct fit *f, size_t most, struct err *e)
{
    size_t all = 0, seen = 0;
    for (size_t i = 0; i < f->d->n; i++)
        all += !f->d->row[i].heldout;
    size_t n = most && most < all ? most : all;
    f->row = calloc(n + 1, sizeof *f->row);
    if (!f->row)
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (size_t i = 0; i < f->d->n && f->n < n; i++)
        if (!f->d->row[i].heldout && seen++ == f->n * all / n)
            f->row[f->n++] = i;
    return 0;
}

static int find_mean(struct fit *f, struct err *e)
{
    const size_t S = f->d->state_floats;
    double *sum = calloc(S, sizeof *sum);
    if (!sum)
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (size_t i = 0; i < f->n; i++) {
        dataset_state(f->d, f->row[i], f->state);
        for (size_t k = 0; k < S; k++)
            sum[k] += (double)f->state[k];
    }
    for (size_t k = 0; k < S; k++)
        f->c->mean[k] = (float)(sum[k] / (double)f->n);
    free(sum);
    return 0;
}

static void to_f16(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = f16_to_f32(f32_to_f16(x[i]));
}

/* The elements [at, at + n) of every row, the mean taken off: f->x [rows, n]. */
static void load(struct fit *f, size_t at, size_t n)
{
    const uint16_t *states = f->d->states;
    for (size_t i = 0; i < f->n; i++) {
        float *x = f->x + i * n;
        dtype_to_f32(DTYPE_F16, states + f->row[i] * f->d->state_floats + at, x, n);
        for (size_t k = 0; k < n; k++)
            x[k] -= f->c->mean[at + k];
    }
}

/* The p leading eigenvectors of the sum of X X^T (left) or X^T X (right): out [p, N]. */
static int find_side(struct fit *f, bool left, float *out, struct err *e)
{
    const size_t N = f->c->shape.head_size, p = f->c->p;
    double *a = calloc(N * N, sizeof *a), *x = malloc(N * N * sizeof *x);
    double *vectors = malloc(p * N * sizeof *vectors), *values = malloc(p * sizeof *values);
    int rc = a && x && vectors && values ? 0 : err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        for (size_t k = 0; k < N * N; k++)
            x[k] = (double)f->x[i * N * N + k];
        gemm_f64(!left, left, N, N, N, 1, x, N, x, N, 1, a, N);
    }
    if (rc == 0)
        rc = eigen_symmetric(N, a, p, values, vectors, e);
    for (size_t k = 0; k < p * N && rc == 0; k++)
        out[k] = (float)vectors[k];
    if (rc == 0)
        to_f16(out, p * N);
    free(a);
    free(x);
    free(vectors);
    free(values);
    return rc;
}

/* f->x from [n, N N] to [n, p p], in place. */
static int squeeze_all(struct fit *f, size_t token, struct err *e)
{
    const size_t N = f->c->shape.head_size, p = f->c->p, at = token * p * N;
    float *half = malloc((p * N + p * p) * sizeof *half), *g = half + p * N;
    if (!half)
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (size_t i = 0; i < f->n; i++) {
        gemm_f32(false, false, p, N, N, 1, f->c->left + at, N, f->x + i * N * N, N, 0, half, N);
        gemm_f32(false, true, p, p, N, 1, half, N, f->c->right + at, N, 0, g, p);
        memcpy(f->x + i * p * p, g, p * p * sizeof *g);
    }
    free(half);
    return 0;
}

/* The K principal components of f->x [n, width], and the RMS of the coordinates. */
static int find_basis(struct fit *f, size_t width, float *basis, float *scale, struct err *e)
{
    const struct points points = {f->x, f->n, width, width};
    const size_t K = f->c->K;
    struct pca pca = {0};
    double energy = 0;
    int rc = pca_fit(f->run, &points, &(struct pca_options){.components = K}, &pca, e);
    if (rc < 0)
        return rc;
    memcpy(basis, pca.components, K * width * sizeof *basis);
    to_f16(basis, K * width);
    for (size_t k = 0; k < K; k++)
        energy += pca.variance[k];
    *scale = energy > 1e-12 ? (float)sqrt(energy / (double)K) : 1;
    pca_fini(&pca);
    return 0;
}

static int fit_matrix(struct fit *f, size_t token, struct err *e)
{
    struct dit_codec *c = f->c;
    const size_t N = c->shape.head_size, C = c->shape.n_embd, p = c->p;
    size_t l = token / c->n_head, h = token % c->n_head;
    load(f, l * (2 * C + C * N) + C + h * N * N, N * N);
    int rc = 0;
    if (c->left) {
        rc = find_side(f, true, c->left + token * p * N, e);
        if (rc == 0)
            rc = find_side(f, false, c->right + token * p * N, e);
        if (rc == 0)
            rc = squeeze_all(f, token, e);
    }
    return rc < 0 ? rc : find_basis(f, p * p, c->basis + token * c->K * p * p, &c->scale[token], e);
}

static int fit_shift(struct fit *f, size_t k, struct err *e)
{
    struct dit_codec *c = f->c;
    const size_t N = c->shape.head_size, C = c->shape.n_embd;
    load(f, k / 2 * (2 * C + C * N) + k % 2 * (C + C * N), C);
    return find_basis(f, C, c->shift_basis + k * c->K * C, &c->scale[c->n_matrix + k], e);
}

int dit_codec_fit(struct dit_codec *c, const struct dataset *d, const struct dit_codec_options *o,
                  const struct manifold_run *run, struct err *e)
{
    struct fit f = {.c = c, .d = d, .run = run};
    const size_t N = d->shape.head_size, C = d->shape.n_embd, W = N * N > C ? N * N : C;
    size_t total = 0;
    int rc = dit_codec_plan(c, &d->shape, o, e);
    if (rc == 0)
        rc = dit_codec__make(c, e);
    if (rc == 0)
        rc = choose_rows(&f, o->max_rows, e);
    if (rc == 0 && (f.n < 2 || f.n < c->K))
        rc = err_set(e, ERR_INVALID, "state codec: %zu states to fit %zu components on", f.n, c->K);
    if (rc == 0) {
        f.state = malloc(d->state_floats * sizeof *f.state);
        f.x = mem_mul(f.n, W * sizeof *f.x, &total) ? malloc(total) : NULL;
        rc =
            f.state && f.x ? find_mean(&f, e) : err_set(e, ERR_NOMEM, "state codec: out of memory");
    }
    for (size_t t = 0; t < c->n_token && rc == 0; t++) {
        rc = manifold_proceed(run, t, c->n_token, e);
        if (rc == 0)
            rc = t < c->n_matrix ? fit_matrix(&f, t, e) : fit_shift(&f, t - c->n_matrix, e);
    }
    free(f.row);
    free(f.state);
    free(f.x);
    if (rc < 0)
        dit_codec_fini(c);
    return rc;
}
