#include "engine/hybrid/pooling.h"

#include "daemon/base/mem.h"

#include <math.h>
#include <string.h>

int hybrid_pool_init(struct hybrid_pool *p, size_t C, size_t max, struct err *e)
{
    size_t n;
    *p = (struct hybrid_pool){.C = C, .max = max};
    if (max < 2 || max > 65536 || max % 2)
        return err_set(e, ERR_INVALID, "context: %zu rows, want an even number from 2 to 65536",
                       max);
    p->sum = mem_mul(max, C, &n) ? mem_calloc_aligned(n, sizeof *p->sum) : NULL;
    hybrid_pool_clear(p);
    return p->sum ? 0 : err_set(e, ERR_NOMEM, "context: out of memory");
}

void hybrid_pool_fini(struct hybrid_pool *p)
{
    free(p->sum);
    memset(p, 0, sizeof *p);
}

void hybrid_pool_clear(struct hybrid_pool *p)
{
    p->segment = HYBRID_SEGMENT;
    p->n = 0;
    p->open = 0;
}

static void join_neighbours(struct hybrid_pool *p)
{
    const size_t C = p->C;
    for (size_t i = 0; i < p->max / 2; i++)
        for (size_t c = 0; c < C; c++)
            p->sum[i * C + c] = p->sum[2 * i * C + c] + p->sum[(2 * i + 1) * C + c];
    p->n = p->max / 2;
    p->segment *= 2;
}

void hybrid_pool_add(struct hybrid_pool *p, const float *hidden)
{
    double *sum = p->sum + p->n * p->C;
    for (size_t c = 0; c < p->C; c++)
        sum[c] = (p->open ? sum[c] : 0) + (double)hidden[c];
    if (++p->open < p->segment)
        return;
    p->open = 0;
    if (++p->n == p->max)
        join_neighbours(p);
}

size_t hybrid_pool_rows(const struct hybrid_pool *p, float *out)
{
    const size_t C = p->C, X = C + HYBRID_FEATURES, n = p->n + (p->open > 0);
    const double tokens = (double)(p->n * p->segment + p->open);
    for (size_t i = 0; i < n; i++, out += X) {
        const double length = (double)(i < p->n ? p->segment : p->open);
        for (size_t c = 0; c < C; c++)
            out[c] = (float)(p->sum[i * C + c] / length);
        out[C] = (float)(log2(length / HYBRID_SEGMENT) / 8);
        out[C + 1] = (float)(((double)(i * p->segment) + length / 2) / tokens);
    }
    return n;
}
