/* Inside `bench tracking`: does a context that shows which automaton is asked for change the one that a
 * small model is?
 *
 * A line is bits, "=" and their sum modulo m, as "10110=1": m is 2 (parity), 3 or 5, and nothing in a
 * line says which. Lines to learn from have 1 to TRACK_LONGEST bits, n of them with probability
 * proportional to 1/n; those to be asked up to eight times as many. The answer is right if its digit is the
 * likeliest of all bytes behind "=", the line being read alone, behind the separator:
 *
 *     plain       from the zero state
 *     tuned       the same, by the model trained on as long without contexts
 *     control     with the vectors of a hybrid that never saw a context
 *     none        with those that the hybrid makes of an empty context
 *     wrong       of lines of the next modulus
 *     hybrid      of lines of the same modulus
 *     state       from the state that the model has behind those lines (engine/train/bake.h)
 *
 * Deterministic for a seed and build. One thread calls. */
#ifndef DAEMON_BENCH_TRACKING_H
#define DAEMON_BENCH_TRACKING_H

#include "daemon/base/err.h"
#include "engine/kernels/rng.h"

#include <stdbool.h>
#include <stddef.h>

#define TRACK_LONGEST 12
#define TRACK_LINE    (8 * TRACK_LONGEST + 3) /* bytes of a line, at most */
enum { TRACK_TASKS = 3, TRACK_LENGTHS = 5, TRACK_FOLDERS = 16 };
extern const char *const track_task[TRACK_TASKS]; /* names */
extern const size_t track_length[TRACK_LENGTHS];  /* bits; 0: as those to learn from */

enum track_row {
    TRACK_PLAIN,
    TRACK_TUNED,
    TRACK_CONTROL,
    TRACK_NONE,
    TRACK_WRONG,
    TRACK_HYBRID,
    TRACK_STATE,
    TRACK_ROWS
};
extern const char *const track_row_name[TRACK_ROWS];

/* A line with its newline into `to`; length 0: drawn. Returns its bytes. */
size_t track_line(struct rng *rng, size_t task, size_t length, char to[TRACK_LINE]);
/* Whole lines of together at most n bytes into `to`. Returns their bytes. */
size_t track_text(struct rng *rng, size_t task, char *to, size_t n);
/* What to learn from, and held out: FOLDER/TASK.train and TASK.heldout of every task (corpus.h). ERR_IO,
 * ERR_STORAGE_FULL. */
int track_write(const char *folder, uint64_t seed, struct err *e)
    __attribute__((warn_unused_result));

/* Shares of right answers. */
struct track_figures {
    double right[TRACK_ROWS][TRACK_TASKS][TRACK_LENGTHS];
};

struct track_options {
    const char *write; /* a folder to write texts into; NULL: none */
    char **folder; /* [n_folders] of model.safetensors, hybrid., control. and tuned.safetensors */
    size_t n_folders;
    size_t per; /* lines a task and length */
    uint64_t seed;
    int threads;
    bool json;
};

/* Of the models in one folder. ERR_IO, ERR_FORMAT, ERR_INVALID, ERR_NUMERIC, ERR_NOMEM. */
int track_measure(const struct track_options *o, const char *folder, struct track_figures *f,
                  struct err *e) __attribute__((warn_unused_result));

#endif
