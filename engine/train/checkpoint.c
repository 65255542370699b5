#include "engine/train/checkpoint.h"

#include "engine/rwkv/params.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int checkpoint_write(const struct checkpoint *c, const char *path, struct err *e)
{
    size_t np = c->params ? c->l->n : 0, n = 0;
    struct tensor *t = calloc(np + c->n_arrays + 1, sizeof *t);
    struct tensor_meta *meta = calloc(c->n_numbers + 1, sizeof *meta);
    char(*text)[24] = calloc(c->n_numbers + 1, sizeof *text);
    int rc = 0;
    if (!t || !meta || !text) {
        rc = err_set(e, ERR_NOMEM, "checkpoint: out of memory");
        goto out;
    }
    for (size_t i = 0; i < np; i++) {
        const struct rwkv_param *p = &c->l->param[i];
        t[n] = (struct tensor){.name = p->name,
                               .dtype = DTYPE_F32,
                               .n_dims = p->n_dims,
                               .count = p->count,
                               .bytes = p->count * 4,
                               .data = c->params + p->offset};
        memcpy(t[n++].shape, p->shape, sizeof p->shape);
    }
    for (size_t i = 0; i < c->n_arrays; i++) {
        const struct checkpoint_array *a = &c->arrays[i];
        t[n] = (struct tensor){.name = a->name,
                               .dtype = a->dtype,
                               .n_dims = 1,
                               .shape = {a->count},
                               .count = a->count,
                               .data = a->data};
        dtype_bytes(a->dtype, a->count, &t[n++].bytes);
    }
    for (size_t i = 0; i < c->n_numbers; i++) {
        snprintf(text[i], sizeof *text, "%llu", (unsigned long long)c->numbers[i].value);
        meta[i] = (struct tensor_meta){
            .key = c->numbers[i].name, .type = TENSOR_META_STR, .str = text[i]};
    }
    rc = safetensors_write(path, t, n, meta, c->n_numbers, e);
out:
    free(t);
    free(meta);
    free(text);
    return rc;
}

static int read_number(struct checkpoint_number *x, const struct tensor_file *f, const char *path,
                       struct err *e)
{
    size_t len;
    char *end = NULL;
    const char *s = tensor_file_meta_str(f, x->name, &len);
    errno = 0;
    unsigned long long v = s ? strtoull(s, &end, 10) : 0;
    if (!s || !len || end != s + len || errno)
        return err_set(e, ERR_FORMAT, "checkpoint %s: no number '%s'", path, x->name);
    if (x->fixed && v != x->value)
        return err_set(e, ERR_FORMAT, "checkpoint %s: %s is %llu, this run's is %llu", path,
                       x->name, v, (unsigned long long)x->value);
    x->value = v;
    return 0;
}

int checkpoint_read(struct checkpoint *c, const char *path, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open(path, &f, e);
    if (rc == 0 && c->params)
        rc = rwkv_params_read(c->l, c->params, f, e);
    for (size_t i = 0; i < c->n_numbers && rc == 0; i++)
        rc = read_number(&c->numbers[i], f, path, e);
    for (size_t i = 0; i < c->n_arrays && rc == 0; i++) {
        const struct checkpoint_array *a = &c->arrays[i];
        const struct tensor *t = tensor_file_find(f, a->name);
        if (!t || t->dtype != a->dtype || t->count != a->count)
            rc = err_set(e, ERR_FORMAT, "checkpoint %s: %s %s", path, a->name,
                         t ? "has another type or size" : "is missing");
        else
            memcpy(a->data, t->data, t->bytes);
    }
    tensor_file_close(f);
    return rc;
}
