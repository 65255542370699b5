/* What the tests of engine/manifold share: pools, golden data, drawn points. Failures fail the test. */
#ifndef TESTS_POINTS_H
#define TESTS_POINTS_H

#include "engine/manifold/points.h"
#include "tests/lib/check.h"

/* A run with a pool of its own (free it with pool_free), never stopped. */
struct manifold_run test_run(int threads);
/* A tensor of tests/data/manifold; free(). */
float *manifold_golden(const char *name, size_t count);
uint32_t *manifold_golden_ids(const char *name, size_t count);
/* n normal numbers; free(). */
float *draw_normal(size_t n, uint64_t seed);
/* For manifold_run.proceed: false when the size_t at arg has been counted down to 0. */
bool stop_after(void *arg, size_t step, size_t total);

#endif
