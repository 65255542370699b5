#include "engine/train/evaluate.h"

#include "daemon/base/assert.h"
#include "daemon/base/mem.h"

#define MAX_DOCS 64

struct reader {
    const uint8_t *at, *end;
    uint8_t last; /* the byte before at, or the separator */
};

/* One window of every document that has bytes left; how many had. */
static size_t next_windows(struct reader *docs, size_t n, uint32_t *tokens, float *states, size_t S,
                           size_t T, struct train_seq *seqs)
{
    size_t live = 0;
    for (size_t i = 0; i < n; i++) {
        size_t left = (size_t)(docs[i].end - docs[i].at), len = left < T ? left : T;
        if (!len)
            continue;
        uint32_t *to = tokens + live * (T + 1);
        to[0] = docs[i].last;
        for (size_t k = 0; k < len; k++)
            to[k + 1] = docs[i].at[k];
        docs[i].at += len;
        docs[i].last = docs[i].at[-1];
        seqs[live++] = (struct train_seq){.tokens = to, .T = len, .state = states + i * S};
    }
    return live;
}

static size_t open_docs(const struct corpus *c, uint64_t bytes, struct reader *docs)
{
    size_t n = c->n_docs < MAX_DOCS ? c->n_docs : MAX_DOCS;
    uint64_t each = bytes / n ? bytes / n : 1;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *text = c->text + c->doc[i * c->n_docs / n];
        size_t len = strlen((const char *)text);
        docs[i] = (struct reader){text, text + (len < each ? len : each), CORPUS_SEPARATOR};
    }
    return n;
}

int train_evaluate(struct trainer *t, const struct corpus *c, size_t n, uint64_t bytes,
                   const float *initial, double *bits, struct err *e)
{
    size_t S = rwkv_layout_state(t->l), T = t->max_T;
    struct reader docs[MAX_DOCS];
    struct train_seq seqs[MAX_DOCS];
    float *states = calloc(MAX_DOCS * S, sizeof *states);
    uint32_t *tokens = calloc(MAX_DOCS * (T + 1), sizeof *tokens);
    int rc = states && tokens ? 0 : err_set(e, ERR_NOMEM, "evaluation: out of memory");
    for (size_t k = 0; k < n && rc == 0; k++) {
        size_t n_docs = open_docs(&c[k], bytes, docs), total = 0, live;
        double ce = 0;
        for (size_t i = 0; i < n_docs; i++)
            if (initial)
                memcpy(states + i * S, initial, S * sizeof *states);
            else
                memset(states + i * S, 0, S * sizeof *states);
        while ((live = next_windows(docs, n_docs, tokens, states, S, T, seqs)) > 0) {
            trainer_evaluate(t, seqs, live);
            for (size_t i = 0; i < live; i++) {
                ce += seqs[i].ce;
                total += seqs[i].T;
            }
        }
        bits[k] = ce / (double)total * 1.4426950408889634;
    }
    free(states);
    free(tokens);
    return rc;
}

int train_run_evaluate(struct train_run *r, struct trainer *t, const struct corpus *c, size_t n,
                       uint64_t bytes, const float *initial, struct err *e)
{
    const char *names[TRAIN_EVALUATE_MAX];
    double bits[TRAIN_EVALUATE_MAX];
    struct train_eval v = {.step = r->step, .n = n, .names = names, .bits = bits};
    ASSERT(n <= TRAIN_EVALUATE_MAX);
    int rc = n ? train_evaluate(t, c, n, bytes, initial, bits, e) : 0;
    if (rc < 0 || !n)
        return rc;
    for (size_t i = 0; i < n; i++) {
        names[i] = c[i].name;
        v.mean += bits[i] / (double)n;
    }
    train_run_eval(r, &v);
    return 0;
}
