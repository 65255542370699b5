#include "engine/train/dit_rows.h"

#include "engine/train/bake.h"

#include <stdlib.h>
#include <string.h>

int dit_rows_label(struct dit_rows *r, const char *name, struct err *e)
{
    for (size_t i = 0; i < r->n_label; i++)
        if (!strcmp(r->label[i], name))
            return (int)i;
    char **more = realloc(r->label, (r->n_label + 1) * sizeof *more), *copy = strdup(name);
    if (more)
        r->label = more;
    if (!more || !copy) {
        free(copy);
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    }
    r->label[r->n_label++] = copy;
    return (int)r->n_label - 1;
}

static int push(struct dit_rows *r, const struct dataset_row *row, struct err *e)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 1024;
        struct dataset_row *more = realloc(r->row, cap * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "dataset: out of memory");
        r->row = more;
        r->cap = cap;
    }
    r->row[r->n++] = *row;
    return 0;
}

int dit_rows_add(struct dit_rows *r, const struct dit_text *t, size_t segment_bytes, struct err *e)
{
    size_t at = 0, begin, len;
    int rc = 0;
    while (rc == 0 && (len = bake_piece(t->text, t->n, segment_bytes, &at, &begin)) > 0) {
        const struct dataset_row row = {.corpus = t->corpus,
                                        .style = t->style,
                                        .document = t->document,
                                        .heldout = t->heldout,
                                        .text = t->text + begin,
                                        .n_text = len};
        rc = push(r, &row, e);
    }
    return rc;
}

int dit_rows_add_tuned(struct dit_rows *r, const struct dataset_row *row, size_t copies,
                       struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < copies && rc == 0; i++)
        rc = push(r, row, e);
    return rc;
}

void dit_rows_thin(struct dit_rows *r, size_t first, size_t most)
{
    const size_t all = r->n - first;
    if (all <= most)
        return;
    for (size_t k = 0; k < most; k++)
        r->row[first + k] = r->row[first + k * all / most];
    r->n = first + most;
}

int dit_rows_prune(struct dit_rows *r, size_t least, struct err *e)
{
    size_t *rows = calloc(r->n_label + 1, sizeof *rows), n = 0;
    int32_t *to = calloc(r->n_label + 1, sizeof *to);
    if (!rows || !to) {
        free(rows);
        free(to);
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    }
    for (size_t i = 0; i < r->n; i++)
        if (!r->row[i].heldout) {
            rows[r->row[i].corpus] = SIZE_MAX / 2; /* corpora stay */
            if (r->row[i].style >= 0)
                rows[r->row[i].style]++;
        }
    for (size_t k = 0; k < r->n_label; k++) {
        bool keep = rows[k] >= least || !strchr(r->label[k], '/');
        to[k] = keep ? (int32_t)n : -1;
        if (keep)
            r->label[n++] = r->label[k];
        else
            free(r->label[k]);
    }
    r->n_label = n;
    for (size_t i = 0; i < r->n; i++) {
        r->row[i].corpus = to[r->row[i].corpus];
        r->row[i].style = r->row[i].style < 0 ? -1 : to[r->row[i].style];
    }
    free(rows);
    free(to);
    return 0;
}

void dit_rows_fini(struct dit_rows *r)
{
    for (size_t i = 0; i < r->n_label; i++)
        free(r->label[i]);
    free(r->label);
    free(r->row);
    *r = (struct dit_rows){0};
}
