/* The World vocabulary against the decoded table and the ids of the reference tokenizer. Both files
 * are third-party and stay outside the repository: without them the tests are skipped. */
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <nettle/base64.h>
#include <stdlib.h>

static struct tokenizer *open_world(void)
{
    const char *path = golden_path("tokenizer/rwkv_vocab_v20230424.txt");
    struct tokenizer *t;
    struct err e;
    if (!path)
        skip();
    if (tokenizer_open(path, &t, &e) < 0)
        fail_msg("%s", e.msg);
    return t;
}

static uint32_t get_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* {u32 id, u32 len, bytes}, ids 1..65529 ascending */
static void test_table(void **state)
{
    (void)state;
    struct tokenizer *t = open_world();
    const char *path = golden_path("tokenizer/vocab_decoded.bin");
    if (!path)
        skip();
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    unsigned char head[8], bytes[256];
    uint32_t id = 0;
    while (fread(head, 1, 8, f) == 8) {
        size_t len = get_u32(head + 4), got;
        id++;
        assert_int_equal(get_u32(head), id);
        assert_in_range(len, 1, sizeof bytes);
        assert_int_equal(fread(bytes, 1, len, f), len);
        const char *p = tokenizer_token(t, id, &got);
        assert_int_equal(got, len);
        assert_memory_equal(p, bytes, len);
    }
    fclose(f);
    assert_int_equal(id, 65529);
    assert_int_equal(tokenizer_vocab(t), 65536);
    assert_int_equal(tokenizer_used(t), 65530);
    assert_int_equal(tokenizer_longest(t), 128);
    tokenizer_free(t);
}

/* {"name", "base64", "n_bytes", "ids"} */
static void check_case(const struct tokenizer *t, const json_t *c)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    const char *base64 = json_string_value(json_object_get(c, "base64"));
    const json_t *want = json_object_get(c, "ids");
    size_t n = (size_t)json_integer_value(json_object_get(c, "n_bytes")), got;
    assert_non_null(base64);

    struct base64_decode_ctx ctx;
    uint8_t *text = malloc(BASE64_DECODE_LENGTH(strlen(base64)) + 1);
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    base64_decode_init(&ctx);
    assert_true(base64_decode_update(&ctx, &got, text, strlen(base64), base64));
    assert_true(base64_decode_final(&ctx));
    assert_int_equal(got, n);

    size_t count = tokenizer_encode(t, text, n, ids);
    if (count != json_array_size(want))
        fail_msg("%s: %zu ids, want %zu", name, count, json_array_size(want));
    for (size_t i = 0; i < count; i++)
        if (ids[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s: id %zu is %u, want %lld", name, i, ids[i],
                     (long long)json_integer_value(json_array_get(want, i)));

    struct buf b;
    struct err e;
    buf_init(&b, n);
    assert_int_equal(tokenizer_decode(t, ids, count, &b, &e), 0);
    assert_int_equal(b.len, n);
    if (n)
        assert_memory_equal(b.data, text, n);
    buf_fini(&b);
    free(text);
    free(ids);
}

static void test_cases(void **state)
{
    (void)state;
    struct tokenizer *t = open_world();
    const char *path = golden_path("tokenizer/tokenizer_golden.json");
    if (!path)
        skip();
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *cases = json_object_get(root, "cases"), *c;
    size_t i;
    assert_true(json_array_size(cases) > 50);
    json_array_foreach(cases, i, c) check_case(t, c);
    json_decref(root);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
