/* The file of what the training set looks like: made once from a dataset, read by the bench. */
#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/tensor/write.h"
#include "engine/train/tune.h"

#include <math.h>
#include <stdio.h>

#define FORMAT     "dreamstate-reference-1"
#define MAX_ROWS   65536
#define MAX_LABELS 4096

static size_t matrix_numbers(const struct diffuser_info *i)
{
    return i->shape.n_layer * state_shape_heads(&i->shape) * i->token_dim;
}

void ds_reference_fini(struct ds_reference *r)
{
    for (size_t i = 0; i < r->n_label; i++)
        free(r->label[i]);
    free(r->label);
    free(r->z);
    free(r->corpus);
    free(r->style);
    free(r->mean);
    free(r->tuned);
    memset(r, 0, sizeof *r);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int want(const struct tensor_file *f, const char *name, enum dtype type,
                const struct tensor **out, struct err *e)
{
    *out = tensor_file_find(f, name);
    if (!*out || (*out)->dtype != type || (*out)->n_dims != 2 || !(*out)->count)
        return err_set(e, ERR_FORMAT, "reference: no tensor %s [., .] of %s", name,
                       dtype_name(type));
    return 0;
}

static int read_labels(struct ds_reference *r, const struct tensor_file *f, struct err *e)
{
    size_t n;
    const char *s = tensor_file_meta_str(f, "labels", &n);
    if (!s || !n || !(r->label = calloc(MAX_LABELS, sizeof *r->label)))
        return err_set(e, s && n ? ERR_NOMEM : ERR_FORMAT, "reference: no labels");
    while (n && r->n_label < MAX_LABELS) {
        const char *end = memchr(s, '\n', n);
        size_t len = end ? (size_t)(end - s) : n;
        if (!(r->label[r->n_label] = strndup(s, len)))
            return err_set(e, ERR_NOMEM, "reference: no memory");
        r->n_label++;
        n -= end ? len + 1 : n;
        s += len + 1;
    }
    while (r->n_corpora < r->n_label && !strchr(r->label[r->n_corpora], '/'))
        r->n_corpora++;
    return r->n_corpora && r->n_corpora <= BENCH_CORPORA && !n
               ? 0
               : err_set(e, ERR_FORMAT, "reference: its labels begin with no corpora, or too many");
}

static int read_rows(struct ds_reference *r, const struct tensor_file *f, struct err *e)
{
    const struct tensor *z, *scale, *labels;
    int rc = want(f, "coordinates", DTYPE_I8, &z, e);
    rc = rc < 0 ? rc : want(f, "scale", DTYPE_F32, &scale, e);
    rc = rc < 0 ? rc : want(f, "labels", DTYPE_I32, &labels, e);
    if (rc < 0)
        return rc;
    r->n = z->shape[0];
    if (z->shape[1] != r->d || scale->count != r->d || labels->shape[0] != r->n ||
        labels->shape[1] != 2 || r->n > MAX_ROWS)
        return err_set(e, ERR_FORMAT, "reference: %zu rows of %zu numbers, wanted %zu", r->n,
                       z->shape[1], r->d);
    r->z = malloc(r->n * r->d * sizeof *r->z);
    r->corpus = malloc(r->n * sizeof *r->corpus);
    r->style = malloc(r->n * sizeof *r->style);
    if (!r->z || !r->corpus || !r->style)
        return err_set(e, ERR_NOMEM, "reference: no memory");
    for (size_t i = 0; i < r->n * r->d; i++) {
        float unit;
        memcpy(&unit, (const char *)scale->data + i % r->d * sizeof unit, sizeof unit);
        r->z[i] = unit * ((const int8_t *)z->data)[i];
    }
    for (size_t i = 0; i < r->n; i++) {
        int32_t l[2];
        memcpy(l, (const char *)labels->data + i * sizeof l, sizeof l);
        if (l[0] < 0 || (size_t)l[0] >= r->n_corpora || l[1] < -1 || l[1] >= (int64_t)r->n_label)
            return err_set(e, ERR_FORMAT, "reference: row %zu has no such label", i);
        r->corpus[i] = (uint32_t)l[0];
        r->style[i] = l[1];
    }
    return 0;
}

static int read_states(struct ds_reference *r, const struct tensor_file *f, const char *name,
                       float **out, struct err *e)
{
    const struct tensor *t;
    int rc = want(f, name, DTYPE_F16, &t, e);
    if (rc < 0)
        return rc;
    if (t->shape[0] != r->n_corpora || t->shape[1] != r->S)
        return err_set(e, ERR_FORMAT, "reference: %s is not of %zu corpora", name, r->n_corpora);
    if (!(*out = malloc(t->count * sizeof **out)))
        return err_set(e, ERR_NOMEM, "reference: no memory");
    tensor_to_f32(t, *out);
    return 0;
}

/* The codec is known by what it makes of a state: the coordinates of the first mean. */
static int check_codec(const struct ds_reference *r, const struct tensor_file *f,
                       const struct diffuser *d, struct err *e)
{
    const struct diffuser_info *i = diffuser_get_info(d);
    const struct tensor *probe;
    float *z = malloc(2 * i->n_token * i->token_dim * sizeof *z);
    int rc = z ? want(f, "probe", DTYPE_F32, &probe, e) : err_set(e, ERR_NOMEM, "no memory");
    if (rc == 0 && probe->count != r->d)
        rc = err_set(e, ERR_FORMAT, "reference: its probe has %zu numbers", probe->count);
    if (rc == 0)
        rc = diffuser_encode(d, r->mean, 1, z, e);
    for (size_t k = 0; rc == 0 && k < r->d; k++) {
        float was;
        memcpy(&was, (const char *)probe->data + k * sizeof was, sizeof was);
        if (!(fabsf(was - z[k]) <= 1e-3f * (1 + fabsf(was))))
            rc = err_set(e, ERR_FORMAT,
                         "reference: made with another codec than the diffuser's; make it again");
    }
    free(z);
    return rc;
}

int ds_reference_open(struct ds_reference *r, const char *path, const struct diffuser *d,
                      struct err *e)
{
    const struct diffuser_info *i = diffuser_get_info(d);
    struct tensor_file *f = NULL;
    size_t n;
    memset(r, 0, sizeof *r);
    r->d = matrix_numbers(i);
    r->S = state_shape_floats(&i->shape);
    int rc = tensor_file_open(path, &f, e);
    if (rc < 0)
        return rc;
    const char *print = tensor_file_meta_str(f, "fingerprint", &n);
    if (!print || strcmp(print, i->fingerprint) != 0)
        rc = err_set(e, ERR_FORMAT, "reference: of another model than the diffuser's");
    else
        memcpy(r->fingerprint, i->fingerprint, sizeof r->fingerprint);
    rc = rc < 0 ? rc : read_labels(r, f, e);
    rc = rc < 0 ? rc : read_rows(r, f, e);
    rc = rc < 0 ? rc : read_states(r, f, "mean", &r->mean, e);
    rc = rc < 0 ? rc : read_states(r, f, "tuned", &r->tuned, e);
    rc = rc < 0 ? rc : check_codec(r, f, d, e);
    tensor_file_close(f);
    if (rc < 0)
        ds_reference_fini(r);
    return rc;
}

/* ---- Making ---------------------------------------------------------------------------------- */

struct maker {
    const struct ds_prepare *p;
    struct dataset data;
    struct diffuser *diffuser;
    size_t n_corpora, n, d, S;
    int32_t *to;      /* [n_label] the dataset's labels, corpora first */
    size_t *row;      /* [n] of the dataset */
    float *z, *scale; /* [n, d], [d] */
    int8_t *z8;
    int32_t *labels;     /* [n, 2] */
    float *mean, *tuned; /* [n_corpora, S] */
    uint16_t *half;      /* [2, n_corpora, S] */
    float *probe;        /* [d], and room for a whole state's coordinates */
};

/* Whether a row is a text's of a corpus' training part. */
static bool is_of(const struct maker *m, size_t row, size_t corpus)
{
    const struct dataset_row *r = &m->data.row[row];
    return !r->heldout && r->n_text && r->corpus >= 0 && m->to[r->corpus] == (int32_t)corpus;
}

/* In the sample: an equal part of every corpus, evenly spread over it. */
static void choose_rows(struct maker *m)
{
    for (size_t k = 0; k < m->n_corpora; k++) {
        size_t all = 0, quota = m->p->rows / m->n_corpora, seen = 0;
        for (size_t i = 0; i < m->data.n; i++)
            all += is_of(m, i, k);
        for (size_t i = 0; i < m->data.n && all; i++) {
            if (!is_of(m, i, k))
                continue;
            if (seen * quota / all != (seen + 1) * quota / all || all <= quota)
                m->row[m->n++] = i;
            seen++;
        }
    }
}

static int encode_rows(struct maker *m, struct err *e)
{
    float *state = malloc(m->S * sizeof *state);
    int rc = state ? 0 : err_set(e, ERR_NOMEM, "reference: no memory");
    for (size_t i = 0; rc == 0 && i < m->n; i++) {
        dataset_state(&m->data, m->row[i], state);
        rc = diffuser_encode(m->diffuser, state, 1, m->probe, e);
        memcpy(m->z + i * m->d, m->probe, m->d * sizeof *m->z);
        const struct dataset_row *r = &m->data.row[m->row[i]];
        m->labels[2 * i] = m->to[r->corpus];
        m->labels[2 * i + 1] = r->style < 0 ? -1 : m->to[r->style];
    }
    free(state);
    for (size_t k = 0; rc == 0 && k < m->d; k++) {
        float most = 1e-30f;
        for (size_t i = 0; i < m->n; i++)
            most = fmaxf(most, fabsf(m->z[i * m->d + k]));
        m->scale[k] = most / 127;
        for (size_t i = 0; i < m->n; i++)
            m->z8[i * m->d + k] = (int8_t)lrintf(m->z[i * m->d + k] / m->scale[k]);
    }
    return rc;
}

static int mean_states(struct maker *m, struct err *e)
{
    float *state = malloc(m->S * sizeof *state);
    double *sum = calloc(m->n_corpora * m->S, sizeof *sum);
    size_t rows[BENCH_CORPORA] = {0};
    int rc = state && sum ? 0 : err_set(e, ERR_NOMEM, "reference: no memory");
    for (size_t i = 0; rc == 0 && i < m->data.n; i++) {
        const struct dataset_row *r = &m->data.row[i];
        if (r->heldout || !r->n_text || r->corpus < 0)
            continue;
        size_t k = (size_t)m->to[r->corpus];
        if (k >= m->n_corpora)
            continue;
        dataset_state(&m->data, i, state);
        rows[k]++;
        for (size_t c = 0; c < m->S; c++)
            sum[k * m->S + c] += (double)state[c];
    }
    for (size_t i = 0; rc == 0 && i < m->n_corpora * m->S; i++)
        m->mean[i] = rows[i / m->S] ? (float)(sum[i] / (double)rows[i / m->S]) : 0;
    free(state);
    free(sum);
    return rc;
}

static int tune_states(struct maker *m, struct err *e)
{
    struct tuning t = {0};
    size_t *rows = malloc(m->data.n * sizeof *rows);
    int rc = rows ? tuning_open(&t, m->p->model, m->p->pool, e)
                  : err_set(e, ERR_NOMEM, "reference: no memory");
    if (rc == 0 && t.S != m->S)
        rc = err_set(e, ERR_INVALID, "the model has no such states");
    for (size_t k = 0; rc == 0 && k < m->n_corpora; k++) {
        struct tuning_job j = {
            .rows = m->data.row, .of = rows, .steps = m->p->tune_steps, .seed = k};
        double bits = NAN;
        memcpy(m->tuned + k * m->S, m->mean + k * m->S, m->S * sizeof *m->tuned);
        for (size_t i = 0; i < m->data.n; i++)
            if (is_of(m, i, k))
                rows[j.n++] = i;
        rc = j.n ? tuning_run(&t, &j, m->tuned + k * m->S, &bits, e) : 0;
        bench_note("state tuned on corpus %zu of %zu: %.3f bits/byte", k + 1, m->n_corpora, bits);
    }
    tuning_close(&t);
    free(rows);
    return rc;
}

/* Names without a slash are corpora: they come first. */
static int order_labels(struct maker *m, struct err *e)
{
    int32_t next = 0;
    if (!(m->to = calloc(m->data.n_label + 1, sizeof *m->to)))
        return err_set(e, ERR_NOMEM, "reference: no memory");
    for (int styles = 0; styles < 2; styles++) {
        for (size_t i = 0; i < m->data.n_label; i++)
            if (!strchr(m->data.label[i], '/') == !styles)
                m->to[i] = next++;
        m->n_corpora = styles ? m->n_corpora : (size_t)next;
    }
    return 0;
}

static int maker_open(struct maker *m, const struct ds_prepare *p, struct err *e)
{
    m->p = p;
    int rc = dataset_open(&m->data, p->dataset, e);
    rc = rc < 0 ? rc : diffuser_open(p->diffuser, &m->diffuser, e);
    if (rc < 0)
        return rc;
    const struct diffuser_info *i = diffuser_get_info(m->diffuser);
    if ((rc = order_labels(m, e)) < 0)
        return rc;
    m->S = state_shape_floats(&i->shape);
    m->d = matrix_numbers(i);
    if (strcmp(i->fingerprint, m->data.fingerprint) != 0 || m->S != m->data.state_floats)
        return err_set(e, ERR_INVALID, "dataset and diffuser are of different models");
    if (!m->n_corpora || m->n_corpora > BENCH_CORPORA || p->rows < m->n_corpora || p->rows > MAX_ROWS)
        return err_set(e, ERR_INVALID, "%zu corpora, %zu rows wanted", m->n_corpora, p->rows);
    size_t rows = p->rows, states = m->n_corpora * m->S;
    m->row = calloc(rows, sizeof *m->row);
    m->z = calloc(rows * m->d, sizeof *m->z);
    m->z8 = calloc(rows, m->d);
    m->labels = calloc(rows, 2 * sizeof *m->labels);
    m->scale = calloc(m->d, sizeof *m->scale);
    m->probe = calloc(i->n_token * i->token_dim, sizeof *m->probe);
    m->mean = calloc(states, sizeof *m->mean);
    m->tuned = calloc(states, sizeof *m->tuned);
    m->half = calloc(states, 2 * sizeof *m->half);
    return m->row && m->z && m->z8 && m->labels && m->scale && m->probe && m->mean && m->tuned &&
                   m->half
               ? 0
               : err_set(e, ERR_NOMEM, "reference: no memory");
}

static void maker_close(struct maker *m)
{
    dataset_close(&m->data);
    diffuser_close(m->diffuser);
    void *const all[] = {m->to,    m->row,  m->z,     m->z8,   m->labels,
                         m->scale, m->mean, m->tuned, m->half, m->probe};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* To F16, as the file keeps them, so that the probe is of what a reader will see. */
static void round_states(struct maker *m)
{
    size_t n = m->n_corpora * m->S;
    for (size_t i = 0; i < n; i++) {
        m->half[i] = f32_to_f16(m->mean[i]);
        m->half[n + i] = f32_to_f16(m->tuned[i]);
        m->mean[i] = f16_to_f32(m->half[i]);
    }
}

static struct tensor tensor2(const char *name, enum dtype type, size_t a, size_t b,
                             const void *data)
{
    return (struct tensor){.name = name,
                           .dtype = type,
                           .n_dims = 2,
                           .shape = {a, b},
                           .count = a * b,
                           .bytes = a * b * dtype_block_bytes(type),
                           .data = data};
}

static int write_reference(struct maker *m, struct err *e)
{
    struct buf labels;
    round_states(m);
    int rc = diffuser_encode(m->diffuser, m->mean, 1, m->probe, e);
    if (rc < 0)
        return rc;
    const struct tensor t[] = {
        tensor2("coordinates", DTYPE_I8, m->n, m->d, m->z8),
        tensor2("scale", DTYPE_F32, 1, m->d, m->scale),
        tensor2("labels", DTYPE_I32, m->n, 2, m->labels),
        tensor2("mean", DTYPE_F16, m->n_corpora, m->S, m->half),
        tensor2("tuned", DTYPE_F16, m->n_corpora, m->S, m->half + m->n_corpora * m->S),
        tensor2("probe", DTYPE_F32, 1, m->d, m->probe),
    };
    buf_init(&labels, 1 << 20);
    for (size_t k = 0; k < m->data.n_label; k++)
        for (size_t i = 0; i < m->data.n_label; i++)
            if (m->to[i] == (int32_t)k)
                buf_printf(&labels, "%s%s", k ? "\n" : "", m->data.label[i]);
    const struct tensor_meta meta[] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = m->data.fingerprint},
        {.key = "labels", .type = TENSOR_META_STR, .str = labels.data},
    };
    if (labels.failed)
        rc = err_set(e, ERR_NOMEM, "reference: no memory");
    else
        rc = safetensors_write(m->p->out, t, sizeof t / sizeof *t, meta, 3, e);
    buf_fini(&labels);
    return rc;
}

int ds_prepare(const struct ds_prepare *p, struct err *e)
{
    struct maker m = {0};
    gemm_setup();
    int rc = maker_open(&m, p, e);
    if (rc == 0) {
        choose_rows(&m);
        rc = encode_rows(&m, e);
    }
    rc = rc < 0 ? rc : mean_states(&m, e);
    rc = rc < 0 ? rc : tune_states(&m, e);
    rc = rc < 0 ? rc : write_reference(&m, e);
    if (rc == 0)
        bench_note("%zu of %zu states, %zu numbers each: %s", m.n, m.data.n, m.d, p->out);
    maker_close(&m);
    return rc;
}
