/* The cases, and what each row's beginning does to them. */
#include "daemon/bench_hybrid.h"

#include "daemon/base/mem.h"
#include "engine/kernels/rng.h"
#include "engine/manifold/bootstrap.h"
#include "engine/rwkv/score.h"
#include "engine/train/bake.h"
#include "engine/train/corpus.h"

#include <math.h>
#include <string.h>

const size_t hb_length[HB_LENGTHS] = {128, 512, 2048, 8192};
const size_t hb_gap[HB_GAPS] = {0, 32, 512};

#define SLACK 700 /* bytes kept behind a place, so that lines can be found there */
#define ROWS  256 /* tokens of one call */

/* ---- Cases ----------------------------------------------------------------------------------- */

/* Places in a document with room for the furthest context before and a continuation behind. */
static size_t places(const struct heldout_doc *d, size_t length)
{
    const size_t taken = length + hb_gap[HB_FAR] + SLACK;
    return d->n > taken ? d->n - taken : 0;
}

/* The case at place i of a document; false: no line or sentence begins near enough. */
static bool make_case(const struct heldout_doc *d, size_t length, size_t i, struct hb_case *c)
{
    const uint8_t *text = (const uint8_t *)d->text;
    const size_t at = corpus_boundary(text, length + hb_gap[HB_FAR] + i, d->n);
    const size_t next = corpus_boundary(text, at + hb_gap[HB_BEHIND], d->n);
    const size_t far = corpus_boundary(text, next - hb_gap[HB_FAR], at);
    if (next + HB_TEXT > d->n || far < length)
        return false;
    c->text = d->text + next;
    c->back[HB_NEAR] = 0;
    c->back[HB_BEHIND] = next - at;
    c->back[HB_FAR] = next - far;
    return true;
}

static size_t cases_of_corpus(const struct hb_bench *b, size_t corpus, size_t length,
                              uint32_t first_document, struct hb_case *to)
{
    const struct heldout *h = &b->corpus[corpus].text;
    size_t all = 0, n = 0;
    for (size_t d = 0; d < h->n_docs; d++)
        all += places(&h->docs[d], length);
    const size_t wanted = all < b->o.per ? all : b->o.per;
    for (size_t j = 0; j < wanted; j++) {
        size_t i = j * all / wanted, d = 0;
        while (i >= places(&h->docs[d], length))
            i -= places(&h->docs[d++], length);
        struct hb_case c = {.corpus = (uint32_t)corpus, .document = first_document + (uint32_t)d};
        if (make_case(&h->docs[d], length, i, &c))
            to[n++] = c;
    }
    return n;
}

/* The first case from k->c[i + step] on, round, that is of another corpus or, same, of another document
 * of its corpus; SIZE_MAX: none. */
static size_t stranger(const struct hb_length_cases *k, size_t i, size_t step, bool same)
{
    const struct hb_case *c = &k->c[i];
    for (size_t s = 0; s < k->n; s++) {
        const size_t j = (i + step + s) % k->n;
        if (same ? k->c[j].corpus == c->corpus && k->c[j].document != c->document
                 : k->c[j].corpus != c->corpus)
            return j;
    }
    return SIZE_MAX;
}

int hb_find_cases(const struct hb_bench *b, size_t length, struct hb_length_cases *out,
                  struct err *e)
{
    uint32_t documents = 0;
    *out = (struct hb_length_cases){.c = calloc(b->n_corpora * b->o.per, sizeof *out->c)};
    if (!out->c)
        return err_set(e, ERR_NOMEM, "no memory for cases");
    for (size_t k = 0; k < b->n_corpora; k++) {
        const size_t n = cases_of_corpus(b, k, length, documents, out->c + out->n);
        out->n += n;
        out->corpora += n > 0;
        documents += (uint32_t)b->corpus[k].text.n_docs;
    }
    for (size_t i = 0; i < out->n; i++) { /* each corpus meets every other in turn */
        const size_t turn = out->corpora > 1 ? 1 + i % (out->corpora - 1) : 0;
        out->c[i].same = stranger(out, i, 1, true);
        out->c[i].other = stranger(out, i, turn * out->n / out->corpora, false);
    }
    return 0;
}

/* ---- Beginnings ------------------------------------------------------------------------------ */

/* What the rows of one length begin with. */
struct beginnings {
    const struct hb_bench *b;
    const struct rwkv_info *info;
    struct rwkv_session *session;
    size_t length, S, n_theta, n;
    uint32_t *tokens;    /* [length + 1] */
    char *shuffled;      /* [length] */
    float *behind;       /* [n, n_theta], room for either hybrid's rank: of every case's context */
    float *behind_state; /* [n, S] */
    float *theta;        /* [HB_ROWS, n_theta] of the present case */
    float *state;        /* [HB_GAPS, S] */
};

static size_t rank_of(const struct hybrid *h)
{
    return h ? hybrid_get_info(h)->rank : 0;
}

static int beginnings_open(struct beginnings *g, const struct hb_bench *b, size_t length, size_t n,
                           struct err *e)
{
    *g = (struct beginnings){.b = b, .info = rwkv_get_info(b->model), .length = length, .n = n};
    g->S = rwkv_state_floats(g->info);
    const size_t rank[2] = {rank_of(b->hybrid), rank_of(b->control)};
    g->n_theta = rwkv_theta_floats(g->info, rank[0] > rank[1] ? rank[0] : rank[1]);
    g->session = rwkv_session_new(b->model, b->pool, ROWS, e);
    g->tokens = calloc(length + 1, sizeof *g->tokens);
    g->shuffled = calloc(length, 1);
    g->behind = calloc(n + 1, g->n_theta * sizeof(float));
    g->behind_state = calloc(n + 1, g->S * sizeof(float));
    g->theta = calloc(HB_ROWS, g->n_theta * sizeof(float));
    g->state = calloc(HB_GAPS, g->S * sizeof(float));
    if (!g->session)
        return e->code;
    return g->tokens && g->shuffled && g->behind && g->behind_state && g->theta && g->state
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for %zu contexts", n);
}

static void beginnings_close(struct beginnings *g)
{
    rwkv_session_free(g->session);
    void *const all[] = {g->tokens, g->shuffled, g->behind, g->behind_state, g->theta, g->state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* A context of n bytes: its vectors, and the model's state behind its first n - open bytes. */
struct reading {
    const struct hybrid *hybrid;
    const char *text;
    size_t n, open;
    uint64_t seed;
    double strength;
    float *theta, *state; /* state NULL: not wanted */
};

static int read_context(struct beginnings *g, const struct reading *r, struct err *e)
{
    const struct hybrid_options o = {.strength = r->strength, .seed = r->seed};
    struct hybrid_norms norms;
    struct hybrid_context *c = hybrid_context_new(r->hybrid, g->b->model, e);
    int rc = c ? 0 : e->code;
    g->tokens[0] = CORPUS_SEPARATOR;
    for (size_t i = 0; i < r->n; i++)
        g->tokens[i + 1] = (uint8_t)r->text[i];
    const size_t n = r->n ? r->n + 1 : 0; /* an empty one has no separator either */
    if (rc == 0)
        rc = hybrid_context_feed(c, g->session, g->tokens, n - r->open, e);
    if (rc == 0 && r->state)
        memcpy(r->state, hybrid_context_state(c), g->S * sizeof *r->state);
    if (rc == 0)
        rc = hybrid_context_feed(c, g->session, g->tokens + n - r->open, r->open, e);
    if (rc == 0)
        rc = hybrid_adjust(r->hybrid, c, &o, r->theta, &norms, e);
    hybrid_context_free(c);
    return rc;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t';
}

/* The words of a text, each with the white space behind it, in another order. */
static void shuffle_words(char *to, const char *text, size_t n, uint32_t *first, uint64_t seed)
{
    struct rng rng;
    size_t words = 0, at = 0;
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || (is_space(text[i - 1]) && !is_space(text[i])))
            first[words++] = (uint32_t)i;
    for (size_t i = words; i > 1; i--) { /* Fisher and Yates */
        const size_t j = rng_below(&rng, i);
        const uint32_t keep = first[j];
        first[j] = first[i - 1];
        first[i - 1] = keep;
    }
    for (size_t i = 0; i < words; i++)
        for (size_t k = first[i];
             k < n && (k == first[i] || !is_space(text[k - 1]) || is_space(text[k])); k++)
            to[at++] = text[k];
}

static float *theta_of(struct beginnings *g, enum hb_row row)
{
    return g->theta + (size_t)row * g->n_theta;
}

/* All that the rows of case i begin with. */
static int read_case(struct beginnings *g, const struct hb_length_cases *k, size_t i, struct err *e)
{
    const struct hb_bench *b = g->b;
    const struct hb_case *c = &k->c[i];
    const uint64_t seed = b->o.seed + i;
    struct reading r = {.hybrid = b->hybrid, .n = g->length, .seed = seed, .strength = 1};
    int rc = 0;
    for (int gap = HB_NEAR; gap < HB_GAPS && rc == 0; gap++) {
        r.text = c->text - c->back[gap] - g->length;
        r.open = gap == HB_NEAR;
        r.theta = theta_of(g, HB_HYBRID + (enum hb_row)gap);
        r.state = g->state + (size_t)gap * g->S;
        if (gap != HB_BEHIND)
            rc = read_context(g, &r, e);
    }
    memcpy(theta_of(g, HB_HYBRID + HB_BEHIND), g->behind + i * g->n_theta,
           g->n_theta * sizeof(float));
    memcpy(g->state + HB_BEHIND * g->S, g->behind_state + i * g->S, g->S * sizeof(float));
    shuffle_words(g->shuffled, c->text - c->back[HB_BEHIND] - g->length, g->length, g->tokens,
                  seed);
    r.text = g->shuffled;
    r.open = 0;
    r.theta = theta_of(g, HB_SHUFFLED);
    r.state = NULL;
    rc = rc < 0 ? rc : read_context(g, &r, e);
    r.n = 0;
    r.theta = theta_of(g, HB_EMPTY);
    rc = rc < 0 ? rc : read_context(g, &r, e);
    r.strength = 0;
    r.theta = theta_of(g, HB_STATIC);
    rc = rc < 0 ? rc : read_context(g, &r, e);
    r.hybrid = b->control;
    r.strength = 1;
    r.theta = theta_of(g, HB_CONTROL);
    return rc < 0 || !b->control ? rc : read_context(g, &r, e);
}

/* ---- Scoring --------------------------------------------------------------------------------- */

/* What a row begins with. */
struct start {
    bool measured, goes_on; /* goes_on: behind the byte before, without a separator */
    const float *theta, *state;
};

static struct start start_of(struct beginnings *g, const struct hb_case *c, enum hb_row row)
{
    struct start s = {.measured = true};
    if (row >= HB_STATE && row < HB_HYBRID)
        s.state = g->state + (size_t)(row - HB_STATE) * g->S;
    else if (row >= HB_BOTH && row < HB_SAME) {
        s.state = g->state + (size_t)(row - HB_BOTH) * g->S;
        s.theta = theta_of(g, HB_HYBRID + (row - HB_BOTH));
    } else if (row == HB_SAME || row == HB_OTHER) {
        const size_t from = row == HB_SAME ? c->same : c->other;
        s.measured = from != SIZE_MAX;
        s.theta = s.measured ? g->behind + from * g->n_theta : NULL;
    } else if (row != HB_PLAIN)
        s.theta = theta_of(g, row);
    s.goes_on = row == HB_STATE + HB_NEAR || row == HB_BOTH + HB_NEAR;
    if (row == HB_TUNED || (row == HB_CONTROL && !g->b->control))
        s.measured = false;
    return s;
}

static double sum_bits(const float *bits)
{
    double sum = 0;
    for (size_t t = 0; t < HB_TEXT; t++)
        sum += (double)bits[t];
    return sum / HB_TEXT;
}

static void text_tokens(const struct hb_case *c, bool goes_on, uint32_t to[HB_TEXT + 1])
{
    to[0] = goes_on ? (uint8_t)c->text[-1] : (uint32_t)CORPUS_SEPARATOR;
    for (size_t t = 0; t < HB_TEXT; t++)
        to[t + 1] = (uint8_t)c->text[t];
}

static int score_case(struct beginnings *g, struct hb_case *c, struct err *e)
{
    struct score_seq seq[HB_ROWS];
    uint32_t tokens[HB_ROWS][HB_TEXT + 1];
    float bits[HB_ROWS][HB_TEXT];
    size_t n = 0;
    int rc = 0;
    for (int gap = HB_BEHIND; gap < HB_GAPS && rc == 0; gap++)
        rc = bake_forget_last(g->info, g->state + (size_t)gap * g->S, e);
    for (int row = 0; row < HB_ROWS && rc == 0; row++) {
        const struct start s = start_of(g, c, (enum hb_row)row);
        c->bits[row] = NAN;
        if (!s.measured)
            continue;
        text_tokens(c, s.goes_on, tokens[n]);
        seq[n] =
            (struct score_seq){.tokens = tokens[n],
                               .n_tokens = HB_TEXT + 1,
                               .bits = bits[row],
                               .state = s.state,
                               .theta = s.theta,
                               .rank = rank_of(row == HB_CONTROL ? g->b->control : g->b->hybrid)};
        c->bits[row] = 0;
        n++;
    }
    if (rc == 0)
        rc = rwkv_score(g->b->model, g->b->pool, seq, n, e);
    for (int row = 0; row < HB_ROWS && rc == 0; row++)
        if (!isnan(c->bits[row]))
            c->bits[row] = sum_bits(bits[row]);
    return rc;
}

/* The model that was trained on, over all cases. */
static int score_tuned(const struct hb_bench *b, struct hb_length_cases *k, struct err *e)
{
    struct score_seq *seq = calloc(k->n + 1, sizeof *seq);
    uint32_t(*tokens)[HB_TEXT + 1] = calloc(k->n + 1, sizeof *tokens);
    float(*bits)[HB_TEXT] = calloc(k->n + 1, sizeof *bits);
    int rc = seq && tokens && bits ? 0 : err_set(e, ERR_NOMEM, "no memory for texts");
    for (size_t i = 0; i < k->n && rc == 0; i++) {
        text_tokens(&k->c[i], false, tokens[i]);
        seq[i] = (struct score_seq){.tokens = tokens[i], .n_tokens = HB_TEXT + 1, .bits = bits[i]};
    }
    if (rc == 0)
        rc = rwkv_score(b->tuned, b->pool, seq, k->n, e);
    for (size_t i = 0; i < k->n && rc == 0; i++)
        k->c[i].bits[HB_TUNED] = sum_bits(bits[i]);
    free(seq);
    free(tokens);
    free(bits);
    return rc;
}

int hb_measure_cases(const struct hb_bench *b, size_t length, struct hb_length_cases *k,
                     struct err *e)
{
    struct beginnings g;
    int rc = beginnings_open(&g, b, length, k->n, e);
    for (size_t i = 0; i < k->n && rc == 0; i++) {
        const struct reading r = {.hybrid = b->hybrid,
                                  .text = k->c[i].text - k->c[i].back[HB_BEHIND] - length,
                                  .n = length,
                                  .seed = b->o.seed + i,
                                  .strength = 1,
                                  .theta = g.behind + i * g.n_theta,
                                  .state = g.behind_state + i * g.S};
        rc = read_context(&g, &r, e);
    }
    for (size_t i = 0; i < k->n && rc == 0; i++) {
        rc = read_case(&g, k, i, e);
        rc = rc < 0 ? rc : score_case(&g, &k->c[i], e);
    }
    beginnings_close(&g);
    return rc < 0 || !b->tuned ? rc : score_tuned(b, k, e);
}

/* ---- Figures --------------------------------------------------------------------------------- */

const enum hb_row hb_pairs[HB_PAIRS][2] = {
    {HB_HYBRID + HB_BEHIND, HB_CONTROL},
    {HB_HYBRID + HB_BEHIND, HB_TUNED},
    {HB_HYBRID + HB_BEHIND, HB_EMPTY},
    {HB_HYBRID + HB_BEHIND, HB_SAME},
    {HB_HYBRID + HB_BEHIND, HB_OTHER},
    {HB_HYBRID + HB_BEHIND, HB_SHUFFLED},
    {HB_HYBRID + HB_BEHIND, HB_STATE + HB_BEHIND},
    {HB_BOTH + HB_BEHIND, HB_STATE + HB_BEHIND},
    {HB_BOTH + HB_NEAR, HB_STATE + HB_NEAR},
};

/* By document: the sum of its cases' differences, and their number. */
struct by_document {
    double *sum, *n;
};

static double mean_of(void *arg, const uint32_t *index, size_t n)
{
    const struct by_document *d = arg;
    double sum = 0, cases = 0;
    for (size_t i = 0; i < n; i++) {
        sum += d->sum[index[i]];
        cases += d->n[index[i]];
    }
    return cases > 0 ? sum / cases : 0;
}

/* Row a less row b over the cases that have both, with its interval; NaN without a case. */
static int difference(const struct hb_bench *b, const struct hb_length_cases *k, enum hb_row one,
                      enum hb_row two, double out[3], struct err *e)
{
    double *memory = calloc(2 * k->n + 2, sizeof *memory), sum = 0, cases = 0;
    struct by_document d = {memory, memory + k->n};
    uint32_t last = UINT32_MAX;
    size_t n = 0;
    out[0] = out[1] = out[2] = NAN;
    if (!memory)
        return err_set(e, ERR_NOMEM, "no memory for differences");
    for (size_t i = 0; i < k->n; i++) { /* a document's cases stand together */
        const double x = k->c[i].bits[one] - k->c[i].bits[two];
        if (isnan(x))
            continue;
        n += k->c[i].document != last;
        last = k->c[i].document;
        d.sum[n - 1] += x;
        d.n[n - 1]++;
        sum += x;
        cases++;
    }
    int rc = 0;
    if (n > 0) {
        const struct bootstrap s = {
            .resamples = 1000, .level = .95, .seed = b->o.seed, .statistic = mean_of, .arg = &d};
        out[0] = sum / cases;
        rc = bootstrap_interval(&s, n, &out[1], &out[2], e);
    }
    free(memory);
    return rc;
}

static void means(const struct hb_bench *b, const struct hb_length_cases *k, enum hb_row row,
                  struct hb_mean *m)
{
    double sum = 0, n = 0, own[BENCH_CORPORA] = {0}, own_n[BENCH_CORPORA] = {0};
    for (size_t i = 0; i < k->n; i++) {
        const struct hb_case *c = &k->c[i];
        if (isnan(c->bits[row]))
            continue;
        sum += c->bits[row];
        own[c->corpus] += c->bits[row];
        own_n[c->corpus]++;
        n++;
    }
    m->bits = n > 0 ? sum / n : NAN;
    for (size_t c = 0; c < b->n_corpora; c++)
        m->corpus[c] = own_n[c] > 0 ? own[c] / own_n[c] : NAN;
}

int hb_sum_cases(const struct hb_bench *b, const struct hb_length_cases *k, struct hb_figures *f,
                 struct err *e)
{
    int rc = 0;
    *f = (struct hb_figures){.n = k->n};
    for (size_t i = 0; i < k->n; i++)
        f->documents += i == 0 || k->c[i].document != k->c[i - 1].document;
    for (int row = 0; row < HB_ROWS && rc == 0; row++) {
        double d[3];
        means(b, k, (enum hb_row)row, &f->row[row]);
        rc = difference(b, k, (enum hb_row)row, HB_PLAIN, d, e);
        f->row[row].less = d[0];
        f->row[row].low = d[1];
        f->row[row].high = d[2];
    }
    for (size_t p = 0; p < HB_PAIRS && rc == 0; p++) {
        double d[3];
        rc = difference(b, k, hb_pairs[p][0], hb_pairs[p][1], d, e);
        f->pair[p] = (struct hb_pair){hb_pairs[p][0], hb_pairs[p][1], d[0], d[1], d[2]};
    }
    return rc;
}
