/* Held-out evaluation against one long forward pass a document in double. */
#include "tests/lib/check.h"

#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "engine/train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    T = 16,
    DOC = 100,
    N_DOCS = 3,
    BYTES = 210
}; /* 70 bytes of each document: 4 windows and a bit */

struct setting {
    struct rwkv_layout l;
    struct trainer t;
    struct corpus c;
    struct pool *pool;
    char text[N_DOCS * DOC];
};

static void open_setting(struct setting *s)
{
    static const struct rwkv_shape shape = {.n_layer = 2,
                                            .n_embd = 32,
                                            .head_size = 16,
                                            .n_ffn = 48,
                                            .n_vocab = 256,
                                            .rank_w = 4,
                                            .rank_a = 4,
                                            .rank_v = 4,
                                            .rank_g = 4};
    struct err e = {0};
    struct rng rng;
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    memset(s, 0, sizeof *s);
    gemm_setup();
    rng_init(&rng, 8, 0);
    for (size_t i = 0; i < sizeof s->text; i++)
        s->text[i] = (char)(i % DOC == DOC - 1 ? 0 : 1 + rng_below(&rng, 255));
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, s->text, sizeof s->text), sizeof s->text);
    close(fd);
    assert_int_equal(corpus_open(&s->c, "c", path, 1, &e), 0);
    unlink(path);
    assert_int_equal(rwkv_layout_init(&s->l, &shape, &e), 0);
    s->pool = pool_new(2, "test", 0, &e);
    assert_non_null(s->pool);
    assert_int_equal(trainer_init(&s->t, &s->l, s->pool, nn_f32_for(CPU_AUTO), T, &e), 0);
    assert_int_equal(rwkv_params_init(&s->l, s->t.params, 3, &e), 0);
    for (size_t i = 0; i < s->l.count; i++)
        s->t.params[i] += (float)(0.1 * rng_normal(&rng));
}

static void close_setting(struct setting *s)
{
    trainer_fini(&s->t);
    rwkv_layout_fini(&s->l);
    corpus_close(&s->c);
    pool_free(s->pool);
}

/* Bits a byte of the first bytes of each document, read in one piece behind the separator. */
static double in_one_piece(const struct setting *s, const float *initial, size_t each)
{
    size_t S = rwkv_layout_state(&s->l);
    struct rwkv_work_f64 *w = rwkv_work_new_f64(&s->l, &nn_f64, DOC);
    double *p = calloc(s->l.count, sizeof *p), *state = calloc(S, sizeof *state), sum = 0;
    double weight[DOC];
    uint32_t tok[DOC + 1];
    assert_true(w && p && state);
    for (size_t i = 0; i < s->l.count; i++)
        p[i] = (double)s->t.params[i];
    for (size_t d = 0; d < N_DOCS; d++) {
        for (size_t i = 0; i < S; i++)
            state[i] = initial ? (double)initial[i] : 0;
        tok[0] = '\n';
        for (size_t i = 0; i < each; i++) {
            tok[i + 1] = (uint8_t)s->text[d * DOC + i];
            weight[i] = 1;
        }
        sum += rwkv_forward_f64(w, p, tok, tok + 1, weight, each, state, NULL, NULL);
    }
    rwkv_work_free_f64(w);
    free(p);
    free(state);
    return sum / log(2) / (double)(N_DOCS * each);
}

static void test_documents(void **state)
{
    (void)state;
    struct setting s;
    struct err e = {0};
    double bits;
    open_setting(&s);
    assert_int_equal(train_evaluate(&s.t, &s.c, 1, BYTES, NULL, &bits, &e), 0);
    assert_true(fabs(bits - in_one_piece(&s, NULL, BYTES / N_DOCS)) < 1e-4);
    assert_int_equal(train_evaluate(&s.t, &s.c, 1, 1 << 20, NULL, &bits, &e), 0);
    assert_true(fabs(bits - in_one_piece(&s, NULL, DOC - 1)) < 1e-4);
    close_setting(&s);
}

static void test_initial_state(void **state)
{
    (void)state;
    struct setting s;
    struct err e = {0};
    struct rng rng;
    double bits, zero;
    open_setting(&s);
    rng_init(&rng, 9, 0);
    size_t S = rwkv_layout_state(&s.l);
    float *initial = calloc(S, sizeof *initial);
    for (size_t i = 0; i < S; i++)
        initial[i] = (float)rng_normal(&rng);
    assert_int_equal(train_evaluate(&s.t, &s.c, 1, BYTES, NULL, &zero, &e), 0);
    assert_int_equal(train_evaluate(&s.t, &s.c, 1, BYTES, initial, &bits, &e), 0);
    assert_true(fabs(bits - in_one_piece(&s, initial, BYTES / N_DOCS)) < 1e-4);
    assert_true(fabs(bits - zero) > 1e-3);
    free(initial);
    close_setting(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_documents),
                                       cmocka_unit_test(test_initial_state)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
