/* Documents, windows and their mixture. */
#include "tests/lib/check.h"

#include "engine/train/corpus.h"

#include <stdlib.h>
#include <unistd.h>

static void open_text(struct corpus *c, const char *text, size_t n, double weight)
{
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    struct err e = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), (ssize_t)n);
    close(fd);
    int rc = corpus_open(c, "test", path, weight, &e);
    unlink(path);
    if (rc < 0)
        fail_msg("%s", e.msg);
}

static void test_documents(void **state)
{
    (void)state;
    struct corpus c;
    const char text[] = "one\0two two\0\0three";
    open_text(&c, text, sizeof text - 1, 1);
    assert_int_equal(c.n_docs, 3);
    assert_string_equal((const char *)c.text + c.doc[0], "one");
    assert_string_equal((const char *)c.text + c.doc[1], "two two");
    assert_string_equal((const char *)c.text + c.doc[2], "three");
    corpus_close(&c);
}

static void test_errors(void **state)
{
    (void)state;
    struct corpus c;
    struct err e = {0};
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    assert_int_equal(corpus_open(&c, "x", "/nonexistent/file", 1, &e), ERR_IO);
    assert_int_equal(corpus_open(&c, "x", "/tmp", 1, &e), ERR_FORMAT);
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "\0\0", 2), 2);
    close(fd);
    assert_int_equal(corpus_open(&c, "x", path, 1, &e), ERR_FORMAT);
    unlink(path);
}

/* Bytes 1..255 in three documents of different lengths, so that a place tells its document. */
static void open_numbered(struct corpus *c, size_t n, uint8_t base, double weight)
{
    char *text = malloc(n);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)(i == n / 2 || i == n / 2 + 40 ? 0 : base + i % 50);
    open_text(c, text, n, weight);
    free(text);
}

/* Windows go on where the last one ended, within one document, or begin behind the separator. */
static void test_windows(void **state)
{
    (void)state;
    enum { T = 32, STEPS = 4000 };
    struct corpus c[2];
    open_numbered(&c[0], 1000, 'A', 1);
    open_numbered(&c[1], 3000, 128, 3);
    const struct sampler s = {
        .corpora = c, .n = 2, .seed = 9, .carry = 0.7, .at_start = 0.2, .T = T};
    struct corpus_stream at = {0};
    uint32_t tok[T + 1], last = 0;
    size_t starts = 0, second = 0, firsts = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        bool fresh;
        struct corpus_stream before = at;
        size_t n = sampler_next(&s, &at, step, 3, tok, &fresh);
        assert_in_range(n, 1, T);
        assert_true(step > 0 || fresh);
        const uint8_t *text = c[at.corpus].text;
        assert_int_equal(at.end, at.at + (int64_t)strlen((const char *)text + at.at));
        for (size_t i = 1; i <= n; i++) {
            assert_int_equal(tok[i], text[at.at - (int64_t)n + (int64_t)i - 1]);
            assert_true(tok[i] != 0);
        }
        if (fresh) {
            assert_int_equal(tok[0], '\n');
            starts++;
            second += at.corpus == 1;
            int64_t begin = at.at - (int64_t)n;
            firsts += begin == 0 || text[begin - 1] == 0;
        } else {
            assert_int_equal(at.corpus, before.corpus);
            assert_int_equal(at.at, before.at + (int64_t)n);
            assert_int_equal(tok[0], last);
        }
        last = tok[n];
    }
    assert_in_range(second * 100 / starts, 70, 80); /* weight 3 of 4 */
    assert_in_range(firsts * 100 / starts, 17, 25); /* at_start, and chance */
    corpus_close(&c[0]);
    corpus_close(&c[1]);
}

/* Windows with jumps: text up to the middle half of the window, the separator, and text of another
 * place of the same corpus up to where the stream then stands. */
static void test_jumps(void **state)
{
    (void)state;
    enum { T = 64, STEPS = 4000 };
    struct corpus c[2];
    open_numbered(&c[0], 1000, 'A', 1);
    open_numbered(&c[1], 3000, 128, 3);
    const struct sampler s = {
        .corpora = c, .n = 2, .seed = 9, .carry = 0.7, .at_start = 0.2, .jump = 0.5, .T = T};
    struct corpus_stream at = {0};
    uint32_t tok[T + 1];
    size_t jumps = 0, same_document = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        bool fresh;
        struct corpus_stream before = at;
        size_t n = sampler_next(&s, &at, step, 3, tok, &fresh), join = n;
        assert_in_range(n, 1, T);
        while (join > 0 && tok[join] != '\n')
            join--;
        for (size_t i = n; i > join; i--)
            assert_int_equal(tok[i], c[at.corpus].text[at.at - (int64_t)(n - i) - 1]);
        for (size_t i = 1; i < join && !fresh; i++)
            assert_int_equal(tok[i], c[at.corpus].text[before.at + (int64_t)i - 1]);
        if (join == 0 || fresh)
            continue;
        assert_int_equal(at.corpus, before.corpus);
        assert_true(join <= T * 3 / 4);
        jumps++;
        same_document += at.end == before.end;
    }
    assert_in_range(jumps * 100 / STEPS, 30, 40);         /* .5 of the .7 that go on */
    assert_in_range(same_document * 100 / jumps, 70, 99); /* half, and the corpora's large thirds */
    corpus_close(&c[0]);
    corpus_close(&c[1]);
}

/* A start inside a document is behind a line or sentence end where one is near. */
static void test_boundaries(void **state)
{
    (void)state;
    struct corpus c;
    char text[4000];
    memset(text, 'x', sizeof text);
    for (size_t i = 50; i + 50 < sizeof text; i += 100) {
        text[i] = i % 200 == 50 ? '\n' : '.';
        text[i + 1] = i % 200 == 50 ? 'L' : ' ';
        text[i + 2] = i % 200 == 50 ? 'x' : 'S';
    }
    open_text(&c, text, sizeof text, 1);
    const struct sampler s = {.corpora = &c, .n = 1, .seed = 1, .T = 8};
    for (uint64_t step = 0; step < 500; step++) {
        struct corpus_stream at = {0};
        uint32_t tok[9];
        bool fresh;
        sampler_next(&s, &at, step, 0, tok, &fresh);
        assert_true(fresh);
        if (at.at < 3850) /* the last boundary's window */
            assert_true(tok[1] == 'L' || tok[1] == 'S');
    }
    corpus_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),  cmocka_unit_test(test_errors),
        cmocka_unit_test(test_windows),    cmocka_unit_test(test_jumps),
        cmocka_unit_test(test_boundaries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
