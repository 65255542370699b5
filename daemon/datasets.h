/* Data sets: named, labelled texts, which grow by appending; and the states baked from them.
 *
 * The texts are in the store: a record (counts, what has been baked) and parts 1, 2, ..., one for each
 * append. The record says how many parts there are: one that a killed append left behind it does not
 * count, and is written over by the next. The states are files of engine/dit/dataset.h in the folder
 * `datasets` beside the database, one a model, which can be made again.
 *
 * Limits: DATASET_LABELS labels of DATASET_LABEL bytes. A label "a/b" is a fine style b of the label a.
 * Threads: THREAD_LANE, except datasets_sweep. */
#ifndef DAEMON_DATASETS_H
#define DAEMON_DATASETS_H

#include "daemon/fetch.h"
#include "daemon/items.h"

#include <jansson.h>

/* Adds texts, making the data set if it is not there. data: see dataset_text in items.h; taken.
 * ERR_STORAGE_FULL (the quota), ERR_INVALID (too many labels), ERR_STATE_CORRUPT. */
int datasets_append_take(struct service *s, const char *name, void *data, size_t bytes,
                         struct item_info *saved, bool *made, struct err *e);
int datasets_delete(struct service *s, const char *name, uint64_t if_revision, struct err *e);
/* Removes parts and files that belong to no record. [before requests come] */
int datasets_sweep(struct service *s, struct err *e);

/* A record, read. */
struct dataset_record {
    struct item_info info;
    json_t *meta;
};
int datasets_find(struct service *s, const char *name, struct dataset_record *out, struct err *e);
void dataset_record_fini(struct dataset_record *r); /* a zeroed one is fine */
size_t dataset_record_parts(const struct dataset_record *r);
/* A number of a record, or of a part of one; 0: there is none. */
uint64_t dataset_number(const json_t *o, const char *key);

/* The texts of the first n_parts parts in memory. What is more urgent runs in between. */
struct dataset_texts {
    void **parts; /* [n_parts] */
    size_t n_parts;
    struct dataset_text *texts; /* [n]; they point into the parts */
    size_t n, bytes;            /* bytes: of all texts */
};
int datasets_read(struct service *s, const char *name, size_t n_parts, struct dataset_texts *out,
                  struct err *e);
void dataset_texts_fini(struct dataset_texts *t); /* a zeroed one is fine */

/* ERR_STORAGE_FULL unless so many bytes more are within the quota of texts and states. */
int datasets_check_quota(struct service *s, uint64_t more, struct err *e);

/* The file of the states that a model left; ERR_UNSUPPORTED without a data folder. Makes the folder. */
int datasets_states_path(struct service *s, const struct item_info *record, const char *fingerprint,
                         char *out, size_t size, struct err *e);
/* What the record says of them: borrowed; NULL: they have not been baked. */
const json_t *dataset_record_baked(const struct dataset_record *r, const char *fingerprint);
/* Writes that down, in place of what it said of this fingerprint before. seq: of the record that was
 * baked: another one of the same name is ERR_DATASET_NOT_FOUND. */
int datasets_set_baked(struct service *s, const char *name, uint64_t seq, const json_t *baked,
                       struct err *e);

#endif
