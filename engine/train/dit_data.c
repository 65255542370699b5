#include "engine/train/dit_data.h"

#include "daemon/base/buf.h"
#include "engine/kernels/rng.h"
#include "engine/train/bake.h"
#include "engine/train/corpus.h"
#include "engine/train/dit_rows.h"
#include "engine/train/tune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plan {
    const struct dit_recipe *r;
    struct pool *pool;
    struct corpus data[RECIPE_MAX_CORPORA], eval[RECIPE_MAX_CORPORA];
    struct dit_rows rows; /* labels: corpora, then styles */
    int32_t documents;
    struct tuning tuning; /* of the states without text, */
    size_t *half;         /* [rows.n] and the rows that one is tuned on */
};

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
        int k = line[0] ? dit_rows_label(&p->rows, name, e) : -1;
        rc = k < -1 ? k : 0;
        style[i] = k;
    }
    fclose(f);
    if (rc == 0 && i < c->n_docs)
        rc = err_set(e, ERR_FORMAT, "styles %s: %zu lines for %zu documents", from->styles, i,
                     c->n_docs);
    return rc;
}

/* All pieces of a corpus, of which then `quota` stay, evenly spread. */
static int add_corpus(struct plan *p, const struct dit_corpus *from, const struct corpus *c,
                      bool heldout, size_t quota, struct err *e)
{
    size_t first = p->rows.n;
    int label = dit_rows_label(&p->rows, from->name, e), rc = label < 0 ? label : 0;
    int32_t *style = calloc(c->n_docs, sizeof *style);
    if (rc == 0)
        rc = style ? read_styles(p, from, c, style, e)
                   : err_set(e, ERR_NOMEM, "dataset: out of memory");
    for (size_t d = 0; d < c->n_docs && rc == 0; d++, p->documents++) {
        const char *text = (const char *)c->text + c->doc[d];
        const struct dit_text t = {.text = text,
                                   .n = strlen(text),
                                   .corpus = label,
                                   .style = style[d],
                                   .document = p->documents,
                                   .heldout = heldout};
        rc = dit_rows_add(&p->rows, &t, p->r->segment_bytes, e);
    }
    free(style);
    if (rc == 0)
        dit_rows_thin(&p->rows, first, quota);
    return rc;
}

/* Each tuned state is a document of its own, so that no text counts as its neighbour. */
static int add_tuned(struct plan *p, const struct dit_corpus *from, size_t quota, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "%s/tuned", from->name);
    struct dataset_row row = {.corpus = dit_rows_label(&p->rows, from->name, e), .text = ""};
    row.style = row.corpus < 0 ? row.corpus : dit_rows_label(&p->rows, name, e);
    int rc = row.style < 0 ? row.style : 0;
    for (size_t k = 0; rc == 0 && k < p->r->tuned; k++) {
        row.document = p->documents++;
        rc = dit_rows_add_tuned(&p->rows, &row, quota / 9 / p->r->tuned + 1, e);
    }
    return rc;
}

/* Row i by gradient, on the texts of a random half of its corpus' documents. */
static int tune_row(void *ctx, size_t i, float *state, struct err *e)
{
    struct plan *p = ctx;
    const struct dataset_row *row = &p->rows.row[i];
    int rc = p->tuning.S ? 0 : tuning_open(&p->tuning, p->r->model, p->pool, e);
    if (rc == 0 && !p->half && !(p->half = calloc(p->rows.n, sizeof *p->half)))
        rc = err_set(e, ERR_NOMEM, "dataset: out of memory");
    struct tuning_job j = {.rows = p->rows.row,
                           .of = p->half,
                           .steps = p->r->tuned_steps,
                           .seed = (uint64_t)row->document};
    for (size_t k = 0; rc == 0 && k < p->rows.n; k++) {
        const struct dataset_row *r = &p->rows.row[k];
        struct rng rng;
        rng_init(&rng, (uint64_t)row->document, (uint64_t)r->document);
        if (r->corpus == row->corpus && !r->heldout && r->n_text && rng_below(&rng, 2))
            p->half[j.n++] = k;
    }
    double bits;
    return rc < 0 ? rc : tuning_run(&p->tuning, &j, state, &bits, e);
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
        int label = dit_rows_label(&p->rows, r->data[i].name, e);
        rc = label < 0 ? label : 0;
    }
    for (size_t i = 0; i < r->n_data && rc == 0; i++)
        rc = add_corpus(p, &r->data[i], &p->data[i], false, r->segments / r->n_data, e);
    for (size_t i = 0; i < r->n_eval && rc == 0; i++)
        rc = add_corpus(p, &r->eval[i], &p->eval[i], true, r->eval_segments / r->n_eval, e);
    for (size_t i = 0; r->tuned && i < r->n_data && rc == 0; i++)
        rc = add_tuned(p, &r->data[i], r->segments / r->n_data, e);
    return rc < 0 ? rc : dit_rows_prune(&p->rows, r->style_segments, e);
}

static void plan_fini(struct plan *p)
{
    for (size_t i = 0; i < RECIPE_MAX_CORPORA; i++) {
        corpus_close(&p->data[i]);
        corpus_close(&p->eval[i]);
    }
    dit_rows_fini(&p->rows);
    tuning_close(&p->tuning);
    free(p->half);
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
    p->pool = pool;
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
                               .rows = p->rows.row,
                               .n = p->rows.n,
                               .label = (const char *const *)p->rows.label,
                               .n_label = p->rows.n_label,
                               .path = r->dataset,
                               .proceed = proceed,
                               .tune = tune_row,
                               .ctx = ctx,
                               .tune_ctx = p};
        rc = bake_run(&b, e);
    }
    tokenizer_free(tok);
    rwkv_close(model);
    plan_fini(p);
    free(p);
    return rc;
}
