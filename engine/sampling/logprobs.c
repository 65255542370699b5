#include "daemon/base/assert.h"
#include "engine/sampling/sampling.h"

#include <float.h>
#include <math.h>

#define LOGPROB_ZERO (-9999.0f) /* stands for -inf */

/* As the sampler reads logits. */
static float logit_clean(float l)
{
    return isnan(l) ? -INFINITY : l < FLT_MAX ? l : FLT_MAX;
}

/* Puts (id, logit) into top [n], which holds `filled` entries, best first; earlier ids win ties. */
static size_t top_insert(struct token_logprob *top, size_t n, size_t filled, uint32_t id,
                         float logit)
{
    if (filled == n && (n == 0 || top[n - 1].logprob >= logit))
        return filled;
    size_t i = filled < n ? filled : n - 1;
    for (; i > 0 && top[i - 1].logprob < logit; i--)
        top[i] = top[i - 1];
    top[i] = (struct token_logprob){id, logit};
    return filled < n ? filled + 1 : n;
}

float logprobs_of(const float *logits, size_t n_vocab, uint32_t id, struct token_logprob *top,
                  size_t n)
{
    float max = -INFINITY;
    double sum = 0;
    size_t filled = 0;
    ASSERT(id < n_vocab && n <= n_vocab);
    for (size_t i = 0; i < n_vocab; i++) {
        float l = logit_clean(logits[i]);
        max = l > max ? l : max;
        filled = top_insert(top, n, filled, (uint32_t)i, l);
    }
    for (size_t i = 0; i < n_vocab && max > -INFINITY; i++)
        sum += (double)expf(logit_clean(logits[i]) - max);
    double norm = (double)max + log(sum); /* NaN when no logit is finite */
    for (size_t i = 0; i < filled; i++) {
        double lp = (double)top[i].logprob - norm;
        top[i].logprob = lp > (double)LOGPROB_ZERO ? (float)lp : LOGPROB_ZERO;
    }
    double lp = (double)logit_clean(logits[id]) - norm;
    return lp > (double)LOGPROB_ZERO ? (float)lp : LOGPROB_ZERO;
}
