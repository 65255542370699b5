/* daemon/state_record.h: the same bytes always, every bit back, and nothing that is wrong gets in.
 */
#include "daemon/state_record.h"

#include "daemon/base/sha256.h"
#include "engine/tensor/write.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum { L = 2, C = 8, N = 4, H = 2, V = 11, STATE = L * (2 * C + C * N) };

static struct rwkv_info small_info(void)
{
    struct rwkv_info i = {.n_layer = L, .n_embd = C, .head_size = N, .n_head = H, .n_vocab = V};
    memset(i.fingerprint, 'f', 64);
    return i;
}

struct packed {
    void *blob;
    size_t bytes;
    char sha256[65];
};

static struct packed pack(const struct rwkv_info *i, const float *state, const float *logits)
{
    struct packed p;
    struct err e = {0};
    if (state_record_pack(i, "f32", 77, state, logits, &p.blob, &p.bytes, p.sha256, &e) < 0)
        fail_msg("%s", e.msg);
    return p;
}

static void fill(float *x, size_t n, float from)
{
    for (size_t i = 0; i < n; i++)
        x[i] = from + 0.37f * (float)i;
}

static void test_round_trip(void **unused)
{
    (void)unused;
    struct rwkv_info i = small_info();
    float state[STATE], logits[V], state2[STATE], logits2[V];
    struct err e;
    bool has;
    uint64_t n;
    assert_int_equal(rwkv_state_floats(&i), STATE);
    fill(state, STATE, -3);
    fill(logits, V, 5);
    state[0] = -0.0f;
    for (int with = 0; with < 2; with++) {
        struct packed p = pack(&i, state, with ? logits : NULL);
        struct packed q = pack(&i, state, with ? logits : NULL);
        assert_string_equal(p.sha256, q.sha256);
        assert_int_equal(p.bytes, q.bytes);
        memset(logits2, 1, sizeof logits2);
        assert_int_equal(
            state_record_unpack(p.blob, p.bytes, p.sha256, &i, state2, logits2, &has, &n, &e), 0);
        assert_memory_equal(state, state2, sizeof state);
        assert_int_equal(has, with);
        assert_int_equal(n, 77);
        if (with)
            assert_memory_equal(logits, logits2, sizeof logits);
        free(p.blob);
        free(q.blob);
    }
}

static void test_every_bit_counts(void **unused)
{
    (void)unused;
    struct rwkv_info i = small_info();
    float state[STATE], logits[V], out[STATE], out2[V];
    struct err e;
    bool has;
    uint64_t n;
    fill(state, STATE, 1);
    fill(logits, V, 2);
    struct packed p = pack(&i, state, logits);
    for (size_t at = 0; at < p.bytes; at++) {
        ((uint8_t *)p.blob)[at] ^= (uint8_t)(1u << at % 8);
        e = (struct err){0};
        assert_int_equal(
            state_record_unpack(p.blob, p.bytes, p.sha256, &i, out, out2, &has, &n, &e),
            ERR_STATE_CORRUPT);
        ((uint8_t *)p.blob)[at] ^= (uint8_t)(1u << at % 8);
    }
    for (size_t bytes = 0; bytes < p.bytes; bytes++)
        assert_int_equal(state_record_unpack(p.blob, bytes, p.sha256, &i, out, out2, &has, &n, &e),
                         ERR_STATE_CORRUPT);
    free(p.blob);
}

/* A file with a right SHA-256 that is no state of this model. */
static void refuse(const struct rwkv_info *i, const void *blob, size_t bytes, const char *word)
{
    float out[STATE], out2[V];
    uint8_t digest[32];
    char sha256[65];
    struct err e = {0};
    bool has;
    uint64_t n;
    sha256_of(blob, bytes, digest);
    sha256_hex(digest, sha256);
    int rc = state_record_unpack(blob, bytes, sha256, i, out, out2, &has, &n, &e);
    if (rc != ERR_STATE_CORRUPT || !strstr(e.msg, word))
        fail_msg("gave %d, '%s'; want a word of %s", rc, e.msg, word);
}

static void test_wrong_shape(void **unused)
{
    (void)unused;
    struct rwkv_info i = small_info();
    float state[STATE], logits[V];
    fill(state, STATE, 1);
    fill(logits, V, 2);
    struct packed p = pack(&i, state, logits);
    struct rwkv_info other = i;
    other.n_layer = 1;
    refuse(&other, p.blob, p.bytes, "tensors");
    other = i;
    other.n_vocab = V - 1;
    refuse(&other, p.blob, p.bytes, "logits");
    other = i;
    other.head_size = 2, other.n_head = 4;
    refuse(&other, p.blob, p.bytes, "att.wkv");
    other = i;
    other.fingerprint[0] = 'e';
    refuse(&other, p.blob, p.bytes, "another model");
    refuse(&i, "{}", 2, "safetensors");
    refuse(&i, "", 0, "safetensors");
    free(p.blob);
}

static void test_hostile(void **unused)
{
    (void)unused;
    struct rwkv_info i = small_info();
    float state[STATE] = {0};
    struct err e;
    /* the header says other things about the same bytes */
    static const struct {
        const char *from, *to, *word;
    } edits[] = {
        {"\"n_tokens\":\"77\"", "\"n_tokens\":\"7x\"", "count"},
        {"dreamstate-state-1", "dreamstate-state-2", "format"},
        {"blocks.1.ffn.x_prev", "blocks.1.ffn.x_prex", "blocks.1.ffn.x_prev"},
    };
    struct packed p = pack(&i, state, NULL);
    for (size_t k = 0; k < sizeof edits / sizeof edits[0]; k++) {
        char *copy = malloc(p.bytes), *at;
        assert_non_null(copy);
        memcpy(copy, p.blob, p.bytes);
        at = memmem(copy, p.bytes, edits[k].from, strlen(edits[k].from));
        assert_non_null(at);
        memcpy(at, edits[k].to, strlen(edits[k].to));
        refuse(&i, copy, p.bytes, edits[k].word);
        free(copy);
    }
    float nan = NAN;
    memcpy((char *)p.blob + p.bytes - sizeof nan, &nan, sizeof nan);
    refuse(&i, p.blob, p.bytes, "not finite");
    free(p.blob);
    state[STATE - 1] = INFINITY;
    assert_int_equal(state_record_pack(&i, "f32", 1, state, NULL, &p.blob, &p.bytes, p.sha256, &e),
                     ERR_NUMERIC);
    assert_non_null(strstr(e.msg, "blocks.1.ffn.x_prev"));
}

static void test_norms(void **unused)
{
    (void)unused;
    struct rwkv_info i = small_info();
    float state[STATE] = {0};
    struct buf b;
    buf_init(&b, 10000);
    rwkv_state_wkv(&i, state, 1)[0] = 3;
    rwkv_state_wkv(&i, state, 1)[C * N - 1] = -4;
    rwkv_state_ffn_shift(&i, state, 0)[C - 1] = 2;
    assert_int_equal(state_record_norms(&i, state, &b), 0);
    json_t *j = json_loadb(b.data, b.len, 0, NULL);
    assert_non_null(j);
    assert_true(json_number_value(json_array_get(json_object_get(j, "wkv"), 1)) == 5);
    assert_true(json_number_value(json_array_get(json_object_get(j, "wkv"), 0)) == 0);
    assert_true(json_number_value(json_array_get(json_object_get(j, "ffn_shift"), 0)) == 2);
    assert_int_equal(json_array_size(json_object_get(j, "att_shift")), L);
    json_decref(j);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_wrong_shape), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_norms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
