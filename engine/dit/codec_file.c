/* A codec as tensors of a file. */
#include "engine/dit/codec.h"

#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"

#include <math.h>
#include <stdio.h>

/* One array of a codec: F16 in the file, or F32. */
struct array {
    const char *name;
    enum dtype dtype;
    int n_dims;
    size_t shape[3];
    float *data;
};

/* All arrays that this codec has. */
static int arrays_of(const struct dit_codec *c, struct array a[DIT_CODEC_TENSORS])
{
    const size_t S = state_shape_floats(&c->shape), M = c->n_matrix, N = c->shape.head_size;
    int n = 0;
    a[n++] = (struct array){"codec.mean", DTYPE_F32, 1, {S}, c->mean};
    a[n++] = (struct array){"codec.scale", DTYPE_F32, 1, {c->n_token}, c->scale};
    a[n++] = (struct array){"codec.basis", DTYPE_F16, 3, {M, c->K, c->p * c->p}, c->basis};
    if (c->p < N) {
        a[n++] = (struct array){"codec.left", DTYPE_F16, 3, {M, c->p, N}, c->left};
        a[n++] = (struct array){"codec.right", DTYPE_F16, 3, {M, c->p, N}, c->right};
    }
    if (c->shifts)
        a[n++] = (struct array){"codec.shift_basis",
                                DTYPE_F16,
                                3,
                                {2 * c->shape.n_layer, c->K, c->shape.n_embd},
                                c->shift_basis};
    return n;
}

static size_t count_of(const struct array *a)
{
    size_t n = 1;
    for (int i = 0; i < a->n_dims; i++)
        n *= a->shape[i];
    return n;
}

int dit_codec_tensors(const struct dit_codec *c, struct tensor t[DIT_CODEC_TENSORS], void **half,
                      struct err *e)
{
    struct array a[DIT_CODEC_TENSORS];
    int n = arrays_of(c, a);
    size_t halves = 0;
    for (int i = 0; i < n; i++)
        halves += a[i].dtype == DTYPE_F16 ? count_of(&a[i]) : 0;
    uint16_t *h = *half = malloc(halves * sizeof *h);
    if (!h)
        return err_set(e, ERR_NOMEM, "state codec: out of memory");
    for (int i = 0; i < n; i++) {
        size_t count = count_of(&a[i]);
        t[i] = (struct tensor){.name = a[i].name,
                               .dtype = a[i].dtype,
                               .n_dims = a[i].n_dims,
                               .count = count,
                               .bytes = count * (a[i].dtype == DTYPE_F16 ? 2 : 4),
                               .data = a[i].data};
        memcpy(t[i].shape, a[i].shape, sizeof a[i].shape);
        if (a[i].dtype == DTYPE_F16) {
            dtype_from_f32(DTYPE_F16, a[i].data, h, count);
            t[i].data = h;
            h += count;
        }
    }
    return n;
}

static size_t dim(const struct tensor *t, int i)
{
    return t && i < t->n_dims ? t->shape[i] : 0;
}

/* Whether the file holds an array of this type and shape; nothing is allocated before. */
static int check(const struct array *a, const struct tensor_file *f, struct err *e)
{
    const struct tensor *t = tensor_file_find(f, a->name);
    if (!t || t->dtype != a->dtype || t->n_dims != a->n_dims ||
        memcmp(t->shape, a->shape, (size_t)a->n_dims * sizeof *a->shape))
        return err_set(e, ERR_FORMAT, "diffuser file: tensor %s %s", a->name,
                       t ? "has another type or shape" : "is missing");
    return 0;
}

static int read_array(struct array *a, const struct tensor_file *f, struct err *e)
{
    tensor_to_f32(tensor_file_find(f, a->name), a->data);
    for (size_t i = 0, n = count_of(a); i < n; i++)
        if (!isfinite(a->data[i]))
            return err_set(e, ERR_FORMAT,
                           "diffuser file: tensor %s holds a number that is not "
                           "finite",
                           a->name);
    return 0;
}

/* K, p and shifts as the file's tensors claim them, checked against what it holds. */
static int claim(struct dit_codec *c, const struct tensor_file *f, struct err *e)
{
    const struct tensor *basis = tensor_file_find(f, "codec.basis");
    const struct tensor *left = tensor_file_find(f, "codec.left");
    struct array a[DIT_CODEC_TENSORS];
    int rc = 0;
    c->K = dim(basis, 1);
    c->p = left ? dim(left, 1) : c->shape.head_size;
    c->shifts = tensor_file_find(f, "codec.shift_basis") != NULL;
    c->n_head = state_shape_heads(&c->shape);
    c->n_matrix = c->shape.n_layer * c->n_head;
    c->n_token = c->n_matrix + (c->shifts ? 2 * c->shape.n_layer : 0);
    if (c->p > c->shape.head_size || (left && c->p == c->shape.head_size))
        return err_set(e, ERR_FORMAT, "diffuser file: tensor codec.left has another shape");
    int n = arrays_of(c, a);
    for (int i = 0; i < n && rc == 0; i++)
        rc = check(&a[i], f, e);
    return rc;
}

int dit_codec_read(struct dit_codec *c, const struct state_shape *shape,
                   const struct tensor_file *f, struct err *e)
{
    struct array a[DIT_CODEC_TENSORS];
    *c = (struct dit_codec){.shape = *shape};
    int rc = claim(c, f, e);
    if (rc == 0 && (rc = dit_codec__make(c, e)) == ERR_INVALID)
        rc = err_set(e, ERR_FORMAT, "diffuser file: its codec cannot be");
    int n = rc == 0 ? arrays_of(c, a) : 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = read_array(&a[i], f, e);
    for (size_t t = 0; t < c->n_token && rc == 0; t++)
        if (!(c->scale[t] > 0))
            rc = err_set(e, ERR_FORMAT, "diffuser file: a scale of the codec is not positive");
    if (rc < 0)
        dit_codec_fini(c);
    return rc;
}
