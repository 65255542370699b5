/* The rows of a dataset that is to be baked (bake.h): pieces of texts, and their labels. A label "a/b" is
 * a fine style of the corpus "a".
 *
 *     int corpus = dit_rows_label(&r, "sea", e), style = dit_rows_label(&r, "sea/calm", e);
 *     dit_rows_add(&r, &(struct dit_text){.text = t, .n = n, .corpus = corpus, .style = style}, 256, e);
 *     dit_rows_thin(&r, 0, 8000);
 *     dit_rows_prune(&r, 24, e);
 *
 * Texts are borrowed; those of one document stand together. Threads: one. */
#ifndef ENGINE_TRAIN_DIT_ROWS_H
#define ENGINE_TRAIN_DIT_ROWS_H

#include "engine/dit/dataset.h"

struct dit_rows { /* zero: none */
    struct dataset_row *row;
    size_t n, cap;
    char **label; /* [n_label] owned, in the order in which they came */
    size_t n_label;
};
void dit_rows_fini(struct dit_rows *r);

/* The index of a label, which is added if it is new; or ERR_NOMEM. */
int dit_rows_label(struct dit_rows *r, const char *name, struct err *e);

struct dit_text {
    const char *text;
    size_t n;
    int32_t corpus, style, document; /* as of a row */
    bool heldout;
};
/* All pieces (bake_piece) of a text. ERR_NOMEM. */
int dit_rows_add(struct dit_rows *r, const struct dit_text *t, size_t segment_bytes, struct err *e)
    __attribute__((warn_unused_result));
/* A row of the style (-1: none) without text, whose state is to be tuned (bake.h), `copies` times: so often it
 * counts in training. ERR_NOMEM. */
int dit_rows_add_tuned(struct dit_rows *r, const struct dataset_row *row, size_t copies,
                       struct err *e) __attribute__((warn_unused_result));
/* Leaves at most so many of the rows from `first` on, evenly spread. */
void dit_rows_thin(struct dit_rows *r, size_t first, size_t most);
/* Takes off styles with fewer rows to train on, and closes the gaps in the list of labels. ERR_NOMEM. */
int dit_rows_prune(struct dit_rows *r, size_t least, struct err *e)
    __attribute__((warn_unused_result));

#endif
