/* Requests about states that need no step of a model: they run on the background lane.
 *
 *     struct state_edit *c = state_edit_new();
 *     c->errand.model = ..., c->state = ..., c->ops = ...;      (malloc'd; owned by the call)
 *     service_errand(svc, &c->errand, &e);                      (refused at once: 400, 429, 503)
 *     ... STREAM_END ...; c->errand.call.err.code, c->saved
 *     call_unref(&c->errand.call);
 *
 * All states of a call must be of its model (409). Threads and ownership: as service.h. */
#ifndef DAEMON_ERRAND_H
#define DAEMON_ERRAND_H

#include "daemon/service.h"
#include "engine/manifold/neighbors.h"
#include "engine/manifold/tsne.h"
#include "engine/rwkv/edit.h"

enum errand_kind {
    ERRAND_EDIT,
    ERRAND_COMPARE,
    ERRAND_PROJECT,
    ERRAND_NEIGHBORS,
    ERRAND_ITEM,
    ERRAND_GENERATE
};
struct errand {
    struct call call;
    const struct model_info *model;
    enum errand_kind kind; /* set by its maker */
    bool samples; /* an edit that runs a diffuser: it waits behind what is short */
};
int service_errand(struct service *s, struct errand *c, struct err *e);

/* ---- edits: a new state out of others ---- */

struct diffusion;

#define EDIT_MAX_OPS    64
#define EDIT_MAX_STATES 64 /* that one operation names */

/* One operation; which blocks it changes as in engine/rwkv/edit.h. */
struct edit_op {
    enum rwkv_edit_kind kind;
    double amount;
    uint64_t seed;
    bool normalize;
    bool parts[RWKV_N_PARTS];
    uint32_t *layers, *heads; /* [n_layers], [n_heads]; n 0: all */
    size_t n_layers, n_heads;
    char **with, **minus; /* [n_with], [n_minus] state references */
    size_t n_with, n_minus;
    struct diffusion *diffusion; /* NULL, or this in place of kind and what belongs to it: items.h */
};

struct state_edit {
    struct errand errand;
    /* the request */
    char *state;         /* what is edited: "name" or "name@version" */
    char *name;          /* of the result */
    struct edit_op *ops; /* [n_ops], applied in order */
    size_t n_ops;
    char *ops_json; /* the same as the record keeps them */
    struct state_write write;
    struct state_change change;
    /* the result */
    struct state_info *saved; /* without logits; its n_tokens are those of the edited state */
    bool replayed;
};
struct state_edit *state_edit_new(void); /* NULL: no memory */

/* ---- comparison ---- */

struct block_difference {
    struct rwkv_block block;
    struct rwkv_difference is;
};

struct state_comparison {
    struct errand errand;
    char *a, *b; /* state references */
    /* the result */
    char used_a[160], used_b[160]; /* "name@version" */
    struct rwkv_difference whole;
    struct rwkv_difference *layers;  /* [n_layers] */
    struct block_difference *blocks; /* [n_blocks], in the order of the floats */
    size_t n_layers, n_blocks;
};
struct state_comparison *state_comparison_new(void);

/* ---- projections: a map of many states in the plane ---- */

#define PROJECT_MAX_STATES   TSNE_MAX
#define PROJECT_MAX_FEATURES ((size_t)1 << 28) /* floats of all states that are looked at */

enum project_method { PROJECT_PCA, PROJECT_TSNE };

struct projected {
    char *ref;      /* "name@version" */
    char *label;    /* NULL: it has none */
    uint32_t group; /* labels in the order in which they were met; all without one are the last */
    float x, y;
};

struct state_projection {
    struct errand errand;
    /* the request */
    char **refs; /* [n_refs] states; none: the latest versions of the model that match: */
    size_t n_refs;
    char *tag, *prefix; /* NULL: any */
    char *
        label_prefix; /* the label is the first tag that begins so, without it; NULL: the first tag */
    enum project_method method;
    struct tsne_options tsne; /* perplexity 0: 30, or what the number of states allows */
    size_t components;        /* principal components that are kept for t-SNE and the measures */
    size_t k;                 /* of the neighbours' vote */
    bool normalize;           /* each block by its root mean square over all states */
    struct edit_op select;    /* parts, layers, heads only */
    bool svg;
    char *title;
    /* the result */
    struct projected *points; /* [n_points] */
    size_t n_points, n_features, n_labels;
    double explained[2];                 /* share of the variance along the first two components */
    double kept;                         /* ... along all that were kept */
    double kl;                           /* of t-SNE */
    bool measured;                       /* the states have two labels or more: */
    double silhouette, accuracy;         /* among the kept components */
    double map_silhouette, map_accuracy; /* in the plane */
    void *data;                          /* with svg: [data_bytes] */
    size_t data_bytes;
};
struct state_projection *state_projection_new(void);

/* ---- neighbours: the states nearest to one ---- */

#define NEIGHBORS_MAX_STATES 100000 /* looked at */

struct neighbor {
    char *ref;
    double distance;
};

struct state_neighbors {
    struct errand errand;
    char *ref, *tag, *prefix; /* tag, prefix: NULL or "": any */
    size_t k;                 /* 1 to 1000 */
    enum metric metric; /* COSINE: the mean over all head matrices of 1 - cosine; EUCLIDEAN: of
                               * all of them together */
    /* the result, nearest first; the state's own other versions are not in it */
    char used[160];
    struct neighbor *found; /* [n_found] */
    size_t n_found, n_seen;
};
struct state_neighbors *state_neighbors_new(void);

#endif
