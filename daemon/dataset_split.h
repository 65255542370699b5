/* The texts of a data set in documents, some of which are held out: what baking and training share.
 *
 * Threads: any. */
#ifndef DAEMON_DATASET_SPLIT_H
#define DAEMON_DATASET_SPLIT_H

#include "daemon/datasets.h"

struct split_text {
    const struct dataset_text *text;
    size_t document; /* the number of its first text */
    bool heldout;
};
/* Bytes of the label before a style, "sea" of "sea/calm". */
size_t dataset_corpus(const char *label);
/* The texts in the order in which their documents began, those of one document together; of each corpus'
 * documents every 1 / share-th is held out. [t->n], free(). NULL: no memory. */
struct split_text *dataset_split(const struct dataset_texts *t, double share);

#endif
