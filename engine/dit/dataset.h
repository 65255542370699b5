/* Datasets of recurrent states: what a codec is fitted on and a diffusion transformer is trained
 * on.
 *
 * One safetensors file, rows in no particular order:
 *     states      F16 [n, S]   S numbers of a state (rwkv.h)
 *     conditions  F32 [n, C]   mean of the final hidden states over the row's text
 *     labels      I32 [n, 2]   a corpus and a fine style, each an index of `labels` or -1
 *     documents   I32 [n]      rows of one document share a number
 *     heldout     U8  [n]      1: kept from training
 *     texts       U8  [t], text_ends I64 [n]: the text of row i ends before text_ends[i]
 *     checks      I64 [n]      of each row's state and condition, while the file is made
 * and in the metadata: format, fingerprint of the model, n_layer, n_embd, head_size, labels (names,
 * a line each).
 *
 * The file is mapped and the states are read from it row by row; the rest (about 1 KB a row) is in
 * memory. Every byte of a file is checked before use. Threads: read-only once open. */
#ifndef ENGINE_DIT_DATASET_H
#define ENGINE_DIT_DATASET_H

#include "engine/tensor/write_draft.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which states: L layers of width C in heads of N. */
struct state_shape {
    size_t n_layer, n_embd, head_size;
};
static inline size_t state_shape_floats(const struct state_shape *s)
{
    return s->n_layer * s->n_embd * (s->head_size + 2);
}
static inline size_t state_shape_heads(const struct state_shape *s)
{
    return s->n_embd / s->head_size;
}
/* ERR_FORMAT: sizes no model has. */
int state_shape_check(const struct state_shape *s, struct err *e)
    __attribute__((warn_unused_result));

struct dataset_row {
    int32_t corpus, style; /* labels, or -1 */
    int32_t document;
    bool heldout;
    const char *text;
    size_t n_text;
};

struct dataset {
    struct state_shape shape;
    char fingerprint[65];
    size_t n, state_floats, cond_dim;
    float *cond;             /* [n, cond_dim] */
    struct dataset_row *row; /* [n] */
    char **label;            /* [n_label] names */
    size_t n_label;
    struct tensor_file *file; /* private from here on */
    const void *states;
    char *text, *names;
};

/* ERR_IO, ERR_FORMAT, ERR_NOMEM. */
int dataset_open(struct dataset *d, const char *path, struct err *e)
    __attribute__((warn_unused_result));
void dataset_close(struct dataset *d); /* a zeroed one is fine */
/* The state of row i as F32: out [state_floats]. */
void dataset_state(const struct dataset *d, size_t i, float *out);

/* What a file is to hold, all but the states and their conditions. */
struct dataset_plan {
    struct state_shape shape;
    size_t cond_dim, n;
    const struct dataset_row *rows; /* [n] */
    const char *const *label;       /* [n_label] */
    size_t n_label;
    const char *fingerprint;
    const char *weights; /* the type of the weights that the states are computed with */
};

/* A file being made (tensor/write_draft.h): rows may be put in any order and from several threads, and
 * where the work was stopped or killed, the next writer of the same plan finds those that were put. A
 * row counts only if its checksum is right. Memory does not grow with n but for the texts. */
struct dataset_writer {
    const struct dataset_plan *plan;
    struct tensor_draft draft;
    size_t state_floats;
    uint16_t *states;
    float *cond;
    uint64_t *check; /* [n]; 0: not there */
};
/* The plan is borrowed until the close. ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM, ERR_INVALID. Close it also
 * when this failed. */
int dataset_writer_open(struct dataset_writer *w, const char *path, const struct dataset_plan *plan,
                        struct err *e) __attribute__((warn_unused_result));
/* Is row i there? Reads it. */
bool dataset_writer_has(const struct dataset_writer *w, size_t i);
/* Row i. ERR_NUMERIC: a number that is not finite or too large for F16. */
int dataset_writer_put(struct dataset_writer *w, size_t i, const float *state, const float *cond,
                       struct err *e) __attribute__((warn_unused_result));
/* rc == 0: all rows are there; the file appears. ERR_CANCELLED, ERR_UNAVAILABLE: what was put is kept
 * for the next writer; else nothing is. Returns the first error. */
int dataset_writer_close(struct dataset_writer *w, int rc, struct err *e)
    __attribute__((warn_unused_result));
/* About how many bytes a file of n rows with this many bytes of text takes. */
uint64_t dataset_file_bytes(const struct state_shape *shape, size_t cond_dim, size_t n,
                            size_t text_bytes);

#endif
