#include "engine/dit/dataset.h"

#include "daemon/base/buf.h"
#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"
#include "engine/tensor/tensor.h"

#include <math.h>
#include <stdio.h>

#define FORMAT "dreamstate-dataset-1"

int state_shape_check(const struct state_shape *s, struct err *e)
{
    if (!s->n_layer || s->n_layer > 512 || !s->head_size || s->head_size > 256 || !s->n_embd ||
        s->n_embd > 65536 || s->n_embd % s->head_size)
        return err_set(e, ERR_FORMAT, "states of %zu layers, width %zu, head size %zu: no model's",
                       s->n_layer, s->n_embd, s->head_size);
    return 0;
}

/* A tensor of this type and shape (a second size of 0: one dimension). */
static const struct tensor *want(const struct tensor_file *f, const char *name, enum dtype type,
                                 size_t n, size_t m, struct err *e)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != type || t->n_dims != (m ? 2 : 1) || t->shape[0] != n ||
        (m && t->shape[1] != m)) {
        err_set(e, ERR_FORMAT, "dataset: tensor %s %s", name,
                t ? "has another type or shape" : "is missing");
        return NULL;
    }
    return t;
}

static int read_number(const struct tensor_file *f, const char *key, size_t *out, struct err *e)
{
    size_t len;
    const char *s = tensor_file_meta_str(f, key, &len);
    char *end = NULL;
    *out = s && *s >= '0' && *s <= '9' && len < 8 ? strtoul(s, &end, 10) : 0;
    return s && end == s + len ? 0 : err_set(e, ERR_FORMAT, "dataset: no number '%s'", key);
}

static int read_meta(struct dataset *d, struct err *e)
{
    size_t len;
    const char *format = tensor_file_meta_str(d->file, "format", &len);
    if (!format || strcmp(format, FORMAT))
        return err_set(e, ERR_FORMAT, "dataset: the format is not " FORMAT);
    const char *print = tensor_file_meta_str(d->file, "fingerprint", &len);
    if (!print || len != 64 || strlen(print) != 64)
        return err_set(e, ERR_FORMAT, "dataset: no fingerprint of a model");
    memcpy(d->fingerprint, print, 65);
    int rc = read_number(d->file, "n_layer", &d->shape.n_layer, e);
    if (rc == 0)
        rc = read_number(d->file, "n_embd", &d->shape.n_embd, e);
    if (rc == 0)
        rc = read_number(d->file, "head_size", &d->shape.head_size, e);
    return rc < 0 ? rc : state_shape_check(&d->shape, e);
}

/* Splits the lines of `labels`. */
static int read_labels(struct dataset *d, struct err *e)
{
    size_t len = 0, k = 0;
    const char *s = tensor_file_meta_str(d->file, "labels", &len);
    if (!s || strlen(s) != len || (len && s[len - 1] != '\n'))
        return err_set(e, ERR_FORMAT, "dataset: labels are not lines of names");
    d->names = malloc(len + 1);
    for (size_t i = 0; i < len; i++)
        d->n_label += s[i] == '\n';
    d->label = calloc(d->n_label + 1, sizeof *d->label);
    if (!d->names || !d->label)
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    memcpy(d->names, s, len + 1);
    for (char *p = d->names; *p; k++) {
        d->label[k] = p;
        p = strchr(p, '\n');
        *p++ = 0;
        if (!*d->label[k])
            return err_set(e, ERR_FORMAT, "dataset: label %zu has no name", k);
    }
    return 0;
}

static int read_row(struct dataset *d, size_t i, const struct tensor *const t[4], size_t n_text,
                    struct err *e)
{
    struct dataset_row *r = &d->row[i];
    int32_t label[2];
    int64_t begin = 0, end;
    memcpy(label, (const char *)t[0]->data + i * sizeof label, sizeof label);
    memcpy(&r->document, (const char *)t[1]->data + i * 4, 4);
    r->heldout = ((const uint8_t *)t[2]->data)[i];
    if (i)
        memcpy(&begin, (const char *)t[3]->data + (i - 1) * 8, 8);
    memcpy(&end, (const char *)t[3]->data + i * 8, 8);
    for (int k = 0; k < 2; k++)
        if (label[k] < -1 || label[k] >= (int64_t)d->n_label)
            return err_set(e, ERR_FORMAT, "dataset: row %zu has label %d of %zu", i, label[k],
                           d->n_label);
    if (begin < 0 || end < begin || end > (int64_t)n_text)
        return err_set(e, ERR_FORMAT, "dataset: the text of row %zu is outside the texts", i);
    r->corpus = label[0];
    r->style = label[1];
    r->text = d->text + begin;
    r->n_text = (size_t)(end - begin);
    return 0;
}

static int read_all(struct dataset *d, struct err *e)
{
    const struct tensor *states = tensor_file_find(d->file, "states");
    const struct tensor *cond = tensor_file_find(d->file, "conditions");
    const struct tensor *text = tensor_file_find(d->file, "texts"), *t[4];
    int rc = read_meta(d, e);
    if (rc == 0)
        rc = read_labels(d, e);
    if (rc < 0)
        return rc;
    d->state_floats = state_shape_floats(&d->shape);
    if (!states || states->dtype != DTYPE_F16 || states->n_dims != 2 ||
        states->shape[1] != d->state_floats || !states->shape[0] || !cond || cond->n_dims != 2 ||
        !text || text->dtype != DTYPE_U8)
        return err_set(e, ERR_FORMAT,
                       "dataset: states, conditions or texts are missing or have "
                       "another type or shape");
    d->n = states->shape[0];
    d->cond_dim = cond->shape[1];
    d->states = states->data;
    cond = want(d->file, "conditions", DTYPE_F32, d->n, d->cond_dim, e);
    t[0] = cond ? want(d->file, "labels", DTYPE_I32, d->n, 2, e) : NULL;
    t[1] = t[0] ? want(d->file, "documents", DTYPE_I32, d->n, 0, e) : NULL;
    t[2] = t[1] ? want(d->file, "heldout", DTYPE_U8, d->n, 0, e) : NULL;
    t[3] = t[2] ? want(d->file, "text_ends", DTYPE_I64, d->n, 0, e) : NULL;
    if (!t[3])
        return e->code;
    d->cond = malloc(cond->bytes + 1);
    d->row = calloc(d->n, sizeof *d->row);
    d->text = malloc(text->bytes + 1);
    if (!d->cond || !d->row || !d->text)
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    memcpy(d->cond, cond->data, cond->bytes);
    memcpy(d->text, text->data, text->bytes);
    for (size_t i = 0; i < d->n * d->cond_dim; i++)
        if (!isfinite(d->cond[i]))
            return err_set(e, ERR_FORMAT, "dataset: the condition of row %zu is not finite",
                           i / d->cond_dim);
    for (size_t i = 0; i < d->n && rc == 0; i++)
        rc = read_row(d, i, t, text->count, e);
    return rc;
}

int dataset_open(struct dataset *d, const char *path, struct err *e)
{
    memset(d, 0, sizeof *d);
    int rc = tensor_file_open(path, &d->file, e);
    if (rc == 0)
        rc = read_all(d, e);
    if (rc < 0)
        dataset_close(d);
    return rc;
}

void dataset_close(struct dataset *d)
{
    tensor_file_close(d->file);
    free(d->cond);
    free(d->row);
    free(d->label);
    free(d->text);
    free(d->names);
    memset(d, 0, sizeof *d);
}

void dataset_state(const struct dataset *d, size_t i, float *out)
{
    dtype_to_f32(DTYPE_F16, (const uint16_t *)d->states + i * d->state_floats, out,
                 d->state_floats);
}

/* ---- writing ---- */

/* The arrays of rows, as the file has them. */
struct columns {
    int32_t *labels, *documents;
    uint8_t *heldout;
    int64_t *ends;
    struct buf text, names;
};

static void columns_fini(struct columns *c)
{
    free(c->labels);
    free(c->documents);
    free(c->heldout);
    free(c->ends);
    buf_fini(&c->text);
    buf_fini(&c->names);
}

static int columns_of(struct columns *c, const struct dataset_plan *p, struct err *e)
{
    *c = (struct columns){.labels = calloc(p->n, 8),
                          .documents = calloc(p->n, 4),
                          .heldout = calloc(p->n, 1),
                          .ends = calloc(p->n, 8)};
    buf_init(&c->text, SIZE_MAX / 2);
    buf_init(&c->names, SIZE_MAX / 2);
    if (!c->labels || !c->documents || !c->heldout || !c->ends)
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    for (size_t i = 0; i < p->n; i++) {
        const struct dataset_row *r = &p->rows[i];
        c->labels[2 * i] = r->corpus;
        c->labels[2 * i + 1] = r->style;
        c->documents[i] = r->document;
        c->heldout[i] = r->heldout;
        buf_append(&c->text, r->text, r->n_text);
        c->ends[i] = (int64_t)c->text.len;
    }
    for (size_t k = 0; k < p->n_label; k++) {
        buf_append(&c->names, p->label[k], strlen(p->label[k]));
        buf_append(&c->names, "\n", 1);
    }
    buf_append(&c->names, "", 1);
    return c->text.failed || c->names.failed ? err_set(e, ERR_NOMEM, "dataset: out of memory") : 0;
}

static int open_draft(struct dataset_writer *w, const char *path, const struct columns *c,
                      struct err *e)
{
    const struct dataset_plan *p = w->plan;
    char number[3][24];
    const size_t sizes[] = {p->shape.n_layer, p->shape.n_embd, p->shape.head_size};
    for (int k = 0; k < 3; k++)
        snprintf(number[k], sizeof *number, "%zu", sizes[k]);
    const size_t n = p->n, m = c->text.len, S = w->state_floats, Y = p->cond_dim;
    const struct tensor t[] = {
        {"states", DTYPE_F16, 2, {n, S}, 0, n * S * 2, NULL},
        {"conditions", DTYPE_F32, 2, {n, Y}, 0, n * Y * 4, NULL},
        {"checks", DTYPE_I64, 1, {n}, 0, n * 8, NULL},
        {"labels", DTYPE_I32, 2, {n, 2}, 0, n * 8, c->labels},
        {"documents", DTYPE_I32, 1, {n}, 0, n * 4, c->documents},
        {"heldout", DTYPE_U8, 1, {n}, 0, n, c->heldout},
        {"text_ends", DTYPE_I64, 1, {n}, 0, n * 8, c->ends},
        {"texts", DTYPE_U8, 1, {m}, 0, m, m ? (const void *)c->text.data : ""},
    };
    const struct tensor_meta meta[] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = p->fingerprint},
        {.key = "weights", .type = TENSOR_META_STR, .str = p->weights},
        {.key = "n_layer", .type = TENSOR_META_STR, .str = number[0]},
        {.key = "n_embd", .type = TENSOR_META_STR, .str = number[1]},
        {.key = "head_size", .type = TENSOR_META_STR, .str = number[2]},
        {.key = "labels", .type = TENSOR_META_STR, .str = c->names.data},
    };
    int rc = tensor_draft_open(&w->draft, path, t, sizeof t / sizeof *t, meta,
                               sizeof meta / sizeof *meta, e);
    w->states = w->draft.data[0];
    w->cond = w->draft.data[1];
    w->check = w->draft.data[2];
    return rc < 0 ? err_prefix(e, "dataset %s", path) : 0;
}

int dataset_writer_open(struct dataset_writer *w, const char *path, const struct dataset_plan *plan,
                        struct err *e)
{
    struct columns c;
    size_t numbers, bytes, conds;
    *w = (struct dataset_writer){
        .plan = plan, .draft = TENSOR_DRAFT_NONE, .state_floats = state_shape_floats(&plan->shape)};
    if (!plan->n || !mem_mul(plan->n, w->state_floats, &numbers) || !mem_mul(numbers, 4, &bytes) ||
        !mem_mul(plan->n, plan->cond_dim, &conds) || !mem_mul(conds, 8, &bytes))
        return err_set(e, ERR_INVALID, "dataset: %zu states cannot be", plan->n);
    int rc = columns_of(&c, plan, e);
    if (rc == 0)
        rc = open_draft(w, path, &c, e);
    columns_fini(&c);
    return rc;
}

/* Of row i as it is stored; never 0. */
static uint64_t checksum(const struct dataset_writer *w, size_t i)
{
    const size_t S = w->state_floats, Y = w->plan->cond_dim;
    struct sha256 h;
    uint8_t digest[32];
    uint64_t sum;
    sha256_start(&h);
    sha256_add(&h, w->states + i * S, S * sizeof *w->states);
    sha256_add(&h, w->cond + i * Y, Y * sizeof *w->cond);
    sha256_end(&h, digest);
    memcpy(&sum, digest, sizeof sum);
    return sum | 1;
}

bool dataset_writer_has(const struct dataset_writer *w, size_t i)
{
    return w->check[i] && w->check[i] == checksum(w, i);
}

int dataset_writer_put(struct dataset_writer *w, size_t i, const float *state, const float *cond,
                       struct err *e)
{
    const size_t S = w->state_floats, Y = w->plan->cond_dim;
    for (size_t k = 0; k < S; k++)
        if (!(fabsf(state[k]) <= 65504)) /* the largest F16 */
            return err_set(e, ERR_NUMERIC, "dataset: a state holds %g", (double)state[k]);
    for (size_t k = 0; k < Y; k++)
        if (!isfinite(cond[k]))
            return err_set(e, ERR_NUMERIC, "dataset: a condition holds %g", (double)cond[k]);
    dtype_from_f32(DTYPE_F16, state, w->states + i * S, S);
    memcpy(w->cond + i * Y, cond, Y * sizeof *cond);
    w->check[i] = checksum(w, i);
    return 0;
}

int dataset_writer_close(struct dataset_writer *w, int rc, struct err *e)
{
    bool keep = rc == ERR_CANCELLED || rc == ERR_UNAVAILABLE;
    return tensor_draft_close(&w->draft, rc, keep, e);
}

uint64_t dataset_file_bytes(const struct state_shape *shape, size_t cond_dim, size_t n,
                            size_t text_bytes)
{
    const uint64_t row = 2 * (uint64_t)state_shape_floats(shape) + 4 * (uint64_t)cond_dim + 29;
    return n * row + text_bytes + 4096;
}
