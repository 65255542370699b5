#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"

#include <math.h>

#define ORDERS 6          /* contexts of 0 to 5 bytes */
#define SLOTS  (1u << 20) /* of an order's counts, a power of 2 */
#define BLEND  3.0        /* weight of the next lower order */

struct order {
    uint16_t *pair, *context; /* [SLOTS]: how often a context was followed by a byte, or at all */
};

struct ds_judge {
    size_t n;
    struct order order[][ORDERS];
};

struct ds_judge *ds_judge_new(size_t n_classes)
{
    struct ds_judge *j = calloc(1, sizeof *j + n_classes * sizeof j->order[0]);
    if (!j)
        return NULL;
    j->n = n_classes;
    for (size_t k = 0; k < n_classes * ORDERS; k++) {
        struct order *o = &j->order[k / ORDERS][k % ORDERS];
        o->pair = calloc(2 * SLOTS, sizeof *o->pair);
        if (!o->pair) {
            ds_judge_free(j);
            return NULL;
        }
        o->context = o->pair + SLOTS;
    }
    return j;
}

void ds_judge_free(struct ds_judge *j)
{
    for (size_t k = 0; j && k < j->n * ORDERS; k++)
        free(j->order[k / ORDERS][k % ORDERS].pair);
    free(j);
}

static uint32_t mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(x >> 32) & (SLOTS - 1);
}

/* The slots of a byte behind its `order` bytes before: of the context, and of both. */
static void find(const unsigned char *at, size_t order, uint32_t *context, uint32_t *pair)
{
    uint64_t h = 1;
    for (size_t i = order; i > 0; i--)
        h = h << 8 | at[-(ptrdiff_t)i];
    *context = mix(h);
    *pair = mix(h << 8 | *at | 1ull << 56);
}

void ds_judge_train(struct ds_judge *j, size_t class, const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < ORDERS && k <= i; k++) {
            uint32_t c, p;
            struct order *o = &j->order[class][k];
            find(s + i, k, &c, &p);
            o->context[c] += o->context[c] < UINT16_MAX;
            o->pair[p] += o->pair[p] < UINT16_MAX;
        }
}

static double bits(const struct order *order, const unsigned char *s, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double p = 1 / 256.0;
        for (size_t k = 0; k < ORDERS && k <= i; k++) {
            uint32_t c, q;
            find(s + i, k, &c, &q);
            p = (order[k].pair[q] + BLEND * p) / (order[k].context[c] + BLEND);
        }
        sum -= log2(p);
    }
    return sum;
}

size_t ds_judge_classify(const struct ds_judge *j, const char *text, size_t n)
{
    size_t best = 0;
    double least = INFINITY;
    for (size_t k = 0; k < j->n; k++) {
        double b = bits(j->order[k], (const unsigned char *)text, n);
        if (b < least) {
            least = b;
            best = k;
        }
    }
    return best;
}
