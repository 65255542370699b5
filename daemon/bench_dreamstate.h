/* Inside `bench dreamstate`: the material, one function a measure, the figures.
 *
 * The material: of every corpus N held-out texts ("targets", pieces of whole sentences or lines) and N
 * others ("sources", half a corpus away). Item i = k N + j is text j of corpus k everywhere. A source's
 * text is the condition of what is generated for item i, and its baked state is the real state beside
 * it; likelihood is measured on the targets. Distances are between the coordinates of all matrices
 * (the codec's, without shift vectors): d numbers a state.
 *
 * A text that starts from a state is read behind a separator. Real states are as datasets have them,
 * without shift vectors (engine/train/bake.h); the row "with its own shift vectors" keeps them.
 *
 * What is said of states as a set (agreement, two-sample test, distances, ranks, classes) wants more of
 * them: `sets` is a second material of the same kind, of 3 N texts twice a corpus or as many as there are.
 * Correlations of 600 states are half noise: two sets of real ones agree by .74, of 1,800 by .9.
 *
 * Deterministic for seed, build and threads. One thread calls; the pool works inside. */
#ifndef DAEMON_BENCH_DREAMSTATE_H
#define DAEMON_BENCH_DREAMSTATE_H

#include "daemon/bench_bake.h"
#include "daemon/bench_corpora.h"
#include "engine/dit/dit.h"
#include "engine/manifold/points.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tokenizer/tokenizer.h"

#define DS_LENGTHS 4
extern const size_t ds_length[DS_LENGTHS]; /* 16, 32, 64, 128 bytes of a target */
#define DS_PIECE BENCH_TEXT /* bytes of a text at most, and half of that at least */

/* ---- What the training set looks like, in a file small enough to be committed ---- */

/* safetensors: coordinates I8 [n, d] of a sample of training states, by column in units of scale
 * F32 [d]; labels I32 [n, 2] (corpus, style or -1); token_scale F32 [n_token], to know the codec by;
 * mean and tuned F16 [n_corpora, S]: the mean of each corpus' training states, and the state tuned by
 * gradient on its training texts. */
struct ds_reference {
    char fingerprint[65];
    char **label; /* [n_label], corpora first */
    size_t n_label, n_corpora;
    size_t n, d, S;
    float *z;            /* [n, d] */
    uint32_t *corpus;    /* [n] */
    int32_t *style;      /* [n] */
    float *mean, *tuned; /* [n_corpora, S] */
};
/* ERR_IO, ERR_FORMAT (damaged, or of another model or codec), ERR_NOMEM. */
int ds_reference_open(struct ds_reference *r, const char *path, const struct diffuser *d,
                      struct err *e) __attribute__((warn_unused_result));
void ds_reference_fini(struct ds_reference *r); /* a zeroed one is fine */

struct ds_prepare {
    const char *model, *dataset, *diffuser, *out;
    size_t rows;       /* of the sample, in equal parts of the corpora */
    size_t tune_steps; /* of state tuning a corpus, batches of 16 texts */
    struct pool *pool;
};
/* Makes that file from a dataset of states. ERR_INVALID, ERR_IO, ERR_FORMAT, ERR_NOMEM, ERR_NUMERIC. */
int ds_prepare(const struct ds_prepare *p, struct err *e) __attribute__((warn_unused_result));

/* ---- The judge of text: bytes under a model of each corpus ---- */

/* Byte n-grams of orders 0 to 5, counts hashed, each order blended into the next:
 * p = (count + 3 p_lower) / (total + 3). */
struct ds_judge;
struct ds_judge *ds_judge_new(size_t n_classes); /* NULL: no memory */
void ds_judge_free(struct ds_judge *j);          /* NULL is fine */
void ds_judge_train(struct ds_judge *j, size_t class, const char *text, size_t n);
/* The class under which the text has the fewest bits (the first of equals). */
size_t ds_judge_classify(const struct ds_judge *j, const char *text, size_t n);

/* ---- Measures of numbers ---- */

/* A point of an edit from A to B: bits/byte on B's and on A's text. */
struct ds_edit_point {
    double on_b, on_a;
};
/* How much lower a method's on_b lies than the curve's [n] (by rising on_a, straight between its
 * points, flat beyond them) at the method's own on_a: above 0, it is better. */
double ds_edit_margin(const struct ds_edit_point *curve, size_t n, struct ds_edit_point p);
/* Whether on_b falls and on_a rises from each point to the next. */
bool ds_edit_monotone(const struct ds_edit_point *p, size_t n);

/* The share of pairs (one of own, one of other) whose own is nearer, ties half: .5 is chance.
 * distance [n]; kind [n]: 1 own, 0 other, -1 not counted. NaN without a pair. */
double ds_rank(const float *distance, const int8_t *kind, size_t n);

/* Points in groups [0, per), [per, 2 per), ...: the mean distance between two of a group. */
int ds_spread(const struct manifold_run *run, const struct points *p, size_t per, double *out,
              struct err *e) __attribute__((warn_unused_result));
/* Each point's distance to the nearest of `to`: the median. */
int ds_nearest(const struct manifold_run *run, const struct points *p, const struct points *to,
               double *median, struct err *e) __attribute__((warn_unused_result));
/* Draws [n_classes per, d] of the full-covariance Gaussian of each class of points. */
int ds_gaussian(const struct manifold_run *run, const struct points *p, const uint32_t *label,
                size_t n_classes, size_t per, uint64_t seed, float *out, struct err *e)
    __attribute__((warn_unused_result));
/* Votes: share [p->n, n_classes] of the k nearest points of `to` by label. */
struct ds_voters {
    const struct points *to;
    const uint32_t *label;
    size_t n_classes, k;
};
int ds_votes(const struct manifold_run *run, const struct points *p, const struct ds_voters *v,
             float *share, struct err *e) __attribute__((warn_unused_result));
/* The share of points whose own class [n] has the most votes. */
double ds_vote_accuracy(const float *share, size_t n, size_t n_classes, const uint32_t *own);

/* ---- The bench ---- */

struct ds_options {
    const char *model, *heldout, *reference, *svg, *curve_svg;
    const char *diffuser[16]; /* the last is measured in full, those before for the curve */
    size_t n_diffusers;
    size_t states; /* N */
    size_t steps;
    uint64_t seed;
    int threads;
    bool json, quick;
};

struct ds_piece {
    const char *text;
    size_t n;
    size_t indent;     /* bytes before text that belong to its first line */
    uint32_t document; /* of all corpora */
};

struct ds_bench {
    struct ds_options o;
    struct pool *pool;
    struct manifold_run run;
    struct rwkv_model *model;
    const struct rwkv_info *info;
    struct tokenizer *tokenizer;
    struct diffuser *diffuser;
    struct ds_reference ref;
    struct bench_corpus corpus[BENCH_CORPORA];
    size_t n_corpora, per, n;           /* N, and n_corpora N */
    size_t S, d;                        /* numbers of a state, of its matrices' coordinates */
    uint32_t *own;                      /* [n] corpus of each item */
    struct ds_piece *target, *source;   /* [n] */
    float *target_state, *source_state; /* [n, S] real ones */
    float *source_own;                  /* [n, S] with their shift vectors */
    float *target_z, *source_z;         /* [n, d] */
    float *vector;                      /* [n, C] of the sources' texts */
    struct ds_judge *judge;             /* of sets: NULL */
    size_t judged;                      /* bytes of a text it is sure of */
    double judge_accuracy;
    struct ds_bench *sets; /* borrows all but its texts and their states; NULL in itself */
};

/* Opens model, corpora, diffuser, reference; cuts the texts and bakes them; trains the judge. */
int ds_material_open(struct ds_bench *b, struct err *e) __attribute__((warn_unused_result));
void ds_material_close(struct ds_bench *b);
int ds_open_diffuser(struct ds_bench *b, const char *path, struct err *e)
    __attribute__((warn_unused_result));
/* The coordinates of the real states by the codec of the diffuser that is open. */
int ds_encode_real(struct ds_bench *b, struct err *e) __attribute__((warn_unused_result));
/* Coordinates of the matrices of states [n, S]: z [n, d]. */
int ds_encode(const struct ds_bench *b, const float *states, size_t n, float *z, struct err *e)
    __attribute__((warn_unused_result));
static inline struct points ds_points(const struct ds_bench *b, const float *z, size_t n)
{
    return (struct points){.x = z, .n = n, .d = b->d, .ld = b->d};
}

/* Bits of target text t in the first ds_length[l] bytes from states [n, S] (NULL: zero), read behind
 * a separator: bits [n, DS_LENGTHS], per byte. text_of [n]: which target each state is measured on
 * (NULL: its own). */
struct ds_starts {
    const float *states;
    const uint32_t *text_of;
};
int ds_likelihood(const struct ds_bench *b, const struct ds_starts *s, float *bits, struct err *e)
    __attribute__((warn_unused_result));
/* Text of b->judged bytes sampled (temperature 1) from each state behind a separator: the share whose
 * domain the judge says is the item's, by corpus. */
int ds_continued(const struct ds_bench *b, const struct ds_starts *s,
                 double by_corpus[BENCH_CORPORA], struct err *e)
    __attribute__((warn_unused_result));

/* n states by conditions, or edits of `start`. z [n, d] or NULL. */
struct ds_generate {
    const struct diffuser_condition *condition;
    size_t n;
    double guidance, strength;
    const float *start;
    float *states, *z;
};
int ds_generate(const struct ds_bench *b, const struct ds_generate *g, struct err *e)
    __attribute__((warn_unused_result));

enum ds_start {
    DS_ZERO,
    DS_MEAN,
    DS_REAL,
    DS_REAL_OWN,
    DS_TEXT,
    DS_LABEL,
    DS_WRONG,
    DS_TUNED,
    DS_TUNED_LABEL,
    DS_N_STARTS
};
extern const char *const ds_start_name[DS_N_STARTS];

struct ds_likelihood_row {
    bool measured;
    double bits[DS_LENGTHS], low[DS_LENGTHS], high[DS_LENGTHS]; /* mean of the corpora, 95 % */
    double corpus[BENCH_CORPORA][DS_LENGTHS];
    double text, text_corpus[BENCH_CORPORA]; /* domain of continued text; NaN: not measured */
    double class;                            /* of its states; NaN */
};

#define DS_EDITS 13
struct ds_edit_row {
    const char *method;
    double amount;
    struct ds_edit_point at[DS_LENGTHS];
    double class_b; /* share that are B's by 5-NN */
};

/* What is said of a generator's states; the curve has one a checkpoint. */
struct ds_states_figures {
    uint64_t steps; /* trained */
    double bits64;  /* by text, guidance 2 */
    double class_text, class_label;
    double agreement, two_sample[3]; /* real side, its own, both */
    double nearest;                  /* median, over that of held-out states */
    double diversity;                /* mean pairwise distance over that of real states */
    double rank_document, rank_style;
    size_t n_documents, n_styles;
};

struct ds_figures {
    double seconds;
    struct ds_likelihood_row start[DS_N_STARTS];
    struct ds_edit_row edit[DS_EDITS];
    /* At 16 and 64 bytes: over the strengths; from the unedited state on; mean margins. */
    double monotone[2], monotone_from_a[2], margin_lerp[2], margin_mean[2];
    struct ds_states_figures real, gaussian, generated;
    struct ds_states_figures curve[16];
    size_t n_curve;
    double silhouette, knn; /* of real states */
    double mixed[3];        /* votes for the two, for others */
};

int ds_measure(struct ds_bench *b, struct ds_figures *f, struct err *e)
    __attribute__((warn_unused_result));
int ds_measure_starts(struct ds_bench *b, const float *by_text, const float *by_label,
                      struct ds_figures *f, struct err *e) __attribute__((warn_unused_result));
int ds_measure_edits(struct ds_bench *b, struct ds_figures *f, struct err *e)
    __attribute__((warn_unused_result));
int ds_measure_mixed(struct ds_bench *b, struct ds_figures *f, struct err *e)
    __attribute__((warn_unused_result));
/* Of states [n, d] beside the real ones: agreement, two-sample, nearest, diversity, rank. */
int ds_measure_states(struct ds_bench *b, const float *z, struct ds_states_figures *out,
                      struct err *e) __attribute__((warn_unused_result));
/* Share right by 5-NN over the reference. */
int ds_measure_class(const struct ds_bench *b, const float *z, size_t n, const uint32_t *own,
                     double *out, struct err *e) __attribute__((warn_unused_result));
/* Mean rank of states [n, d] among the targets' by document; of states by style among the reference. */
int ds_measure_rank(struct ds_bench *b, const float *z, struct ds_states_figures *out,
                    struct err *e) __attribute__((warn_unused_result));
int ds_measure_styles(struct ds_bench *b, struct ds_states_figures *out, struct err *e)
    __attribute__((warn_unused_result));

void ds_print_text(const struct ds_bench *b, const struct ds_figures *f);
int ds_print_json(const struct ds_bench *b, const struct ds_figures *f);
/* t-SNE of real and generated states, by corpus; the measures over training steps. */
int ds_write_map(const struct ds_bench *b, const float *generated_z, struct err *e)
    __attribute__((warn_unused_result));
int ds_write_curve(const struct ds_bench *b, const struct ds_figures *f, struct err *e)
    __attribute__((warn_unused_result));

#endif
