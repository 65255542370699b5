/* What the benches share: numbers of their options, the corpora, notes on progress, charts. */
#ifndef DAEMON_BENCH_CORPORA_H
#define DAEMON_BENCH_CORPORA_H

#include "engine/manifold/plot.h"
#include "engine/train/heldout.h"

#include <stdbool.h>
#include <stdint.h>

#define BENCH_CORPORA 16 /* at most */

struct bench_corpus {
    char name[32];
    struct heldout text;
};
/* The corpora that a folder's baselines.json names, at least two, into c [BENCH_CORPORA]. On an error
 * too they are the caller's to close. ERR_IO, ERR_FORMAT, ERR_TOO_LARGE, ERR_NOMEM. */
int bench_corpora_open(struct bench_corpus *c, size_t *n, const char *folder, struct err *e)
    __attribute__((warn_unused_result));
void bench_corpora_close(struct bench_corpus *c, size_t n);

/* A whole number from 1 to `most`, or 0. */
size_t bench_count(const char *s, size_t most);
/* What --limit, --seed and --threads are given, by the letters n, s and t. False: another option, or not
 * a number from 1 to what makes sense. */
struct bench_numbers {
    size_t limit;
    uint64_t seed;
    int threads;
};
bool bench_set_number(struct bench_numbers *n, int option, const char *value);
/* Seed 1 and a thread for each processor, up to 256. */
struct bench_numbers bench_numbers(size_t limit);
/* A new folder in $TMPDIR, else in /tmp: its path in dir [n]. ERR_IO. */
int bench_folder(char *dir, size_t n, struct err *e) __attribute__((warn_unused_result));
/* Removes one that has nothing but a daemon's store in it. */
void bench_folder_remove(const char *dir);
/* A line to stderr. */
void bench_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* As an SVG file. ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. */
int bench_write_chart(const struct plot *p, const char *path, struct err *e)
    __attribute__((warn_unused_result));

#endif
