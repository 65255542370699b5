#include "daemon/embedder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int embedder_init(struct embedder *b, const struct rwkv_info *info, struct embedding *to,
                  const float *state, struct err *e)
{
    size_t n_floats = rwkv_state_floats(info);
    *b = (struct embedder){.to = to, .n_embd = info->n_embd};
    b->sum = calloc(info->n_embd, sizeof *b->sum);
    bool keep = state && to->n_texts > 1;
    if (keep && (b->start = malloc(n_floats * sizeof *state)))
        memcpy(b->start, state, n_floats * sizeof *state);
    if (!b->sum || (keep && !b->start))
        return err_set(e, ERR_NOMEM, "no memory for an embedding");
    return 0;
}

void embedder_fini(struct embedder *b)
{
    free(b->sum);
    free(b->start);
}

void embedder_add(struct embedder *b, const float *hidden, size_t n)
{
    for (size_t t = 0; t < n; t++)
        for (size_t c = 0; c < b->n_embd; c++)
            b->sum[c] += (double)hidden[t * b->n_embd + c];
    b->n_tokens += n;
}

/* v = sum / n, or with `unit` sum / |sum|. */
static void write_vector(const struct embedder *b, float *v)
{
    double by = (double)embedder_text(b)->n, squares = 0;
    for (size_t c = 0; c < b->n_embd; c++)
        squares += b->sum[c] * b->sum[c];
    if (b->to->unit && squares > 0)
        by = sqrt(squares);
    for (size_t c = 0; c < b->n_embd; c++)
        v[c] = (float)(b->sum[c] / by);
}

bool embedder_next(struct embedder *b, float *state, size_t n_floats)
{
    write_vector(b, b->to->vectors + b->at * b->n_embd);
    memset(b->sum, 0, b->n_embd * sizeof *b->sum);
    if (++b->at == b->to->n_texts)
        return false;
    if (b->start)
        memcpy(state, b->start, n_floats * sizeof *state);
    else
        memset(state, 0, n_floats * sizeof *state);
    return true;
}
