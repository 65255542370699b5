/* Requests about named conditions, contexts, diffusers, hybrids and data sets, and the generation of states: errands.
 *
 * A condition is a vector that says what a generated state should carry: the mean of the model's final
 * hidden states over one text or several, each read behind a separator (engine/train/bake.h).
 * A context is what a hybrid makes of a text: the vectors of the model's recurrence (adjustment.h).
 * A diffuser is the file of a trained diffusion transformer (engine/dit/dit.h), a hybrid that of a trained
 * parameter transformer (engine/hybrid/hybrid.h). All belong to the model
 * whose fingerprint they carry. Threads and ownership: as errand.h. */
#ifndef DAEMON_ITEMS_H
#define DAEMON_ITEMS_H

#include "daemon/errand.h"

/* ---- the resources ---- */

enum item_kind { ITEM_CONDITION, ITEM_CONTEXT, ITEM_DIFFUSER, ITEM_HYBRID, ITEM_DATASET };
enum item_op { ITEM_PUT, ITEM_GET, ITEM_LIST, ITEM_PATCH, ITEM_DELETE, ITEM_DATA };

struct item_info { /* a record */
    char name[129], model[129], fingerprint[65], sha256[65], type[32], status[16];
    char *meta; /* JSON object; NULL: damaged, only the name is known */
    uint64_t seq, revision, bytes;
    int64_t created_ms, changed_ms;
};

#define CONDITION_MAX_TEXTS 256

/* A text of a data set. Packed: label, document and text, each with a NUL behind it. */
struct dataset_text {
    const char *label, *document; /* document "": it is one of its own */
    const char *text;
    size_t n_text;
};
#define DATASET_LABELS   256
#define DATASET_LABEL    64  /* bytes of its name */
#define DATASET_DOCUMENT 128 /* bytes of its name */
#define DATASET_NAME     119 /* bytes of its name */
/* The text at *at of packed bytes, and *at behind it. false: there is none, or it is not whole. */
bool dataset_text_next(const char *data, size_t bytes, size_t *at, struct dataset_text *out);

struct item_call {
    struct errand errand;
    enum item_kind kind;
    enum item_op op;
    /* the request */
    /* PUT of a data set appends */
    char *name;           /* all but LIST */
    char *after;          /* LIST: names after this one; NULL: from the first */
    size_t limit;         /* LIST: 1 to 1000 */
    bool of_model;        /* LIST: only those of errand.model */
    uint64_t if_revision; /* PATCH, DELETE; 0: any */
    char *meta; /* PUT: of a condition or context, its record's; PATCH: a JSON merge patch of it */
    struct token_list *texts;      /* PUT of a condition: [n_texts], with their separators */
    size_t n_texts;                /* 0: its vector is in data */
    struct adjustment *adjustment; /* PUT of a context: one reference; of a text, strength 1 */
    bool replace;                  /* PUT of a context: one of this name may be there */
    void *data; /* PUT: a vector (F32 [n_embd]), a file or packed texts; GET of a condition: its
                 * vector; DATA: the file */
    size_t data_bytes;
    /* the result */
    struct item_info *items; /* [n_items]: one, or the page */
    size_t n_items;
    bool has_more, made; /* made: PUT of a data set, it was not there */
};
struct item_call *item_call_new(enum item_kind kind, enum item_op op); /* NULL: no memory */

/* PUT of a context; the others: service_errand. The seed is the adjustment's, and the vectors replay
 * with it. ERR_NO_HYBRID, ERR_TOO_LARGE, ERR_NAME_EXISTS, ERR_NOT_FINITE, ... */
int service_make_context(struct service *s, struct item_call *c, struct err *e);

/* The tokens of a text as a condition and a context read it, from ids [n]: malloc'd [*n + 1]. ERR_NOMEM. */
int condition_tokens(const struct service *s, const struct model_info *m, const uint32_t *ids,
                     size_t n, struct token_list *out, struct err *e);

/* ---- diffusion: what a generation and an edit share ---- */

/* One of: a condition's name, a text, a label of the diffuser. */
struct mix_part {
    char *name, *label;
    struct token_list text; /* with its separators */
    double weight;          /* more than 0 */
};
/* The weighted mean of conditions; n 0: none. A label stands alone. */
struct mix {
    struct mix_part *parts; /* [n] */
    size_t n;
};
#define MIX_MAX 16

enum diffusion_scheduler { SCHEDULER_DDIM, SCHEDULER_DDPM, SCHEDULER_DPMSOLVER };

struct diffusion {
    char *diffuser; /* its name; NULL: the model's latest */
    struct mix condition, negative;
    struct mix source;   /* of an inversion: what the state was made under */
    bool invert, masked; /* masked: only the op's chosen blocks change */
    double strength;     /* of an edit: 0 to 1 */
    size_t steps;
    enum diffusion_scheduler scheduler;
    bool bf16; /* as struct diffuser_options has it */
    double eta, guidance;
    uint64_t seed;
    /* What an earlier answer said of itself: else ERR_MODEL_MISMATCH. "": anything. */
    char want_diffuser[65], want_condition[65];
    /* the result: what was used */
    char used[129], diffuser_sha256[65], condition_sha256[65];
};
#define DIFFUSION_MAX_STEPS 1000

/* ---- generations ---- */

#define GENERATE_MAX_STATES 64

struct state_generation {
    struct errand errand;
    /* the request */
    struct diffusion diffusion;
    size_t n_states;
    uint32_t first;           /* number of the first one in the seed's sequence */
    char *name;               /* of the first; the others are name-2, name-3, ... */
    char *params_json;        /* for the record */
    struct state_write write; /* a key only with one state */
    struct state_change change;
    /* the result */
    struct state_info *saved; /* [n_states] */
    bool replayed;
};
struct state_generation *state_generation_new(void); /* NULL: no memory */

/* Is it, by an estimate, longer than a request should be (--generation-seconds)? Then it is to be a job. */
bool service_generation_is_long(const struct service *s, const struct state_generation *c);
#define GENERATION_JOB "generate_states"
/* The request of that job (jobs.h), malloc'd; NULL: no memory. */
char *generation_request(const struct state_generation *c);
/* Once it is made: a request that makes the same bytes, malloc'd; NULL: no memory. */
char *generation_info(const struct state_generation *c);

#endif
