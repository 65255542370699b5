/* What the C tests share: cmocka with its includes, golden data, comparison of arrays. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/kern.h"
#include "engine/tensor/tensor.h"

/* A file of the golden data: "rwkv7-rand/golden.safetensors" is looked for in tests/data, then in
 * $DREAMSTATE_GOLDEN, then in ../shared/golden. NULL (with a "skip: " line printed) if absent. The
 * string is the test's until the next call. */
const char *golden_path(const char *name);
/* Opens one; skips the running test if it is absent, fails it on any other error. */
struct tensor_file *golden_open(const char *name);
/* A tensor of f as F32 (free it); fails the test if there is none of this many elements (0 = any). */
float *golden_f32(const struct tensor_file *f, const char *name, size_t count);

/* The best level of this machine. From one thread at first. */
const struct kern *test_kern(void);

/* Largest |a - b|; any NaN counts as infinite. */
double max_abs_diff(const float *a, const float *b, size_t n);
/* Root mean square of got - want over the standard deviation of want. */
double relative_rms(const float *got, const float *want, size_t n);
/* Fails unless all |a - b| <= tol, naming what, the worst element and both values. */
void check_close(const char *what, const float *got, const float *want, size_t n, double tol);

#endif
