#include "daemon/base/mem.h"
#include "engine/kernels/kern.h"
#include "engine/kernels/rng.h"
#include "engine/sampling/sampling.h"
#include "engine/sampling/select.h"

#include <float.h>
#include <math.h>

struct sampler {
    const struct kern *kern;
    struct sampling_params params;
    size_t n_vocab;
    uint64_t accepted; /* tokens so far: the counter of the next draw */

    struct logit_bias *bias;
    size_t n_bias;

    /* Tokens sampled before, each once, and by id their decayed occurrences; NULL without
     * penalties. */
    uint32_t *seen;
    size_t n_seen;
    float *occurrences; /* [n_vocab] */
    bool *is_seen;      /* [n_vocab] */

    /* Scratch: the candidates, ids ascending; NULL as long as the largest logit is all that is asked. */
    uint32_t *id; /* [n_vocab]; NULL at temperature 0; not read while all are candidates */
    float *x;     /* [n_vocab]: logits, then weights exp((logit - max) / temperature) */
    float *rank;  /* [n_vocab]: -|surprisal - entropy|; NULL without typical_p */
    size_t n;
    struct select_bins bins;
};

static int check_range(const char *name, float x, float lo, float hi, struct err *e)
{
    if (x >= lo && x <= hi)
        return 0;
    return err_set_param(e, ERR_INVALID, name, "%s is %g, want %g to %g", name, (double)x,
                         (double)lo, (double)hi);
}

int sampling_check(const struct sampling_params *p, struct err *e)
{
    const struct {
        const char *name;
        float x, lo, hi;
    } fields[] = {
        {"temperature", p->temperature, 0, 100},
        {"top_p", p->top_p, 0, 1},
        {"min_p", p->min_p, 0, 1},
        {"typical_p", p->typical_p, 0, 1},
        {"presence_penalty", p->presence_penalty, -100, 100},
        {"frequency_penalty", p->frequency_penalty, -100, 100},
        {"penalty_decay", p->penalty_decay, 0, 1},
        {"repeat_penalty", p->repeat_penalty, 0.01f, 100},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof fields / sizeof fields[0]; i++)
        rc = check_range(fields[i].name, fields[i].x, fields[i].lo, fields[i].hi, e);
    return rc;
}

static bool has_penalties(const struct sampling_params *p)
{
    return p->presence_penalty != 0 || p->frequency_penalty != 0 || p->repeat_penalty != 1;
}

/* malloc: what is read of it was written by the same pick. */
static bool make_scratch(struct sampler *s)
{
    const struct sampling_params *p = &s->params;
    bool draws = p->temperature > 0;
    if (!s->x && (draws || has_penalties(p) || s->n_bias))
        s->x = malloc(s->n_vocab * sizeof *s->x);
    else if (!s->x)
        return true;
    if (draws && !s->id)
        s->id = malloc(s->n_vocab * sizeof *s->id);
    if (draws && p->typical_p < 1 && !s->rank)
        s->rank = malloc(s->n_vocab * sizeof *s->rank);
    return s->x && (!draws || s->id) && (!draws || p->typical_p >= 1 || s->rank);
}

struct sampler *sampler_new(const struct sampling_params *p, size_t n_vocab,
                            const struct kern *kern, struct err *e)
{
    if (sampling_check(p, e) < 0)
        return NULL;
    if (n_vocab < 1 || n_vocab > UINT32_MAX) {
        err_set(e, ERR_INVALID, "a vocabulary of %zu ids", n_vocab);
        return NULL;
    }
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        goto nomem;
    s->kern = kern;
    s->params = *p;
    s->n_vocab = n_vocab;
    if (!make_scratch(s))
        goto nomem;
    if (has_penalties(p)) {
        s->seen = calloc(n_vocab, sizeof *s->seen);
        s->occurrences = calloc(n_vocab, sizeof *s->occurrences);
        s->is_seen = calloc(n_vocab, sizeof *s->is_seen);
        if (!s->seen || !s->occurrences || !s->is_seen)
            goto nomem;
    }
    return s;
nomem:
    sampler_free(s);
    err_set(e, ERR_NOMEM, "no memory for a sampler over %zu ids", n_vocab);
    return NULL;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->bias);
    free(s->seen);
    free(s->occurrences);
    free(s->is_seen);
    free(s->id);
    free(s->x);
    free(s->rank);
    free(s);
}

int sampler_set_bias(struct sampler *s, const struct logit_bias *bias, size_t n, struct err *e)
{
    struct logit_bias *copy = NULL;
    for (size_t i = 0; i < n; i++) {
        if (bias[i].id >= s->n_vocab)
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias names id %u, want less than %zu", bias[i].id,
                                 s->n_vocab);
        if (!(bias[i].bias <= FLT_MAX))
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "logit_bias of id %u is %g, want a number", bias[i].id,
                                 (double)bias[i].bias);
    }
    if (n && !(copy = calloc(n, sizeof *copy)))
        return err_set(e, ERR_NOMEM, "no memory for %zu logit biases", n);
    if (n)
        memcpy(copy, bias, n * sizeof *copy);
    free(s->bias);
    s->bias = copy;
    s->n_bias = n;
    return make_scratch(s) ? 0 : err_set(e, ERR_NOMEM, "no memory for logit biases");
}

static bool is_allowed(const uint64_t *allowed, size_t id)
{
    return allowed[id / 64] >> id % 64 & 1;
}

static void ban_others(struct sampler *s, const uint64_t *allowed)
{
    for (size_t i = 0; i < s->n_vocab; i++)
        s->x[i] = is_allowed(allowed, i) ? s->x[i] : -INFINITY;
}

/* ---- the largest ---- */

#define LANES 16
#define BLOCK 1024

/* The largest of x [n], at most FLT_MAX; NaN counts as -inf. Running maxima side by side, which the
 * compiler makes vectors of. */
static float max_of(const float *x, size_t n)
{
    float lane[LANES], max = -INFINITY;
    size_t i = 0;
    for (size_t l = 0; l < LANES; l++)
        lane[l] = max;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t l = 0; l < LANES; l++)
        max = lane[l] > max ? lane[l] : max;
    return max < FLT_MAX ? max : FLT_MAX;
}

/* The lowest id of the largest of x [n], 0 if there is no finite one: one pass, and a second over the
 * block that has it. */
static uint32_t largest(const float *x, size_t n)
{
    float max = -INFINITY;
    size_t best = 0;
    for (size_t at = 0; at < n; at += BLOCK) {
        float m = max_of(x + at, n - at < BLOCK ? n - at : BLOCK);
        if (m > max)
            max = m, best = at;
    }
    if (max == -INFINITY)
        return 0;
    while (!(x[best] >= max))
        best++;
    return (uint32_t)best;
}

/* The same among the allowed ids; the lowest of them if none has a finite logit. */
static uint32_t largest_allowed(const float *x, const uint64_t *allowed, size_t n)
{
    float max = -INFINITY;
    uint32_t best = 0;
    bool any = false;
    for (size_t word = 0; word * 64 < n; word++) {
        for (uint64_t bits = allowed[word]; bits; bits &= bits - 1) {
            size_t id = word * 64 + (size_t)__builtin_ctzll(bits);
            if (id >= n)
                break;
            float l = x[id] < FLT_MAX ? x[id] : x[id] >= FLT_MAX ? FLT_MAX : -INFINITY;
            if (!any || l > max)
                max = l, best = (uint32_t)id;
            any = true;
        }
    }
    return best;
}

/* ---- the candidates ---- */

/* NaN as -inf, and at most FLT_MAX. */
static inline float bounded(float l)
{
    return l > -INFINITY ? (l < FLT_MAX ? l : FLT_MAX) : -INFINITY;
}

/* x = the allowed logits with penalties and biases, NaN as -inf and at most FLT_MAX; returns the
 * largest. */
static float adjust_logits(struct sampler *s, const float *logits, const uint64_t *allowed)
{
    const struct sampling_params *p = &s->params;
    size_t i = 0;
    for (; i + LANES <= s->n_vocab; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            s->x[i + l] = bounded(logits[i + l]);
    for (; i < s->n_vocab; i++)
        s->x[i] = bounded(logits[i]);
    if (allowed)
        ban_others(s, allowed);
    for (i = 0; i < s->n_seen; i++) {
        uint32_t id = s->seen[i];
        float l = s->x[id];
        l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        s->x[id] = bounded(l - p->presence_penalty - p->frequency_penalty * s->occurrences[id]);
    }
    for (i = 0; i < s->n_bias; i++)
        s->x[s->bias[i].id] = bounded(s->x[s->bias[i].id] + s->bias[i].bias);
    return max_of(s->x, s->n_vocab);
}

/* Leaves the candidates that belong to the selection by the value of `by` [n] (x itself, or an
 * array beside it), in their order. */
static void keep_selected(struct sampler *s, const float *by, struct selection sel)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        uint32_t key = select_key(by[i]);
        bool tie = key == sel.key && sel.ties > 0;
        sel.ties -= tie;
        s->id[n] = s->id[i]; /* kept only if n grows: no branch to be guessed */
        s->x[n] = s->x[i];
        n += key > sel.key || tie;
    }
    s->n = n;
}

static double sum_of(const float *x, size_t n)
{
    double lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] += (double)x[i + l];
    for (; i < n; i++)
        sum += (double)x[i];
    for (size_t l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

static double weight_sum(const struct sampler *s)
{
    return sum_of(s->x, s->n);
}

static int largest_first(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Those of at least `least`. Most runs have none. */
static void keep_from(struct sampler *s, float least)
{
    enum { LENGTH = 2 * LANES };
    size_t n = 0;
    for (size_t at = 0, end; at < s->n; at = end) {
        end = s->n - at < LENGTH ? s->n : at + LENGTH;
        if (max_of(s->x + at, end - at) < least)
            continue;
        for (size_t i = at; i < end; i++) {
            float x = s->x[i];
            s->id[n] = s->id[i];
            s->x[n] = x;
            n += x >= least;
        }
    }
    s->n = n;
}

/* Exact selection takes four passes over what it is given: so first what cannot be in it goes, by a bound
 * that is found in one. */
#define MANY 1024

/* The k largest. At least k values are as large as the k-th largest of the maxima of blocks. */
static void keep_top_k(struct sampler *s, size_t k)
{
    float maxima[MANY];
    size_t size = (s->n + MANY - 1) / MANY, m = 0;
    if (s->n > 2 * MANY && k <= MANY / 4) {
        for (size_t at = 0; at < s->n; at += size)
            maxima[m++] = max_of(s->x + at, s->n - at < size ? s->n - at : size);
        qsort(maxima, m, sizeof *maxima, largest_first);
        keep_from(s, maxima[k - 1]);
    }
    if (k < s->n)
        keep_selected(s, s->x, select_count(s->x, s->n, k, &s->bins));
}

/* The fewest largest that hold p of all. What weighs less than (1 - p) sum / 2n each is together less than
 * half of what may be left out. */
static void keep_top_p(struct sampler *s, double p)
{
    double sum = weight_sum(s);
    if (s->n > MANY)
        keep_from(s, (float)((1 - p) * sum / (2 * (double)s->n)));
    keep_selected(s, s->x, select_weight(s->x, s->n, p * sum, &s->bins));
}

static float max_weight(const struct sampler *s)
{
    float max = 0;
    for (size_t i = 0; i < s->n; i++)
        max = s->x[i] > max ? s->x[i] : max;
    return max;
}

/* With S = sum of the weights x: p = x / S, surprisal -log p = log S - log x, entropy H = log S -
 * (sum of x log x) / S; so surprisal - H = m - log x with m = (sum of x log x) / S. */
static void keep_typical(struct sampler *s)
{
    double sum = 0, weighted = 0;
    for (size_t i = 0; i < s->n; i++) {
        s->rank[i] = logf(s->x[i]); /* a weight of 0 is infinitely far from typical */
        sum += (double)s->x[i];
        weighted += s->x[i] > 0 ? (double)s->x[i] * (double)s->rank[i] : 0;
    }
    float m = (float)(weighted / sum);
    for (size_t i = 0; i < s->n; i++)
        s->rank[i] = -fabsf(m - s->rank[i]);
    double target = (double)s->params.typical_p * sum;
    keep_selected(s, s->rank, select_by(s->rank, s->x, s->n, target, &s->bins));
}

/* x = exp((x - max) / temperature); 0 where that is below e^-87, as denormals would be slow. */
static void weigh(struct sampler *s, float max)
{
    const float scale = fminf(1 / s->params.temperature, FLT_MAX);
    for (size_t at = 0; at < s->n; at += BLOCK) {
        size_t n = s->n - at < BLOCK ? s->n - at : BLOCK;
        float *x = s->x + at;
        for (size_t i = 0; i < n; i++) {
            float y = (x[i] - max) * scale;
            x[i] = y > -87.0f ? y : -INFINITY;
        }
        s->kern->vec_exp(x, x, n);
    }
}

/* Whether some filter may leave candidates out. */
static bool filters(const struct sampling_params *p)
{
    return p->top_k > 0 || p->typical_p < 1 || p->top_p < 1 || p->min_p > 0;
}

/* The filters, from logits whose largest is max to the weights of the candidates. */
static void filter(struct sampler *s, float max)
{
    const struct sampling_params *p = &s->params;
    s->n = s->n_vocab;
    for (size_t i = 0; filters(p) && i < s->n; i++)
        s->id[i] = (uint32_t)i;
    if (p->top_k > 0 && p->top_k < s->n)
        keep_top_k(s, p->top_k);
    weigh(s, max);
    if (p->typical_p < 1)
        keep_typical(s);
    if (p->top_p < 1)
        keep_top_p(s, (double)p->top_p);
    if (p->min_p > 0)
        keep_from(s, p->min_p * max_weight(s));
}

/* Uniform in [0, 1), 53 bits: a function of the seed and the number of tokens accepted. */
static double draw(const struct sampler *s)
{
    uint32_t word[4];
    philox4x32(s->params.seed, 0, s->accepted, word);
    return (double)((uint64_t)word[0] << 21 | word[1] >> 11) * 0x1p-53;
}

/* Where to look for the candidate at which the running sum of weights passes *left, from which the weight
 * before it is subtracted: the beginning of a block with some weight. */
static size_t skip_blocks(const struct sampler *s, double *left)
{
    size_t from = 0;
    double before = *left;
    for (size_t at = 0; at < s->n; at += BLOCK) {
        double sum = sum_of(s->x + at, s->n - at < BLOCK ? s->n - at : BLOCK);
        if (sum == 0)
            continue;
        from = at;
        before = *left;
        if ((*left -= sum) < 0)
            break;
    }
    *left = before;
    return from;
}

uint32_t sampler_pick(struct sampler *s, const float *logits)
{
    return sampler_pick_allowed(s, logits, NULL);
}

static uint32_t first_allowed(const struct sampler *s, const uint64_t *allowed)
{
    for (size_t i = 0; allowed && i < s->n_vocab; i++)
        if (is_allowed(allowed, i))
            return (uint32_t)i;
    return 0;
}

uint32_t sampler_pick_allowed(struct sampler *s, const float *logits, const uint64_t *allowed)
{
    bool greedy = s->params.temperature == 0;
    if (greedy && !s->n_seen && !s->n_bias)
        return allowed ? largest_allowed(logits, allowed, s->n_vocab) : largest(logits, s->n_vocab);
    float max = adjust_logits(s, logits, allowed);
    if (max == -INFINITY)
        return first_allowed(s, allowed);
    if (greedy)
        return largest(s->x, s->n_vocab);
    filter(s, max);
    double left = draw(s) * weight_sum(s);
    size_t pick = 0, from = skip_blocks(s, &left);
    for (size_t i = from; i < s->n; i++) {
        if (s->x[i] == 0)
            continue;
        pick = i; /* the last one stands when rounding leaves a rest */
        left -= (double)s->x[i];
        if (left < 0)
            break;
    }
    return filters(&s->params) ? s->id[pick] : (uint32_t)pick;
}

void sampler_accept(struct sampler *s, uint32_t id)
{
    s->accepted++;
    if (!s->seen || id >= s->n_vocab)
        return;
    for (size_t i = 0; i < s->n_seen; i++)
        s->occurrences[s->seen[i]] *= s->params.penalty_decay;
    s->occurrences[id] += 1;
    if (!s->is_seen[id]) {
        s->is_seen[id] = true;
        s->seen[s->n_seen++] = id;
    }
}
