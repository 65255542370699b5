/* Without memory: what a training sets up, reads and writes. */
#include "engine/kernels/pool.h"
#include "engine/rwkv/params.h"
#include "engine/train/checkpoint.h"
#include "engine/train/corpus.h"
#include "engine/train/heldout.h"
#include "engine/train/trainer.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <stdlib.h>
#include <unistd.h>

static char path[] = P_tmpdir "/dreamstate-XXXXXX";

static const struct rwkv_shape shape = {.n_layer = 2,
                                        .n_embd = 32,
                                        .head_size = 32,
                                        .n_ffn = 64,
                                        .n_vocab = 16,
                                        .rank_w = 8,
                                        .rank_a = 8,
                                        .rank_v = 8,
                                        .rank_g = 8};

static int open_trainer(void *pool)
{
    struct rwkv_layout l = {0};
    struct trainer t = {0};
    struct err e = {0};
    int rc = rwkv_layout_init(&l, &shape, &e);
    if (rc == 0)
        rc = trainer_init(&t, &l, pool, nn_f32_for(CPU_AUTO), 8, &e);
    if (rc == 0)
        rc = rwkv_params_init(&l, t.params, 1, &e);
    if (rc == 0)
        rc = rwkv_params_write(&l, t.params, path, 0, &e);
    assert_int_equal(rc, e.code);
    trainer_fini(&t);
    rwkv_layout_fini(&l);
    return rc;
}

static void test_trainer(void **state)
{
    (void)state;
    struct err e;
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_non_null(pool);
    alloc_sweep(open_trainer, pool);
    alloc_sweep_json(open_trainer, pool);
    pool_free(pool);
}

static int read_texts(void *arg)
{
    struct heldout h;
    struct corpus c = {0};
    struct err e = {0};
    (void)arg;
    int rc = heldout_open("deploy/models/tiny/heldout/iso.gz", &h, &e);
    if (rc == 0) {
        rc = corpus_open(&c, "readme", "tests/data/README.md", 1, &e);
        if (rc == 0)
            corpus_close(&c);
        heldout_fini(&h);
    }
    assert_int_equal(rc, e.code);
    return rc;
}

static void test_input(void **state)
{
    (void)state;
    alloc_sweep(read_texts, NULL);
}

/* Writes a checkpoint and reads it back; a failed write must leave the file whole. */
static int keep(void *arg)
{
    float m[4] = {1, 2, 3, 4};
    struct checkpoint_array array = {"m", DTYPE_F32, 4, m};
    struct checkpoint_number number = {"step", 7, false};
    struct checkpoint c = {.arrays = &array, .n_arrays = 1, .numbers = &number, .n_numbers = 1};
    struct err e = {0};
    (void)arg;
    int rc = checkpoint_write(&c, path, &e);
    if (rc == 0)
        rc = checkpoint_read(&c, path, &e);
    assert_int_equal(rc, e.code);
    return rc;
}

static void test_checkpoint(void **state)
{
    (void)state;
    assert_int_equal(keep(NULL), 0);
    alloc_sweep(keep, NULL);
    alloc_sweep_json(keep, NULL);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trainer),
        cmocka_unit_test(test_input),
        cmocka_unit_test(test_checkpoint),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
