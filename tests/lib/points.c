#include "tests/lib/points.h"

#include "engine/kernels/rng.h"

#include <stdlib.h>

struct manifold_run test_run(int threads)
{
    struct err e = {0};
    struct manifold_run r = {.pool = pool_new(threads, "test", 0, &e)};
    assert_non_null(r.pool);
    return r;
}

float *manifold_golden(const char *name, size_t count)
{
    struct tensor_file *f = golden_open("manifold/golden.safetensors");
    float *x = golden_f32(f, name, count);
    tensor_file_close(f);
    return x;
}

uint32_t *manifold_golden_ids(const char *name, size_t count)
{
    struct tensor_file *f = golden_open("manifold/golden.safetensors");
    const struct tensor *t = tensor_file_find(f, name);
    uint32_t *ids = malloc(count * sizeof *ids);
    assert_non_null(t);
    assert_non_null(ids);
    assert_int_equal(t->dtype, DTYPE_I32);
    assert_int_equal(t->count, count);
    memcpy(ids, t->data, count * sizeof *ids);
    tensor_file_close(f);
    return ids;
}

float *draw_normal(size_t n, uint64_t seed)
{
    struct rng rng;
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&rng);
    return x;
}

bool stop_after(void *arg, size_t step, size_t total)
{
    size_t *left = arg;
    assert_true(step <= total);
    return (*left)-- > 0;
}
