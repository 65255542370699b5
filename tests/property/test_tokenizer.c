/* For any bytes: decoding gives back what was encoded, encoding is the greedy longest match, pieces
 * cut anywhere show the same text as the whole. With the small vocabulary, and World where it is.
 */
#include "engine/kernels/rng.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#include <stdlib.h>

#define N_TEXTS 3000
#define MAX_LEN 300

/* Random bytes of three kinds: any, few letters (long matches), tokens strung together and cut. */
static size_t random_text(struct rng *r, const struct tokenizer *t, char *p)
{
    size_t n = rng_below(r, MAX_LEN), kind = rng_below(r, 3), i = 0;
    while (i < n) {
        if (kind == 0) {
            p[i++] = (char)rng_u32(r);
        } else if (kind == 1) {
            p[i++] = "abcd \n"[rng_below(r, 6)];
        } else {
            size_t len;
            const char *s = tokenizer_token(t, (uint32_t)rng_below(r, tokenizer_used(t)), &len);
            for (size_t k = 0; k < len && i < n; k++)
                p[i++] = s[k];
        }
    }
    return n;
}

static void check_round_trip(const struct tokenizer *t, const char *text, size_t n,
                             const uint32_t *ids, size_t count)
{
    struct buf b;
    struct err e;
    buf_init(&b, MAX_LEN);
    assert_int_equal(tokenizer_decode(t, ids, count, &b, &e), 0);
    assert_int_equal(b.len, n);
    if (n)
        assert_memory_equal(b.data, text, n);
    buf_fini(&b);
}

/* No token longer than the one chosen begins at any place of the text: looks at all of them. */
static void check_greedy(const struct tokenizer *t, const char *text, size_t n, const uint32_t *ids,
                         size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        size_t len, other_len;
        tokenizer_token(t, ids[i], &len);
        for (uint32_t id = 1; id < tokenizer_used(t); id++) {
            const char *other = tokenizer_token(t, id, &other_len);
            if (other_len > len && other_len <= n - at && memcmp(text + at, other, other_len) == 0)
                fail_msg("at byte %zu: id %u, but id %u is longer", at, ids[i], id);
        }
        at += len;
    }
}

static void check_vocabulary(const struct tokenizer *t, int n_texts, uint64_t seed)
{
    struct rng r;
    char text[MAX_LEN];
    uint32_t ids[MAX_LEN];
    rng_init(&r, seed, 0);
    for (int i = 0; i < n_texts; i++) {
        size_t n = random_text(&r, t, text);
        size_t count = tokenizer_encode(t, text, n, ids);
        check_round_trip(t, text, n, ids, count);
        check_greedy(t, text, n, ids, count);
    }
}

static void test_small(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err e;
    if (tokenizer_open("tests/data/vocab-small.txt", &t, &e) < 0)
        fail_msg("%s", e.msg);
    check_vocabulary(t, N_TEXTS, 1);
    tokenizer_free(t);
}

static void test_world(void **state)
{
    (void)state;
    const char *path = golden_path("tokenizer/rwkv_vocab_v20230424.txt");
    struct tokenizer *t;
    struct err e;
    if (!path)
        skip();
    if (tokenizer_open(path, &t, &e) < 0)
        fail_msg("%s", e.msg);
    check_vocabulary(t, 20, 2);
    tokenizer_free(t);
}

/* Feeds text [n] in random pieces the way a stream does. */
static void check_pieces(struct rng *r, const char *text, size_t n, const struct buf *whole)
{
    struct buf shown;
    size_t done = 0, fed = 0;
    buf_init(&shown, 3 * MAX_LEN);
    while (fed < n) {
        fed += 1 + rng_below(r, n - fed < 5 ? n - fed : 5);
        size_t ready = utf8_whole_prefix(text + done, fed - done);
        assert_true(fed - done - ready <= 3);
        assert_int_equal(utf8_append_valid(&shown, text + done, ready), 0);
        done += ready;
    }
    assert_int_equal(utf8_append_valid(&shown, text + done, n - done), 0);
    assert_int_equal(shown.len, whole->len);
    if (n)
        assert_memory_equal(shown.data, whole->data, whole->len);
    buf_fini(&shown);
}

static void test_utf8_pieces(void **state)
{
    (void)state;
    /* Bytes at the edges of the table of well-formed sequences, so that all its rows are met. */
    static const unsigned char edge[] = {0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF,
                                         0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
                                         0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF};
    struct rng r;
    rng_init(&r, 3, 0);
    for (int i = 0; i < 20000; i++) {
        char text[24];
        size_t n = rng_below(&r, sizeof text);
        struct buf whole;
        for (size_t k = 0; k < n; k++)
            text[k] = (char)edge[rng_below(&r, sizeof edge)];
        buf_init(&whole, 3 * sizeof text);
        assert_int_equal(utf8_append_valid(&whole, text, n), 0);
        assert_true(utf8_is_valid(whole.data, whole.len));
        check_pieces(&r, text, n, &whole);
        buf_fini(&whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_world),
        cmocka_unit_test(test_utf8_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
