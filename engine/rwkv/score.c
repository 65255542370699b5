/* Sequences take slots; a call evaluates a chunk of every slot, together at most SCORE_ROWS tokens. */
#include "engine/rwkv/score.h"

#include "daemon/base/mem.h"

#include <math.h>

#define SCORE_SLOTS 16
#define SCORE_ROWS  256

struct slot {
    const struct score_seq *seq; /* NULL: free */
    size_t fed;                  /* tokens of it evaluated so far */
    size_t chunk;                /* in the call at hand */
    float *state;
    float *logits; /* [chunk, V] */
};

/* One call's log-softmaxes, shared out over the pool by rows. */
struct rows {
    size_t n, n_vocab;
    const float *logits[SCORE_ROWS];
    uint32_t target[SCORE_ROWS];
    float *bits[SCORE_ROWS];
};

/* -log2 softmax(logits [V])[target] */
static float bits_of(const float *logits, size_t n_vocab, uint32_t target)
{
    float max = logits[0];
    for (size_t i = 1; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    double sum = 0;
    for (size_t i = 0; i < n_vocab; i++)
        sum += (double)expf(logits[i] - max);
    return (float)((log(sum) - (double)(logits[target] - max)) * M_LOG2E);
}

static void score_rows(void *ctx, int part, int parts)
{
    struct rows *r = ctx;
    size_t lo, hi;
    pool_slice(r->n, 1, part, parts, &lo, &hi);
    for (size_t i = lo; i < hi; i++)
        *r->bits[i] = bits_of(r->logits[i], r->n_vocab, r->target[i]);
}

/* Fills free slots from seqs[*next...]; returns the number of slots in use. */
static size_t refill(struct slot *slots, const struct rwkv_info *info, const struct score_seq *seqs,
                     size_t n_seqs, size_t *next)
{
    size_t used = 0;
    for (size_t k = 0; k < SCORE_SLOTS; k++) {
        struct slot *s = &slots[k];
        while (!s->seq && *next < n_seqs) {
            const struct score_seq *q = &seqs[(*next)++];
            if (q->n_tokens < 2)
                continue;
            s->seq = q;
            s->fed = 0;
            if (q->state)
                memcpy(s->state, q->state, rwkv_state_floats(info) * sizeof *s->state);
            else
                memset(s->state, 0, rwkv_state_floats(info) * sizeof *s->state);
        }
        used += s->seq != NULL;
    }
    return used;
}

static int step(struct rwkv_session *session, struct pool *pool, struct slot *slots, size_t used,
                size_t n_vocab, float *logits, struct err *e)
{
    struct rwkv_seq calls[SCORE_SLOTS];
    struct rows rows = {.n_vocab = n_vocab};
    size_t n_calls = 0;
    for (size_t k = 0; k < SCORE_SLOTS; k++) {
        struct slot *s = &slots[k];
        if (!s->seq)
            continue;
        size_t left = s->seq->n_tokens - 1 - s->fed;
        s->chunk = left < SCORE_ROWS / used ? left : SCORE_ROWS / used;
        s->logits = logits + rows.n * n_vocab;
        calls[n_calls++] = (struct rwkv_seq){.tokens = s->seq->tokens + s->fed,
                                             .n_tokens = s->chunk,
                                             .state = s->state,
                                             .theta = s->seq->theta,
                                             .rank = s->seq->rank,
                                             .logits = s->logits,
                                             .all_logits = true};
        for (size_t i = 0; i < s->chunk; i++, rows.n++) {
            rows.logits[rows.n] = s->logits + i * n_vocab;
            rows.target[rows.n] = s->seq->tokens[s->fed + i + 1];
            rows.bits[rows.n] = &s->seq->bits[s->fed + i];
        }
    }
    int rc = rwkv_eval(session, calls, n_calls, e);
    if (rc < 0)
        return rc;
    pool_run(pool, score_rows, &rows);
    for (size_t k = 0; k < SCORE_SLOTS; k++) {
        struct slot *s = &slots[k];
        if (!s->seq)
            continue;
        s->fed += s->chunk;
        if (s->fed == s->seq->n_tokens - 1)
            s->seq = NULL;
    }
    return 0;
}

int rwkv_score(const struct rwkv_model *m, struct pool *pool, const struct score_seq *seqs,
               size_t n_seqs, struct err *e)
{
    const struct rwkv_info *info = rwkv_get_info(m);
    struct slot slots[SCORE_SLOTS] = {{0}};
    struct rwkv_session *session = NULL;
    float *logits = NULL;
    size_t next = 0, used, n_logits;
    int rc = 0;

    /* Targets index the logits: the last token of a sequence is never fed, so rwkv_eval cannot tell. */
    for (size_t i = 0; i < n_seqs; i++)
        if (seqs[i].n_tokens && seqs[i].tokens[seqs[i].n_tokens - 1] >= info->n_vocab)
            return err_set(e, ERR_INVALID, "the last token of sequence %zu, %u, is outside the "
                           "vocabulary of %zu", i, seqs[i].tokens[seqs[i].n_tokens - 1],
                           info->n_vocab);
    if (!mem_mul(info->n_vocab, SCORE_ROWS, &n_logits) ||
        !(logits = mem_calloc_aligned(n_logits, sizeof *logits))) {
        rc = err_set(e, ERR_NOMEM, "no memory for %d rows of logits", SCORE_ROWS);
        goto out;
    }
    for (size_t k = 0; k < SCORE_SLOTS; k++)
        if (!(slots[k].state = rwkv_state_new(info))) {
            rc = err_set(e, ERR_NOMEM, "no memory for %d states", SCORE_SLOTS);
            goto out;
        }
    if (!(session = rwkv_session_new(m, pool, SCORE_ROWS, e))) {
        rc = e ? e->code : ERR_NOMEM;
        goto out;
    }
    while (rc == 0 && (used = refill(slots, info, seqs, n_seqs, &next)) > 0)
        rc = step(session, pool, slots, used, info->n_vocab, logits, e);
out:
    rwkv_session_free(session);
    for (size_t k = 0; k < SCORE_SLOTS; k++)
        free(slots[k].state);
    free(logits);
    return rc;
}
