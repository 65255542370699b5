#include "engine/train/dit_data.h"

#include "daemon/base/buf.h"
#include "engine/train/bake.h"
#include "engine/train/corpus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plan {
    const struct dit_recipe *r;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct dataset_row *row; /* [n] */
    size_t n, cap;
    char **label; /* [n_label] owned: corpora, then styles */
    size_t n_label;
    int32_t documents;
};

/* The index of a label, which is added if it is new; or an error. */
static int label_of(struct plan *p, const char *name, struct err *e)
{
    for (size_t i = 0; i < p->n_label; i++)
        if (!strcmp(p->label[i], name))
            return (int)i;
    char **more = realloc(p->label, (p->n_label + 1) * sizeof *more), *copy = strdup(name);
    if (more)
        p->label = more;
    if (!more || !copy) {
        free(copy);
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    }
    p->label[p->n_label++] = copy;
    return (int)p->n_label - 1;
}

/* Fine styles of a corpus' documents: style [n_docs] labels, -1 without. */
static int read_styles(struct plan *p, const struct dit_corpus *from, const struct corpus *c,
                       int32_t *style, struct err *e)
{
    char line[256], name[320];
    for (size_t i = 0; i < c->n_docs; i++)
        style[i] = -1;
    if (!from->styles[0])
        return 0;
    FILE *f = fopen(from->styles, "r");
    if (!f)
        return err_set(e, ERR_IO, "styles %s: %s", from->styles, strerror(errno));
    size_t i = 0;
    int rc = 0;
    for (; i < c->n_docs && rc == 0 && fgets(line, sizeof line, f); i++) {
        line[strcspn(line, "\n")] = 0;
        snprintf(name, sizeof name, "%s/%s", from->name, line);
        int k = line[0] ? label_of(p, name, e) : -1;
        rc = k < -1 ? k : 0;
        style[i] = k;
    }
    fclose(f);
    if (rc == 0 && i < c->n_docs)
        rc = err_set(e, ERR_FORMAT, "styles %s: %zu lines for %zu documents", from->styles, i,
                     c->n_docs);
    return rc;
}

static int push(struct plan *p, const struct dataset_row *row, struct err *e)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 1024;
        struct dataset_row *more = realloc(p->row, cap * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "dataset: out of memory");
        p->row = more;
        p->cap = cap;
    }
    p->row[p->n++] = *row;
    return 0;
}

/* All pieces of a corpus, of which then `quota` stay, evenly spread. */
static int add_corpus(struct plan *p, const struct dit_corpus *from, const struct corpus *c,
                      bool heldout, size_t quota, struct err *e)
{
    size_t first = p->n;
    int label = label_of(p, from->name, e), rc = label < 0 ? label : 0;
    int32_t *style = calloc(c->n_docs, sizeof *style);
    if (rc == 0)
        rc = style ? read_styles(p, from, c, style, e)
                   : err_set(e, ERR_NOMEM, "dataset: out of memory");
    for (size_t d = 0; d < c->n_docs && rc == 0; d++, p->documents++) {
        const char *text = (const char *)c->text + c->doc[d];
        size_t n = strlen(text), at = 0, begin, len;
        while (rc == 0 && (len = bake_piece(text, n, p->r->segment_bytes, &at, &begin)) > 0) {
            const struct dataset_row row = {.corpus = label,
                                            .style = style[d],
                                            .document = p->documents,
                                            .heldout = heldout,
                                            .text = text + begin,
                                            .n_text = len};
            rc = push(p, &row, e);
        }
    }
    free(style);
    size_t all = p->n - first;
    for (size_t k = 0; rc == 0 && all > quota && k < quota; k++)
        p->row[first + k] = p->row[first + k * all / quota];
    p->n = all > quota ? first + quota : p->n;
    return rc;
}

/* Takes off styles with too few rows to train on, and closes the gaps in the list of labels. */
static int prune_styles(struct plan *p, struct err *e)
{
    size_t *rows = calloc(p->n_label + 1, sizeof *rows);
    int32_t *to = calloc(p->n_label + 1, sizeof *to);
    if (!rows || !to) {
        free(rows);
        free(to);
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    }
    for (size_t i = 0; i < p->n; i++)
        if (!p->row[i].heldout) {
            rows[p->row[i].corpus] = SIZE_MAX / 2; /* corpora stay */
            if (p->row[i].style >= 0)
                rows[p->row[i].style]++;
        }
    size_t n = 0;
    for (size_t k = 0; k < p->n_label; k++) {
        bool keep = rows[k] >= p->r->style_segments || !strchr(p->label[k], '/');
        to[k] = keep ? (int32_t)n : -1;
        if (keep)
            p->label[n++] = p->label[k];
        else
            free(p->label[k]);
    }
    p->n_label = n;
    for (size_t i = 0; i < p->n; i++) {
        p->row[i].corpus = to[p->row[i].corpus];
        p->row[i].style = p->row[i].style < 0 ? -1 : to[p->row[i].style];
    }
    free(rows);
    free(to);
    return 0;
}

static int make_plan(struct plan *p, struct err *e)
{
    const struct dit_recipe *r = p->r;
    int rc = r->n_data ? 0 : err_set(e, ERR_INVALID, "recipe: data names no corpus to bake from");
    for (size_t i = 0; i < r->n_data && rc == 0; i++)
        rc = corpus_open(&p->data[i], r->data[i].name, r->data[i].path, 1, e);
    for (size_t i = 0; i < r->n_eval && rc == 0; i++)
        rc = corpus_open(&p->eval[i], r->eval[i].name, r->eval[i].path, 1, e);
    for (size_t i = 0; i < r->n_data && rc == 0; i++) { /* corpora first in the list of labels */
        int label = label_of(p, r->data[i].name, e);
        rc = label < 0 ? label : 0;
    }
    for (size_t i = 0; i < r->n_data && rc == 0; i++)
        rc = add_corpus(p, &r->data[i], &p->data[i], false, r->segments / r->n_data, e);
    for (size_t i = 0; i < r->n_eval && rc == 0; i++)
        rc = add_corpus(p, &r->eval[i], &p->eval[i], true, r->eval_segments / r->n_eval, e);
    return rc < 0 ? rc : prune_styles(p, e);
}

static void plan_fini(struct plan *p)
{
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&p->data[i]);
        corpus_close(&p->eval[i]);
    }
    for (size_t i = 0; i < p->n_label; i++)
        free(p->label[i]);
    free(p->label);
    free(p->row);
}

int dit_data_bake(const struct dit_recipe *r, struct pool *pool,
                  bool (*proceed)(void *ctx, size_t done, size_t n), void *ctx, struct err *e)
{
    struct rwkv_model *model = NULL;
    struct tokenizer *tok = NULL;
    struct plan *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(e, ERR_NOMEM, "dataset: out of memory");
    p->r = r;
    int rc = make_plan(p, e);
    if (rc == 0)
        rc = rwkv_open(r->model, &(struct rwkv_options){.weights_type = -1}, pool, &model, e);
    if (rc == 0 && r->vocab[0])
        rc = tokenizer_open(r->vocab, &tok, e);
    if (rc == 0 && !tok && !(tok = tokenizer_new_bytes()))
        rc = err_set(e, ERR_NOMEM, "dataset: out of memory");
    if (rc == 0) {
        const struct bake b = {.model = model,
                               .pool = pool,
                               .tokenizer = tok,
                               .rows = p->row,
                               .n = p->n,
                               .label = (const char *const *)p->label,
                               .n_label = p->n_label,
                               .path = r->dataset,
                               .proceed = proceed,
                               .ctx = ctx};
        rc = bake_run(&b, e);
    }
    tokenizer_free(tok);
    rwkv_close(model);
    plan_fini(p);
    free(p);
    return rc;
}
