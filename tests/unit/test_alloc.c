/* Without memory: every allocation of buffers, tokenizer, sampler and stop strings fails once. */
#include "daemon/base/buf.h"
#include "engine/sampling/sampling.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <stdlib.h>

#define SMALL "tests/data/vocab-small.txt"

static int use_buf(void *arg)
{
    struct buf b;
    (void)arg;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 100; i++) {
        size_t before = b.len;
        bool failed = b.failed;
        if (buf_printf(&b, "%d ", i) < 0 || buf_puts(&b, "text ") < 0)
            assert_true(failed || b.len >= before); /* what was there stays */
    }
    int rc = b.failed ? buf_append(&b, "x", 1) : 0; /* remembers its failure */
    char *taken = buf_take(&b, NULL);
    assert_int_equal(taken == NULL, rc < 0);
    free(taken);
    buf_fini(&b);
    return rc;
}

static int take_empty(void *arg)
{
    struct buf b;
    (void)arg;
    buf_init(&b, 10);
    char *p = buf_take(&b, NULL);
    free(p);
    buf_fini(&b);
    return p ? 0 : ERR_NOMEM;
}

static int repair_utf8(void *arg)
{
    struct buf b;
    (void)arg;
    buf_init(&b, 4096);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 100; i++)
        rc = utf8_append_valid(&b, "a\xFF\xE6\x97", 4);
    buf_fini(&b);
    return rc;
}

static void test_buf(void **state)
{
    (void)state;
    assert_true(alloc_sweep(use_buf, NULL) >= 4);
    assert_int_equal(alloc_sweep(take_empty, NULL), 1);
    assert_true(alloc_sweep(repair_utf8, NULL) >= 3);
}

static int open_vocabulary(void *arg)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    (void)arg;
    int rc = tokenizer_open(SMALL, &t, &e);
    assert_int_equal(rc, e.code);
    assert_int_equal(rc == 0, t != NULL);
    tokenizer_free(t);
    return rc;
}

static int new_bytes(void *arg)
{
    struct tokenizer *t = tokenizer_new_bytes();
    (void)arg;
    tokenizer_free(t);
    return t ? 0 : ERR_NOMEM;
}

static int decode(void *t)
{
    const uint32_t ids[] = {330, 331, 330, 331, 330, 331, 330, 331};
    struct buf b;
    struct err e = {0};
    buf_init(&b, 4096);
    int rc = tokenizer_decode(t, ids, 8, &b, &e);
    assert_int_equal(rc, e.code);
    buf_fini(&b);
    return rc;
}

static void test_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err e;
    assert_true(alloc_sweep(open_vocabulary, NULL) >= 6);
    assert_int_equal(alloc_sweep(new_bytes, NULL), 3);
    assert_int_equal(tokenizer_open(SMALL, &t, &e), 0);
    assert_int_equal(alloc_sweep(decode, t), 2);
    tokenizer_free(t);
}

static int use_sampler(void *arg)
{
    struct sampling_params p = SAMPLING_DEFAULT;
    const struct logit_bias bias = {1, 2};
    const float logits[4] = {0};
    struct err e = {0};
    (void)arg;
    p.top_p = 0.9f;
    p.presence_penalty = 1;
    struct sampler *s = sampler_new(&p, 4, test_kern(), &e);
    int rc = s ? sampler_set_bias(s, &bias, 1, &e) : e.code;
    if (rc == 0)
        rc = sampler_set_bias(s, &bias, 1, &e); /* in the place of the first */
    if (s) {                                    /* usable with or without its biases */
        assert_in_range(sampler_pick(s, logits), 0, 3);
        sampler_accept(s, 0);
    }
    sampler_free(s);
    return rc;
}

static int use_stop(void *arg)
{
    const char *const stops[] = {"one", "two"};
    const size_t lens[] = {3, 3};
    (void)arg;
    struct stop_matcher *m = stop_new(stops, lens, 2);
    stop_free(m);
    return m ? 0 : ERR_NOMEM;
}

static void test_sampling(void **state)
{
    (void)state;
    assert_int_equal(alloc_sweep(use_sampler, NULL), 8);
    assert_int_equal(alloc_sweep(use_stop, NULL), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_sampling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
