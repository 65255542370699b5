/* A diffuser as one safetensors file: the tensors of the transformer and of the codec, the
 * normaliser of conditions, and in the metadata what the shapes do not tell. */
#include "engine/dit/diffuser.h"

#include "daemon/base/buf.h"
#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/tensor/write.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#define FORMAT "dreamstate-diffuser-1"

void diffuser_fini(struct diffuser *d)
{
    dit_layout_fini(&d->layout);
    dit_codec_fini(&d->codec);
    dit_schedule_fini(&d->schedule);
    free(d->params);
    free(d->cond_mean);
    free(d->cond_scale);
    free(d->names);
    free(d->label);
    memset(d, 0, sizeof *d);
}

void diffuser_close(struct diffuser *d)
{
    if (d)
        diffuser_fini(d);
    free(d);
}

const struct diffuser_info *diffuser_get_info(const struct diffuser *d)
{
    return &d->info;
}

int32_t diffuser_label(const struct diffuser *d, const char *name)
{
    for (size_t i = 0; i < d->info.n_label; i++)
        if (!strcmp(d->label[i], name))
            return (int32_t)i;
    return -1;
}

int64_t diffuser_matrix_token(const struct diffuser_info *i, size_t layer, size_t head)
{
    size_t H = state_shape_heads(&i->shape);
    return layer < i->shape.n_layer && head < H ? (int64_t)(layer * H + head) : -1;
}

int64_t diffuser_shift_token(const struct diffuser_info *i, size_t layer, size_t which)
{
    size_t H = state_shape_heads(&i->shape), L = i->shape.n_layer;
    return i->shifts && layer < L && which < 2 ? (int64_t)(L * H + 2 * layer + which) : -1;
}

/* Splits d->names, lines of labels, in place. */
static int split_labels(struct diffuser *d, struct err *e)
{
    size_t n = 0;
    for (const char *p = d->names; *p; p++)
        n += *p == '\n';
    d->label = calloc(n + 1, sizeof *d->label);
    if (!d->label)
        return err_set(e, ERR_NOMEM, "diffuser: out of memory");
    char *p = d->names;
    for (size_t i = 0; i < n; i++) {
        d->label[i] = p;
        p = strchr(p, '\n');
        *p++ = 0;
    }
    d->info.n_label = n;
    d->info.label = d->label;
    return 0;
}

static int join_labels(struct buf *out, const char *const *label, size_t n, struct err *e)
{
    buf_init(out, SIZE_MAX / 2);
    for (size_t i = 0; i < n; i++) {
        if (!*label[i] || strchr(label[i], '\n'))
            return err_set(e, ERR_INVALID, "diffuser: label %zu is no line of text", i);
        buf_printf(out, "%s\n", label[i]);
    }
    buf_append(out, "", 1);
    return out->failed ? err_set(e, ERR_NOMEM, "diffuser: out of memory") : 0;
}

int diffuser_set_labels(struct diffuser *d, const char *const *label, size_t n, struct err *e)
{
    struct buf b;
    int rc = join_labels(&b, label, n, e);
    if (rc == 0) {
        d->names = b.data;
        return split_labels(d, e);
    }
    buf_fini(&b);
    return rc;
}

static int write_all(const struct diffuser *d, const char *path, struct tensor *t, size_t n,
                     const char *labels, struct err *e)
{
    const struct diffuser_info *i = &d->info;
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"n_layer", i->shape.n_layer},
        {"n_embd", i->shape.n_embd},
        {"head_size", i->shape.head_size},
        {"dit.n_head", d->layout.shape.n_head},
        {"dit.n_block", d->layout.shape.n_block},
        {"steps", i->steps},
    };
    enum { N = sizeof numbers / sizeof *numbers };
    char text[N][24];
    struct tensor_meta meta[N + 5] = {
        {.key = "format", .str = FORMAT},
        {.key = "fingerprint", .str = i->fingerprint},
        {.key = "schedule", .str = dit_schedule_name(i->schedule)},
        {.key = "prediction", .str = dit_prediction_name(i->prediction)},
        {.key = "labels", .str = labels},
    };
    for (size_t k = 0; k < N; k++) {
        snprintf(text[k], sizeof *text, "%llu", (unsigned long long)numbers[k].value);
        meta[5 + k] = (struct tensor_meta){.key = numbers[k].key, .str = text[k]};
    }
    for (size_t k = 0; k < N + 5; k++)
        meta[k].type = TENSOR_META_STR;
    return safetensors_write(path, t, n, meta, N + 5, e);
}

/* The weights as F16, which keeps 11 bits of each: t [layout.n] refers to *half, the caller's. */
static int half_tensors(const struct diffuser *d, struct tensor *t, uint16_t **half, struct err *e)
{
    uint16_t *h = *half = malloc(d->layout.count * sizeof *h);
    if (!h)
        return err_set(e, ERR_NOMEM, "diffuser: out of memory");
    dit_params_tensors(&d->layout, d->params, t);
    for (size_t i = 0; i < d->layout.n; i++) {
        const size_t at = d->layout.param[i].offset;
        for (size_t k = 0; k < t[i].count; k++) {
            if (!(fabsf(d->params[at + k]) <= 65504.0f))
                return err_set(e, ERR_NUMERIC, "diffuser: %s has a weight of %g", t[i].name,
                               (double)d->params[at + k]);
            h[at + k] = f32_to_f16(d->params[at + k]);
        }
        t[i].dtype = DTYPE_F16;
        t[i].bytes = t[i].count * sizeof *h;
        t[i].data = h + at;
    }
    return 0;
}

int diffuser_write(const struct diffuser *d, const char *path, struct err *e)
{
    const size_t n = d->layout.n, Y = d->layout.shape.cond_dim;
    struct tensor *t = calloc(n + DIT_CODEC_TENSORS + 2, sizeof *t);
    struct buf labels = {0};
    void *half = NULL;
    uint16_t *weights = NULL;
    int rc = t ? join_labels(&labels, d->label, d->info.n_label, e)
               : err_set(e, ERR_NOMEM, "diffuser: out of memory");
    rc = rc < 0 ? rc : half_tensors(d, t, &weights, e);
    int codec = rc == 0 ? dit_codec_tensors(&d->codec, t + n, &half, e) : rc;
    if (codec > 0) {
        size_t at = n + (size_t)codec;
        t[at] = (struct tensor){.name = "cond.mean",
                                .dtype = DTYPE_F32,
                                .n_dims = 1,
                                .shape = {Y},
                                .bytes = 4 * Y,
                                .data = d->cond_mean};
        t[at + 1] = t[at];
        t[at + 1].name = "cond.scale";
        t[at + 1].data = d->cond_scale;
        rc = write_all(d, path, t, at + (Y ? 2 : 0), labels.data, e);
    } else
        rc = codec;
    buf_fini(&labels);
    free(half);
    free(weights);
    free(t);
    return rc;
}

static int read_number(const struct tensor_file *f, const char *key, size_t *out, struct err *e)
{
    size_t len;
    const char *s = tensor_file_meta_str(f, key, &len);
    char *end = NULL;
    *out = s && *s >= '0' && *s <= '9' && len < 16 ? strtoull(s, &end, 10) : 0;
    return s && end == s + len ? 0 : err_set(e, ERR_FORMAT, "diffuser file: no number '%s'", key);
}

static size_t dim(const struct tensor_file *f, const char *name, int i)
{
    const struct tensor *t = tensor_file_find(f, name);
    return t && i < t->n_dims ? t->shape[i] : 0;
}

static int read_meta(struct diffuser *d, const struct tensor_file *f, struct err *e)
{
    struct diffuser_info *i = &d->info;
    size_t len, steps = 0;
    const char *format = tensor_file_meta_str(f, "format", &len);
    const char *print = tensor_file_meta_str(f, "fingerprint", &len);
    size_t print_len = len;
    if (!format || strcmp(format, FORMAT))
        return err_set(e, ERR_FORMAT, "diffuser file: the format is not " FORMAT);
    if (!print || print_len != 64 || strlen(print) != 64)
        return err_set(e, ERR_FORMAT, "diffuser file: no fingerprint of a model");
    memcpy(i->fingerprint, print, 65);
    const char *schedule = tensor_file_meta_str(f, "schedule", &len);
    const char *prediction = tensor_file_meta_str(f, "prediction", &len);
    if (!schedule || !dit_schedule_parse(schedule, &i->schedule) || !prediction ||
        !dit_prediction_parse(prediction, &i->prediction))
        return err_set(e, ERR_FORMAT, "diffuser file: schedule or prediction is none we know");
    int rc = read_number(f, "n_layer", &i->shape.n_layer, e);
    if (rc == 0)
        rc = read_number(f, "n_embd", &i->shape.n_embd, e);
    if (rc == 0)
        rc = read_number(f, "head_size", &i->shape.head_size, e);
    if (rc == 0)
        rc = read_number(f, "steps", &steps, e);
    i->steps = steps;
    return rc < 0 ? rc : state_shape_check(&i->shape, e);
}

static int read_labels(struct diffuser *d, const struct tensor_file *f, struct err *e)
{
    size_t len = 0;
    const char *s = tensor_file_meta_str(f, "labels", &len);
    if (!s || strlen(s) != len || (len && (s[len - 1] != '\n' || s[0] == '\n')) ||
        strstr(s, "\n\n"))
        return err_set(e, ERR_FORMAT, "diffuser file: labels are not lines of names");
    d->names = strdup(s);
    return d->names ? split_labels(d, e) : err_set(e, ERR_NOMEM, "diffuser: out of memory");
}

/* The transformer's shape: from its tensors, which are then checked against it. */
static int read_shape(struct diffuser *d, const struct tensor_file *f, struct err *e)
{
    struct dit_shape s = {.n_token = dim(f, "x_proj.bias", 0),
                          .n_embd = dim(f, "x_proj.bias", 1),
                          .token_dim = dim(f, "x_proj.weight", 1),
                          .per_token = dim(f, "x_proj.weight", 0) > 1,
                          .n_mlp = dim(f, "blocks.0.fc1.weight", 0),
                          .cond_dim = dim(f, "cond_embed.0.weight", 1),
                          .n_label = dim(f, "label_embed.weight", 0)};
    int rc = read_number(f, "dit.n_head", &s.n_head, e);
    if (rc == 0)
        rc = read_number(f, "dit.n_block", &s.n_block, e);
    if (rc < 0)
        return rc;
    if (!s.n_head || s.n_label != d->info.n_label + 1)
        return err_set(e, ERR_FORMAT, "diffuser file: %zu rows of labels for %zu names", s.n_label,
                       d->info.n_label);
    s.n_label--;
    rc = dit_layout_init(&d->layout, &s, e);
    if (rc == ERR_INVALID)
        rc = err_set(e, ERR_FORMAT, "diffuser file: its shape cannot be");
    if (rc == 0)
        rc = dit_params_check(&d->layout, f, e);
    if (rc == 0 && (s.n_token != d->codec.n_token || s.token_dim != d->codec.K ||
                    (s.cond_dim && s.cond_dim != d->info.shape.n_embd)))
        rc = err_set(e, ERR_FORMAT, "diffuser file: transformer and codec do not fit each other");
    return rc;
}

static int read_vector(float **out, const struct tensor_file *f, const char *name, size_t n,
                       struct err *e)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->count != n || t->n_dims != 1)
        return err_set(e, ERR_FORMAT, "diffuser file: tensor %s is missing or of another size",
                       name);
    *out = malloc(n * sizeof **out);
    if (!*out)
        return err_set(e, ERR_NOMEM, "diffuser: out of memory");
    tensor_to_f32(t, *out);
    return 0;
}

static int read_weights(struct diffuser *d, const struct tensor_file *f, struct err *e)
{
    const size_t Y = d->layout.shape.cond_dim;
    int rc = 0;
    d->params = mem_calloc_aligned(d->layout.count, sizeof *d->params);
    if (!d->params)
        return err_set(e, ERR_NOMEM, "diffuser: out of memory");
    dit_params_read(&d->layout, d->params, f);
    for (size_t i = 0; i < d->layout.count; i++)
        if (!isfinite(d->params[i]))
            return err_set(e, ERR_FORMAT, "diffuser file: a weight is not finite");
    if (Y)
        rc = read_vector(&d->cond_mean, f, "cond.mean", Y, e);
    if (Y && rc == 0)
        rc = read_vector(&d->cond_scale, f, "cond.scale", Y, e);
    for (size_t i = 0; i < Y && rc == 0; i++)
        if (!isfinite(d->cond_mean[i]) || !(d->cond_scale[i] > 0) || !isfinite(d->cond_scale[i]))
            rc = err_set(e, ERR_FORMAT, "diffuser file: the conditions' normaliser is damaged");
    return rc;
}

static void fill_info(struct diffuser *d)
{
    const struct dit_shape *s = &d->layout.shape;
    struct diffuser_info *i = &d->info;
    i->n_token = s->n_token;
    i->token_dim = s->token_dim;
    i->n_embd = s->n_embd;
    i->n_head = s->n_head;
    i->n_block = s->n_block;
    i->n_mlp = s->n_mlp;
    i->n_params = d->layout.n_params;
    i->weight_bytes = 4 * d->layout.n_params;
    i->codec_bytes = dit_codec_bytes(&d->codec);
    i->per_token = s->per_token;
    i->shifts = d->codec.shifts;
    i->cond_dim = s->cond_dim;
}

static int open_file(struct tensor_file *f, struct diffuser **out, struct err *e)
{
    struct diffuser *d = calloc(1, sizeof *d);
    gemm_setup();
    int rc = d ? read_meta(d, f, e) : err_set(e, ERR_NOMEM, "diffuser: out of memory");
    if (rc == 0)
        rc = read_labels(d, f, e);
    if (rc == 0)
        rc = dit_codec_read(&d->codec, &d->info.shape, f, e);
    if (rc == 0)
        rc = read_shape(d, f, e);
    if (rc == 0)
        rc = read_weights(d, f, e);
    if (rc == 0)
        rc = dit_schedule_init(&d->schedule, d->info.schedule, DIT_TIMESTEPS, e);
    if (rc < 0) {
        diffuser_close(d);
        return rc;
    }
    fill_info(d);
    *out = d;
    return 0;
}

int diffuser_open(const char *path, struct diffuser **out, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open(path, &f, e);
    if (rc == 0)
        rc = open_file(f, out, e);
    tensor_file_close(f);
    return rc;
}

int diffuser_open_memory(const void *bytes, size_t n, struct diffuser **out, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open_memory(bytes, n, &f, e);
    if (rc == 0)
        rc = open_file(f, out, e);
    tensor_file_close(f);
    return rc;
}
