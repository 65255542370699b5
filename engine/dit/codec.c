#include "engine/dit/codec.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/tensor/tensor.h"

#include <math.h>

#define BLOCK      64          /* states encoded together */
#define BLOCK_SIZE (16u << 20) /* floats of states in memory at once, one state at least */
#define ERROR_ROWS 1000        /* about so many are measured */

static int set_sizes(struct dit_codec *c, struct err *e)
{
    const struct state_shape *s = &c->shape;
    const size_t N = s->head_size, L = s->n_layer;
    c->n_head = state_shape_heads(s);
    c->n_matrix = L * c->n_head;
    c->n_token = c->n_matrix + (c->shifts ? 2 * L : 0);
    if (!c->p || c->p > N)
        return err_set_param(e, ERR_INVALID, "basis",
                             "state codec: a basis of %zu x %zu, of states with heads of %zu", c->p,
                             c->p, N);
    if (!c->K || c->K > c->p * c->p || (c->shifts && c->K > s->n_embd))
        return err_set_param(e, ERR_INVALID, "components",
                             "state codec: %zu components over a basis of %zu x %zu%s", c->K, c->p,
                             c->p, c->shifts ? " and shift vectors" : "");
    return 0;
}

int dit_codec_plan(struct dit_codec *c, const struct state_shape *shape,
                   const struct dit_codec_options *o, struct err *e)
{
    const size_t N = shape->head_size;
    *c = (struct dit_codec){.shape = *shape,
                            .K = o->components,
                            .p = o->basis  ? o->basis
                                 : N <= 32 ? N
                                           : 24,
                            .shifts = o->shifts};
    return set_sizes(c, e);
}

int dit_codec__make(struct dit_codec *c, struct err *e)
{
    const struct state_shape *s = &c->shape;
    const size_t N = s->head_size, L = s->n_layer;
    int rc = set_sizes(c, e);
    if (rc < 0)
        return rc;
    c->mean = calloc(state_shape_floats(s), sizeof *c->mean);
    c->scale = calloc(c->n_token, sizeof *c->scale);
    c->basis = calloc(c->n_matrix * c->K, c->p * c->p * sizeof *c->basis);
    bool ok = c->mean && c->scale && c->basis;
    if (c->p < N) {
        c->left = calloc(c->n_matrix * c->p, N * sizeof *c->left);
        c->right = calloc(c->n_matrix * c->p, N * sizeof *c->right);
        ok = ok && c->left && c->right;
    }
    if (c->shifts) {
        c->shift_basis = calloc(2 * L * c->K, s->n_embd * sizeof *c->shift_basis);
        ok = ok && c->shift_basis;
    }
    if (ok)
        return 0;
    dit_codec_fini(c);
    return err_set(e, ERR_NOMEM, "state codec: out of memory");
}

void dit_codec_fini(struct dit_codec *c)
{
    free(c->mean);
    free(c->scale);
    free(c->left);
    free(c->right);
    free(c->basis);
    free(c->shift_basis);
    memset(c, 0, sizeof *c);
}

/* Where a token lies in a state, its length there and in the basis, and its basis. */
struct part {
    size_t at, n, width;
    const float *basis;
};

static struct part part_of(const struct dit_codec *c, size_t token)
{
    const size_t N = c->shape.head_size, C = c->shape.n_embd, layer = 2 * C + C * N;
    if (token < c->n_matrix) {
        size_t l = token / c->n_head, h = token % c->n_head;
        return (struct part){l * layer + C + h * N * N, N * N, c->p * c->p,
                             c->basis + token * c->K * c->p * c->p};
    }
    size_t k = token - c->n_matrix;
    return (struct part){k / 2 * layer + k % 2 * (C + C * N), C, C, c->shift_basis + k * c->K * C};
}

/* x [N, N] into g [p, p] = A x D^T; half [p, N]. */
static void squeeze(const struct dit_codec *c, size_t token, const float *x, float *g, float *half)
{
    const size_t N = c->shape.head_size, p = c->p, at = token * p * N;
    gemm_f32(false, false, p, N, N, 1, c->left + at, N, x, N, 0, half, N);
    gemm_f32(false, true, p, p, N, 1, half, N, c->right + at, N, 0, g, p);
}

static bool two_sided(const struct dit_codec *c, size_t token)
{
    return c->left && token < c->n_matrix;
}

/* One token of states, the mean taken off, in its basis' own width: out [n, width]. scratch [N N +
 * N p]. */
static void gather(const struct dit_codec *c, size_t token, const float *state, float *out,
                   float *scratch)
{
    const struct part q = part_of(c, token);
    float *x = two_sided(c, token) ? scratch : out;
    for (size_t i = 0; i < q.n; i++)
        x[i] = state[q.at + i] - c->mean[q.at + i];
    if (x == scratch)
        squeeze(c, token, x, out, scratch + q.n);
}

static size_t widest(const struct dit_codec *c)
{
    size_t square = c->shape.head_size * c->shape.head_size;
    return square > c->shape.n_embd ? square : c->shape.n_embd;
}

int dit_codec_encode(const struct dit_codec *c, const float *states, size_t n, float *z,
                     struct err *e)
{
    const size_t S = state_shape_floats(&c->shape), W = widest(c), ld = c->n_token * c->K;
    float *x = malloc(BLOCK * W * sizeof *x), *scratch = malloc(2 * W * sizeof *scratch);
    if (!x || !scratch) {
        free(x);
        free(scratch);
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    }
    for (size_t i = 0; i < n; i += BLOCK)
        for (size_t t = 0; t < c->n_token; t++) {
            const struct part q = part_of(c, t);
            size_t m = n - i < BLOCK ? n - i : BLOCK;
            for (size_t k = 0; k < m; k++)
                gather(c, t, states + (i + k) * S, x + k * q.width, scratch);
            gemm_f32(false, true, m, c->K, q.width, 1 / c->scale[t], x, q.width, q.basis, q.width,
                     0, z + i * ld + t * c->K, ld);
        }
    free(x);
    free(scratch);
    return 0;
}

int dit_codec_decode(const struct dit_codec *c, const float *z, float *state, struct err *e)
{
    const size_t N = c->shape.head_size, p = c->p, W = widest(c);
    float *g = malloc(3 * W * sizeof *g), *half = g + W, *x = half + W;
    if (!g)
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    memcpy(state, c->mean, state_shape_floats(&c->shape) * sizeof *state);
    for (size_t t = 0; t < c->n_token; t++) {
        const struct part q = part_of(c, t);
        const float *from = g;
        gemm_f32(false, false, 1, q.width, c->K, c->scale[t], z + t * c->K, c->K, q.basis, q.width,
                 0, g, q.width);
        if (two_sided(c, t)) {
            const size_t at = t * p * N;
            gemm_f32(true, false, N, p, p, 1, c->left + at, N, g, p, 0, half, p);
            gemm_f32(false, false, N, N, p, 1, half, p, c->right + at, N, 0, x, N);
            from = x;
        }
        for (size_t i = 0; i < q.n; i++)
            state[q.at + i] += from[i];
    }
    free(g);
    return 0;
}

size_t dit_codec_block(const struct dit_codec *c)
{
    size_t n = BLOCK_SIZE / state_shape_floats(&c->shape);
    return n < 1 ? 1 : n < BLOCK ? n : BLOCK;
}

/* lost and all [2]: of matrices and of shift vectors. */
static void compare(const struct dit_codec *c, const float *x, const float *y, double *lost,
                    double *all)
{
    const size_t S = state_shape_floats(&c->shape), C = c->shape.n_embd;
    const size_t layer = S / c->shape.n_layer;
    for (size_t k = 0; k < S; k++) {
        bool shift = k % layer < C || k % layer >= layer - C;
        double a = (double)x[k] - (double)c->mean[k], b = (double)x[k] - (double)y[k];
        all[shift] += a * a;
        lost[shift] += b * b;
    }
}

int dit_codec_error(const struct dit_codec *c, const struct dataset *d, bool heldout,
                    double *matrices, double *shifts, struct err *e)
{
    const size_t S = d->state_floats, ld = c->n_token * c->K;
    const size_t block = dit_codec_block(c);
    float *x = malloc((block + 1) * S * sizeof *x), *y = x + block * S;
    float *z = malloc(block * ld * sizeof *z);
    double lost[2] = {0}, all[2] = {0};
    size_t rows = 0, seen = 0, at = 0;
    int rc = x && z ? 0 : err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (size_t i = 0; i < d->n; i++)
        rows += d->row[i].heldout == heldout;
    const size_t every = rows > ERROR_ROWS ? rows / ERROR_ROWS : 1;
    for (size_t i = 0; i <= d->n && rc == 0; i++) {
        if (i < d->n && d->row[i].heldout == heldout && seen++ % every == 0)
            dataset_state(d, i, x + at++ * S);
        if (at < block && i < d->n)
            continue;
        rc = dit_codec_encode(c, x, at, z, e);
        for (size_t k = 0; k < at && rc == 0; k++) {
            rc = dit_codec_decode(c, z + k * ld, y, e);
            compare(c, x + k * S, y, lost, all);
        }
        at = 0;
    }
    free(x);
    free(z);
    if (rc == 0 && !(all[0] > 0))
        rc = err_set(e, ERR_INVALID, "dataset: it has no %s rows",
                     heldout ? "held-out" : "training");
    *matrices = lost[0] / all[0];
    *shifts = lost[1] / fmax(all[1], 1e-30);
    return rc;
}

size_t dit_codec_bytes(const struct dit_codec *c)
{
    const size_t N = c->shape.head_size;
    size_t n = c->n_matrix * c->K * c->p * c->p;
    n += c->p < N ? 2 * c->n_matrix * c->p * N : 0;
    n += c->shifts ? 2 * c->shape.n_layer * c->K * c->shape.n_embd : 0;
    return 2 * n + 4 * (state_shape_floats(&c->shape) + c->n_token);
}
