/* The figures of a bench in their order, some with a target, as text and as the JSON that bench.h promises. */
#ifndef DAEMON_BENCH_RESULTS_H
#define DAEMON_BENCH_RESULTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct bench_result {
    char name[80];
    const char *unit;
    double value;
    double p99;    /* 0: not told */
    size_t runs;   /* 0: not told */
    double target; /* 0: none */
    bool at_least; /* the value should be the target or more; else the target or less */
};

struct bench_results {
    struct bench_result list[96];
    size_t n;
};

/* One more; there is room for what a bench has. `unit` is kept, not copied. */
struct bench_result *bench_results_add(struct bench_results *r, const char *unit, double value,
                                       const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A line for each, to stdout. */
void bench_results_text(const struct bench_results *r);
/* `head`, the bench's own fields, with the lists targets, results and skipped, to stdout. Takes both
 * references, which may be NULL. 0, or -1: no memory, or not written. */
int bench_results_json(const struct bench_results *r, json_t *head, json_t *skipped);

#endif
