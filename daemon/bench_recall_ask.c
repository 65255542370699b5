/* Asking states, and what the answers say. */
#include "daemon/bench_recall.h"

#include "daemon/base/clock.h"
#include "daemon/bench_corpora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 64 /* questions together */

/* ---- Asking ---------------------------------------------------------------------------------- */

struct question {
    const float *state;
    const char *name;
    char *answer; /* [RC_WORD] */
};

struct asker {
    const struct rc_bench *b;
    struct rwkv_session *session;
    float *state, *logits;              /* [ROWS, S], [ROWS, 256] */
    uint32_t tokens[ROWS][RC_WORD + 2]; /* separator, name, question mark; then what was answered */
    size_t n_tokens[ROWS];
};

static uint32_t likeliest(const float *logits)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < 256; k++)
        best = logits[k] > logits[best] ? k : best;
    return best;
}

/* All answers grow a byte at a time; those that reached their line's end are not read further. */
static int ask_some(struct asker *a, const struct question *q, size_t n, struct err *e)
{
    struct rwkv_seq seq[ROWS];
    size_t open[ROWS], n_open = n;
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(q[i].name);
        a->tokens[i][0] = tokenizer_separator(a->b->tokenizer);
        for (size_t k = 0; k < len; k++)
            a->tokens[i][1 + k] = (unsigned char)q[i].name[k];
        a->tokens[i][1 + len] = '?';
        a->n_tokens[i] = len + 2;
        memcpy(a->state + i * a->b->S, q[i].state, a->b->S * sizeof *a->state);
        memset(q[i].answer, 0, RC_WORD);
        open[i] = i;
    }
    for (size_t t = 0; rc == 0 && t < RC_WORD && n_open; t++) {
        size_t still = 0;
        for (size_t k = 0; k < n_open; k++)
            seq[k] = (struct rwkv_seq){.tokens = a->tokens[open[k]],
                                       .n_tokens = a->n_tokens[open[k]],
                                       .state = a->state + open[k] * a->b->S,
                                       .logits = a->logits + k * 256};
        rc = rwkv_eval(a->session, seq, n_open, e);
        for (size_t k = 0; rc == 0 && k < n_open; k++) {
            size_t i = open[k];
            a->tokens[i][0] = likeliest(a->logits + k * 256);
            a->n_tokens[i] = 1;
            if (a->tokens[i][0] == '\n')
                continue;
            if (t < RC_WORD - 1) {
                q[i].answer[t] = (char)a->tokens[i][0];
                open[still++] = i;
            } else {
                q[i].answer[0] = 0; /* longer than any value */
            }
        }
        n_open = still;
    }
    return rc;
}

static int asker_open(struct asker *a, const struct rc_bench *b, struct err *e)
{
    a->b = b;
    a->state = malloc(ROWS * b->S * sizeof *a->state);
    a->logits = malloc(ROWS * 256 * sizeof *a->logits);
    if (!a->state || !a->logits)
        return err_set(e, ERR_NOMEM, "no memory for questions");
    a->session = rwkv_session_new(b->model, b->pool, ROWS * (RC_WORD + 2), e);
    return a->session ? 0 : e->code;
}

static void asker_close(struct asker *a)
{
    rwkv_session_free(a->session);
    free(a->state);
    free(a->logits);
}

int rc_ask(const struct rc_bench *b, const float *x, rc_answer *answer, struct err *e)
{
    struct asker a = {0};
    struct question *q = calloc(b->n * RC_ENTRIES, sizeof *q);
    size_t n = 0;
    int rc = q ? asker_open(&a, b, e) : err_set(e, ERR_NOMEM, "no memory for questions");
    for (size_t i = 0; rc == 0 && i < b->n; i++)
        for (size_t k = 0; k < b->list[i].n; k++)
            q[n++] = (struct question){x + i * b->S, b->list[i].entry[k].name,
                                       answer[i * RC_ENTRIES + k]};
    for (size_t i = 0; rc == 0 && i < n; i += ROWS)
        rc = ask_some(&a, q + i, n - i < ROWS ? n - i : ROWS, e);
    asker_close(&a);
    free(q);
    return rc;
}

/* ---- Counting -------------------------------------------------------------------------------- */

struct rc_share rc_wilson(double mean, size_t n)
{
    const double z = 1.959963984540054, z2 = z * z / (double)n;
    const double middle = (mean + z2 / 2) / (1 + z2);
    const double half = sqrt(mean * (1 - mean) * z2 + z2 * z2 / 4) / (1 + z2);
    return (struct rc_share){mean, fmax(0, middle - half), fmin(1, middle + half)};
}

/* Of one list, in units of the list. */
struct told {
    double edited_new, edited_old, untouched, removed_old, removed_none, all;
};

static struct told tell(const struct rc_list *l, const rc_answer *answer)
{
    const char *edited = answer[l->edited], *removed = answer[l->removed];
    struct told t = {.edited_new = !strcmp(edited, l->value),
                     .edited_old = !strcmp(edited, l->entry[l->edited].value),
                     .removed_old = !strcmp(removed, l->entry[l->removed].value),
                     .removed_none = !strcmp(removed, RC_NONE)};
    size_t right = 0;
    for (size_t k = 0; k < l->n; k++)
        right += k != l->edited && k != l->removed && !strcmp(answer[k], l->entry[k].value);
    t.untouched = (double)right / (double)(l->n - 2);
    t.all = t.edited_new > 0 && t.removed_none > 0 && right == l->n - 2;
    return t;
}

static void count(const struct rc_bench *b, const rc_answer *answer, const float *x,
                  struct rc_row *row)
{
    struct told sum = {0};
    double distance = 0;
    for (size_t i = 0; i < b->n; i++) {
        struct told t = tell(&b->list[i], answer + i * RC_ENTRIES);
        sum.edited_new += t.edited_new;
        sum.edited_old += t.edited_old;
        sum.untouched += t.untouched;
        sum.removed_old += t.removed_old;
        sum.removed_none += t.removed_none;
        sum.all += t.all;
        distance += rwkv_compare(b->afresh + i * b->S, x + i * b->S, b->S).relative_l2;
    }
    const double n = (double)b->n;
    row->edited_new = rc_wilson(sum.edited_new / n, b->n);
    row->edited_old = rc_wilson(sum.edited_old / n, b->n);
    row->untouched = rc_wilson(sum.untouched / n, b->n);
    row->removed_old = rc_wilson(sum.removed_old / n, b->n);
    row->removed_none = rc_wilson(sum.removed_none / n, b->n);
    row->all = rc_wilson(sum.all / n, b->n);
    row->distance = distance / n;
}

int rc_measure(struct rc_bench *b, struct err *e)
{
    const uint64_t began = clock_ns();
    struct rc_setting setting[RC_SETTINGS];
    float *x = malloc(b->n * b->S * sizeof *x);
    rc_answer *answer = calloc(b->n * RC_ENTRIES, sizeof *answer);
    int rc = x && answer ? 0 : err_set(e, ERR_NOMEM, "no memory for states");
    b->n_rows = rc_settings(b->info, b->diffuser, setting);
    for (size_t k = 0; rc == 0 && k < b->n_rows; k++) {
        char name[64];
        rc_setting_name(&setting[k], name, sizeof name);
        bench_note("%s", name);
        b->row[k].setting = setting[k];
        rc = rc_edit(b, &setting[k], x, e);
        rc = rc < 0 ? rc : rc_ask(b, x, answer, e);
        if (rc == 0)
            count(b, answer, x, &b->row[k]);
    }
    b->seconds = (double)(clock_ns() - began) * 1e-9;
    free(x);
    free(answer);
    return rc;
}
