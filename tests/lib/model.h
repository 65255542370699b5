/* Running models in tests: open, feed tokens, compare with golden logits and states. */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H

#include "engine/rwkv/rwkv.h"
#include "tests/lib/check.h"

/* A model with its pool, opened by its golden name (golden_path). Skips the test if the file is not
 * there, fails it on any error. */
struct test_model {
    struct pool *pool;
    struct rwkv_model *m;
    const struct rwkv_info *info;
};
void test_model_open(struct test_model *t, const char *name, int threads, int weights_type,
                     enum cpu_level level);
void test_model_close(struct test_model *t);

/* The CPU levels of this machine, CPU_C first; 0 after the last. */
enum cpu_level test_level(size_t i);

/* Feeds n tokens in calls of `chunk` through a session of max_rows; logits [n, V] or NULL. */
void test_feed(const struct test_model *t, const uint32_t *tokens, size_t n, size_t chunk,
               size_t max_rows, float *state, float *logits);

/* Token ids of a golden file. free(). */
uint32_t *golden_tokens(const struct tensor_file *f, const char *name, size_t *n);

/* Golden states: three tensors [L, C], [L, H, N, N], [L, C] named by `format` with one %s for
 * att_x_prev, wkv, ffn_x_prev; to and from our layout. */
float *golden_state(const struct tensor_file *f, const char *format, const struct rwkv_info *i);

#endif
