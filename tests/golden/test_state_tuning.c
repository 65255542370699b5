/* 20 steps of state tuning against torch in float64 (golden state-files, train.*), and the file. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/train/state.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 20, B = 2, T = 16, L = 2, HNN = 2 * 32 * 32 };

static void doubles(const struct tensor_file *f, const char *name, double *out)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t || t->dtype != DTYPE_F64 || t->count != STEPS)
        fail_msg("no F64[20] %s", name);
    memcpy(out, t->data, STEPS * sizeof *out);
}

static void tune(const struct tensor_file *f, struct state_tuner *s)
{
    const struct adamw_options o = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip = 1};
    double loss[STEPS], norm[STEPS];
    float *tok = golden_f32(f, "train.tokens", STEPS * B * T);
    float *tgt = golden_f32(f, "train.targets", STEPS * B * T);
    doubles(f, "train.loss", loss);
    doubles(f, "train.grad_norm", norm);
    for (size_t n = 0; n < STEPS; n++) {
        uint32_t seq[B][T + 1];
        struct train_seq seqs[B];
        for (size_t b = 0; b < B; b++) {
            for (size_t i = 0; i < T; i++)
                seq[b][i] = (uint32_t)tok[(n * B + b) * T + i];
            seq[b][T] = (uint32_t)tgt[(n * B + b) * T + T - 1];
            seqs[b] = (struct train_seq){.tokens = seq[b], .T = T};
        }
        double got_norm, got = state_tuner_step(s, seqs, B, &o, 0.05, n + 1, &got_norm);
        if (!(fabs(got - loss[n]) <= 1e-4))
            fail_msg("step %zu: loss %.9g, want %.9g", n, got, loss[n]);
        if (!(fabs(got_norm - norm[n]) <= 1e-4 * norm[n]))
            fail_msg("step %zu: norm %.9g, want %.9g", n, got_norm, norm[n]);
    }
    free(tok);
    free(tgt);
}

static void test_golden_run(void **state)
{
    (void)state;
    struct err e = {0};
    struct rwkv_shape shape;
    struct rwkv_layout l;
    struct trainer t;
    struct state_tuner s;
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    gemm_setup();
    struct tensor_file *model = golden_open("state-files/model-fp32.safetensors");
    struct tensor_file *f = golden_open("state-files/golden.safetensors");
    struct pool *pool = pool_new(2, "test", 0, &e);
    assert_non_null(pool);
    assert_int_equal(rwkv_shape_read(&shape, model, &e), 0);
    assert_int_equal(rwkv_layout_init(&l, &shape, &e), 0);
    assert_int_equal(trainer_init(&t, &l, pool, nn_f32_for(CPU_AUTO), T, &e), 0);
    assert_int_equal(rwkv_params_read(&l, t.params, model, &e), 0);
    assert_int_equal(state_tuner_init(&s, &t, B, &e), 0);
    tune(f, &s);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(state_tuner_write(&s, path, &e), 0);
    struct tensor_file *written = NULL;
    assert_int_equal(tensor_file_open(path, &written, &e), 0);
    for (int i = 0; i < L; i++) {
        char name[64], gold[80];
        snprintf(name, sizeof name, "blocks.%d.att.time_state", i);
        snprintf(gold, sizeof gold, "train.final.%s", name);
        float *want = golden_f32(f, gold, HNN), *got = golden_f32(written, name, HNN);
        check_close(name, got, want, HNN, 1e-4);
        assert_int_equal(tensor_file_find(written, name)->n_dims, 3);
        free(want);
        free(got);
    }
    tensor_file_close(written);
    unlink(path);
    state_tuner_fini(&s);
    trainer_fini(&t);
    rwkv_layout_fini(&l);
    pool_free(pool);
    tensor_file_close(f);
    tensor_file_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
