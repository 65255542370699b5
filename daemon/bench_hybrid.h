/* Inside `bench hybrid`: what a context's vectors do to the text that follows it.
 *
 * A case is a continuation of HB_TEXT bytes of a held-out document, at a line or sentence start, and
 * contexts of one length before it: `near` ends where the continuation begins, `behind` about 32 bytes
 * before (as in training), `far` about 512 before. Every row predicts the same bytes:
 *
 *     plain           from the zero state behind the separator
 *     state           from the state that the model has behind the context. Near, the text simply goes
 *                     on; else it begins anew: behind a separator, the last token
 *                     forgotten (engine/train/bake.h)
 *     hybrid          as plain, with the vectors that the hybrid makes of the context
 *     both            as state, with those vectors
 *
 * Figures are means over cases, as many of each corpus; differences are paired, their 95 % intervals by
 * bootstrap over documents.
 *
 * Deterministic for a seed and build. One thread calls; cases are shared out over the pool's. */
#ifndef DAEMON_BENCH_HYBRID_H
#define DAEMON_BENCH_HYBRID_H

#include "daemon/bench_corpora.h"
#include "engine/hybrid/hybrid.h"

#define HB_TEXT    64 /* bytes of a continuation */
#define HB_LOGS    16 /* at most */
#define HB_LENGTHS 4
extern const size_t hb_length[HB_LENGTHS]; /* 128, 512, 2048, 8192 bytes of a context */

enum hb_gap { HB_NEAR, HB_BEHIND, HB_FAR, HB_GAPS };
extern const size_t hb_gap[HB_GAPS]; /* 0, 32, 512 bytes */

enum hb_row {
    HB_PLAIN,
    HB_STATE,                       /* near, behind, far */
    HB_HYBRID = HB_STATE + HB_GAPS, /* near, behind, far */
    HB_BOTH = HB_HYBRID + HB_GAPS,  /* near, behind, far */
    HB_SAME = HB_BOTH + HB_GAPS,    /* the context of another document of the corpus */
    HB_OTHER,                       /* of another corpus */
    HB_SHUFFLED,                    /* the words of `behind` in another order */
    HB_EMPTY,
    HB_STATIC,  /* alpha 1: the model's own vectors, through the hybrid's path */
    HB_CONTROL, /* the constant control: as HB_EMPTY, by a hybrid that never saw a context */
    HB_TUNED,   /* the model trained on without contexts, plain */
    HB_ROWS
};
extern const char *const hb_row_name[HB_ROWS];

struct hb_options {
    const char *model, *hybrid, *control, *tuned, *heldout; /* control, tuned: NULL: skipped */
    const char *curves; /* prefix of the charts of logs; NULL: none */
    const char *log_name[HB_LOGS], *log[HB_LOGS];
    size_t n_logs;
    size_t per; /* cases a corpus and length */
    uint64_t seed;
    int threads;
    bool json;
};

struct hb_case {
    const char *text;     /* the continuation; bytes before it are its document's */
    size_t back[HB_GAPS]; /* bytes from a context's end to text */
    uint32_t corpus;
    uint32_t document;    /* of all corpora */
    size_t same, other;   /* the cases whose contexts HB_SAME and HB_OTHER take; SIZE_MAX: none */
    double bits[HB_ROWS]; /* a byte; NaN: not measured */
};

/* The cases of a length. */
struct hb_length_cases {
    struct hb_case *c;
    size_t n, corpora; /* n of the corpora that have such documents */
};

struct hb_mean {
    double bits, less, low, high; /* less: the row less plain, with its interval */
    double corpus[BENCH_CORPORA]; /* bits; NaN: it has no cases */
};
/* One row less another. */
#define HB_PAIRS 9
struct hb_pair {
    enum hb_row a, b;
    double less, low, high;
};
extern const enum hb_row hb_pairs[HB_PAIRS][2];

struct hb_figures {
    size_t n, documents;
    struct hb_mean row[HB_ROWS]; /* bits NaN: not measured */
    struct hb_pair pair[HB_PAIRS];
};

struct hb_bench {
    struct hb_options o;
    struct pool *pool;
    struct rwkv_model *model, *tuned;
    struct hybrid *hybrid, *control;
    struct bench_corpus corpus[BENCH_CORPORA];
    size_t n_corpora;
    double seconds;
    struct hb_figures length[HB_LENGTHS]; /* n 0: no document is long enough */
};

/* At most `per` cases a corpus whose contexts have `length` bytes, evenly spread; the caller's to free
 * (c). ERR_NOMEM. */
int hb_find_cases(const struct hb_bench *b, size_t length, struct hb_length_cases *out,
                  struct err *e) __attribute__((warn_unused_result));
/* Fills in bits. */
int hb_measure_cases(const struct hb_bench *b, size_t length, struct hb_length_cases *k,
                     struct err *e) __attribute__((warn_unused_result));
int hb_sum_cases(const struct hb_bench *b, const struct hb_length_cases *k, struct hb_figures *f,
                 struct err *e) __attribute__((warn_unused_result));

void hb_print_text(const struct hb_bench *b);
int hb_print_json(const struct hb_bench *b);
/* Charts of the training logs: PREFIX-language.svg, -diffusion, -gradient, held out -heldout (under the
 * context), -none, -wrong, and -alpha-LAYER; runs whose names agree up to a comma share a colour. ERR_IO,
 * ERR_INVALID, ERR_NOMEM. */
int hb_write_curves(const struct hb_options *o, struct err *e) __attribute__((warn_unused_result));
/* A line a log: its steps, its records with a number that is not finite, the largest gradient and loss
 * of a step, and what was evaluated last. ERR_IO. */
int hb_print_runs(const struct hb_options *o, struct err *e) __attribute__((warn_unused_result));

#endif
