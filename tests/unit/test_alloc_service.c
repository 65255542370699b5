/* Without memory: state records, streams, the way back before a stop string, the store's opening.
 */
#include "daemon/rewind.h"
#include "daemon/state_import.h"
#include "daemon/state_record.h"
#include "daemon/stream.h"
#include "engine/kernels/pool.h"
#include "store/store.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <stdlib.h>

struct fixture {
    struct pool *pool;
    struct rwkv_model *model;
    const struct rwkv_info *info;
    float *sequence, *logits;
    void *blob;
    size_t bytes;
    char sha256[65];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e;
    const struct rwkv_options o = {.weights_type = -1};
    *state = f;
    f->pool = pool_new(1, "test", 0, &e);
    if (!f->pool || rwkv_open(golden_path("rwkv7-rand/rwkv7-rand-fp32.safetensors"), &o, f->pool,
                              &f->model, &e) < 0)
        return -1;
    f->info = rwkv_get_info(f->model);
    f->sequence = rwkv_state_new(f->info);
    f->logits = calloc(f->info->n_vocab, sizeof *f->logits);
    return state_record_pack(f->info, "f32", 3, f->sequence, f->logits, &f->blob, &f->bytes,
                             f->sha256, &e);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    free(f->sequence);
    free(f->logits);
    free(f->blob);
    rwkv_close(f->model);
    pool_free(f->pool);
    free(f);
    return 0;
}

static int pack(void *arg)
{
    const struct fixture *f = arg;
    void *blob = NULL;
    size_t bytes;
    char sha256[65];
    struct err e = {0};
    int rc =
        state_record_pack(f->info, "f32", 3, f->sequence, f->logits, &blob, &bytes, sha256, &e);
    assert_int_equal(rc, e.code);
    if (rc == 0)
        assert_string_equal(sha256, f->sha256);
    free(blob);
    return rc;
}

/* Lack of memory must never be taken for damage of the state. */
static int unpack(void *arg)
{
    struct fixture *f = arg;
    struct err e = {0};
    bool has_logits;
    uint64_t n_tokens;
    return state_record_unpack(f->blob, f->bytes, f->sha256, f->info, f->sequence, f->logits,
                               &has_logits, &n_tokens, &e);
}

/* Lack of memory must never be taken for a bad file. */
static int import(void *arg)
{
    struct fixture *f = arg;
    struct err e = {0};
    struct state_import i = {.info = f->info, .state = f->sequence, .logits = f->logits};
    int rc = state_import_bytes(f->blob, f->bytes, &i, &e);
    assert_int_equal(rc, e.code);
    return rc;
}

static int norms(void *arg)
{
    const struct fixture *f = arg;
    struct buf out;
    buf_init(&out, 1 << 16);
    int rc = state_record_norms(f->info, f->sequence, &out);
    buf_fini(&out);
    return rc;
}

static void test_state_record(void **state)
{
    alloc_sweep(pack, *state);
    alloc_sweep_json(pack, *state);
    alloc_sweep(unpack, *state);
    alloc_sweep_json(unpack, *state);
    alloc_sweep(import, *state);
    alloc_sweep_json(import, *state);
    alloc_sweep(norms, *state);
}

static int use_stream(void *arg)
{
    struct stream s;
    struct buf batch;
    (void)arg;
    int rc = stream_init(&s, 1 << 16);
    if (rc < 0)
        return rc;
    for (int i = 0; rc == 0 && i < 100; i++)
        rc = stream_push(&s, "record", 6);
    stream_end(&s);
    buf_init(&batch, 1 << 16);
    if (rc == 0) {
        assert_int_equal(stream_take(&s, &batch), STREAM_DATA);
        assert_false(batch.failed);
    }
    buf_fini(&batch);
    stream_fini(&s);
    return rc;
}

static void test_stream(void **state)
{
    (void)state;
    alloc_sweep(use_stream, NULL);
}

static int use_rewind(void *arg)
{
    struct rewind r;
    struct err e = {0};
    const float sequence[8] = {1}, logits[4] = {2};
    (void)arg;
    int rc = rewind_init(&r, 8, 4, &e);
    for (uint32_t id = 0; rc == 0 && id < 100; id++)
        rc = rewind_note(&r, id, 1, 0, 1 + id, sequence, logits, 5, &e);
    assert_int_equal(rc, e.code);
    rewind_fini(&r);
    return rc;
}

static void test_rewind(void **state)
{
    (void)state;
    alloc_sweep(use_rewind, NULL);
}

static int open_store(void *arg)
{
    const struct store_options o = {0};
    struct store *s = NULL;
    struct err e = {0};
    (void)arg;
    int rc = store_open(&o, &s, &e);
    assert_int_equal(rc, e.code);
    store_close(s);
    return rc;
}

static void test_store(void **state)
{
    (void)state;
    alloc_sweep(open_store, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_record),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_rewind),
        cmocka_unit_test(test_store),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
