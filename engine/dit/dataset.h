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
 * and in the metadata: format, fingerprint of the model, n_layer, n_embd, head_size, labels (names,
 * a line each).
 *
 * The file is mapped and the states are read from it row by row; the rest (about 1 KB a row) is in
 * memory. Every byte of a file is checked before use. Threads: read-only once open. */
#ifndef ENGINE_DIT_DATASET_H
#define ENGINE_DIT_DATASET_H

#include "daemon/base/err.h"

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

/* A file being made: rows may be put in any order and from several threads. The states pass through
 * a temporary file beside the goal, so memory does not grow with n. */
struct dataset_writer {
    struct state_shape shape;
    size_t n, state_floats, cond_dim, map_bytes;
    char *path;
    void *states; /* mapped */
    float *cond;
    struct dataset_row *row; /* [n] borrowed texts */
};
/* ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. Close it also when this failed. */
int dataset_writer_open(struct dataset_writer *w, const char *path, const struct state_shape *shape,
                        size_t cond_dim, size_t n, struct err *e)
    __attribute__((warn_unused_result));
/* Row i; the text must live until the close. ERR_NUMERIC: a number that is not finite or too large
 * for F16. */
int dataset_writer_put(struct dataset_writer *w, size_t i, const struct dataset_row *row,
                       const float *state, const float *cond, struct err *e)
    __attribute__((warn_unused_result));
/* rc == 0: writes the file, whole or not at all. Frees in any case; returns the first error. */
int dataset_writer_close(struct dataset_writer *w, int rc, const char *fingerprint,
                         const char *const *label, size_t n_label, struct err *e)
    __attribute__((warn_unused_result));

#endif
