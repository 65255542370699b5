/* Inside `bench recall`: do edits of a state change what it knows? A model that answers questions on lists
 *
 *     ka=37 mo=85 ...          (a line each)       ka?37       an absent name:  zu?--
 *
 * is asked for every name of held-out lists. Of each list one entry gets another value (edited), one is
 * taken out (removed), the others stay (untouched). The state of the list is edited towards that in every
 * way there is, beside the state of the changed list baked afresh and the unedited one. A question is
 * read behind a separator; the answer is decoded greedily to the line's end, and must be the value.
 *
 * Masks: everything, one layer, one head of one layer. States are as datasets have them, without shift
 * vectors (engine/train/bake.h).
 *
 * Intervals are Wilson's for as many independent draws as there are lists (of the untouched entries, of
 * which a list has several, they are so rather too wide).
 *
 * Deterministic for seed, build and threads. One thread calls; the pool works inside. */
#ifndef DAEMON_BENCH_RECALL_H
#define DAEMON_BENCH_RECALL_H

#include "daemon/bench_bake.h"
#include "engine/dit/dit.h"
#include "engine/rwkv/edit.h"
#include "engine/train/heldout.h"

#define RC_ENTRIES 15   /* of a list at most, and 3 at least */
#define RC_WORD    8    /* bytes of a name or value and the NUL behind it */
#define RC_NONE    "--" /* what is answered to a name that the list does not have */

struct rc_options {
    const char *model, *lists, *diffuser; /* diffuser NULL: without */
    size_t limit;                         /* lists at most */
    size_t steps;                         /* of denoising */
    uint64_t seed;
    int threads;
    bool json;
};

struct rc_entry {
    char name[RC_WORD], value[RC_WORD];
};
struct rc_list {
    struct rc_entry entry[RC_ENTRIES];
    size_t n, edited, removed; /* the latter two: which */
    char value[RC_WORD];       /* the edited entry's new one */
};

/* ---- The lists (bench_recall_lists.c) ---- */

/* Lines "name=value" of a document. ERR_FORMAT (another line, a name twice, too few or too many). */
int rc_parse(struct rc_list *l, const char *text, size_t n, struct err *e)
    __attribute__((warn_unused_result));
/* Chooses what is edited, removed and the new value, which another list has there. */
void rc_choose(struct rc_list *lists, size_t n, uint64_t seed);
/* The text of at most RC_ENTRIES + 1 entries as a state is baked of them; returns its length. */
size_t rc_write(const struct rc_entry *entry, size_t n, char text[BENCH_TEXT]);
/* The entries after the change. */
size_t rc_changed(const struct rc_list *l, struct rc_entry out[RC_ENTRIES]);

/* ---- The bench ---- */

enum rc_method {
    RC_ZERO, /* nothing was read */
    RC_UNEDITED,
    RC_AFRESH,     /* the changed list baked */
    RC_READ,       /* the new line read behind the list; nothing is removed */
    RC_ALONE,      /* + new entry - old entry - removed entry, each baked alone */
    RC_DIFFERENCE, /* + the mean difference that the same changes make in `amount` other lists */
    RC_COPY,       /* the mask's part of the changed list's state */
    RC_INPAINT,    /* the mask's part made by the diffuser, under the changed list's text */
    RC_DIFFUSE     /* SDEdit of strength `amount` under the changed list's text */
};
struct rc_setting {
    enum rc_method method;
    double amount;
    int layer, head; /* -1: all */
};
#define RC_SETTINGS 128
/* The rows for a model's layers and heads: their number. */
size_t rc_settings(const struct rwkv_info *i, bool diffuser, struct rc_setting out[RC_SETTINGS]);
/* "inpaint, layer 1, head 0" */
void rc_setting_name(const struct rc_setting *s, char *out, size_t size);

struct rc_share {
    double mean, low, high; /* 95 % */
};
struct rc_share rc_wilson(double mean, size_t n);
struct rc_row {
    struct rc_setting setting;
    struct rc_share edited_new,
        edited_old;            /* told of the edited entry: the new value, the old one */
    struct rc_share untouched; /* of the untouched entries: told right */
    struct rc_share removed_old,
        removed_none;    /* of the removed entry: its value, that it is absent */
    struct rc_share all; /* lists that are told as changed in every entry */
    double distance;     /* |x - afresh| / |afresh|, mean of the lists */
};

struct rc_bench {
    struct rc_options o;
    struct pool *pool;
    struct rwkv_model *model;
    const struct rwkv_info *info;
    struct tokenizer *tokenizer;
    struct diffuser *diffuser; /* NULL: without */
    struct rc_list *list;      /* [n] */
    size_t n, S;
    float *state, *afresh; /* [n, S] baked: the lists, the changed lists */
    float *vector;         /* [n, C] of the changed lists' texts */
    struct rc_row row[RC_SETTINGS];
    size_t n_rows;
    double seconds;
};

/* Opens everything, reads and bakes the lists. ERR_INVALID (the diffuser is another model's, fewer than
 * two lists), ERR_IO, ERR_FORMAT, ERR_NOMEM, ERR_NUMERIC. */
int rc_material_open(struct rc_bench *b, struct err *e) __attribute__((warn_unused_result));
void rc_material_close(struct rc_bench *b);
/* The states [n, S] of a setting. */
int rc_edit(const struct rc_bench *b, const struct rc_setting *s, float *x, struct err *e)
    __attribute__((warn_unused_result));
/* Asks the states for every name of their lists: answer [n, RC_ENTRIES]. */
typedef char rc_answer[RC_WORD];
int rc_ask(const struct rc_bench *b, const float *x, rc_answer *answer, struct err *e)
    __attribute__((warn_unused_result));
/* All rows. */
int rc_measure(struct rc_bench *b, struct err *e) __attribute__((warn_unused_result));

void rc_print_text(const struct rc_bench *b);
int rc_print_json(const struct rc_bench *b);

#endif
