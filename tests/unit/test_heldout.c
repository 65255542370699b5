/* The committed held-out text is what corpora.json says it is; damaged files are refused. */
#include "tests/lib/check.h"

#include "daemon/base/sha256.h"
#include "engine/train/heldout.h"

#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#define TINY "deploy/models/tiny/"

static json_t *load_record(void)
{
    json_error_t je;
    json_t *root = json_load_file(TINY "corpora.json", 0, &je);
    assert_non_null(root);
    return root;
}

static void test_committed_text(void **unused)
{
    (void)unused;
    json_t *root = load_record(), *record;
    const char *name;
    size_t n_corpora = 0;
    json_object_foreach(json_object_get(root, "corpora"), name, record) {
        struct heldout h;
        struct err e = {0};
        char path[256], hex[65];
        uint8_t digest[32];
        json_t *want = json_object_get(record, "heldout");
        snprintf(path, sizeof path, TINY "heldout/%s.gz", name);
        assert_int_equal(heldout_open(path, &h, &e), 0);
        assert_int_equal(h.n_docs, json_integer_value(json_object_get(want, "documents")));
        assert_int_equal(h.n_docs, json_array_size(json_object_get(want, "names")));
        assert_int_equal(h.bytes.len, json_integer_value(json_object_get(want, "bytes")));
        assert_int_equal(h.n_text, h.bytes.len - (h.n_docs - 1));
        sha256_of(h.bytes.data, h.bytes.len, digest);
        sha256_hex(digest, hex);
        assert_string_equal(hex, json_string_value(json_object_get(want, "sha256")));
        for (size_t i = 0; i < h.n_docs; i++) {
            assert_true(h.docs[i].n > 0);
            assert_null(memchr(h.docs[i].text, 0, h.docs[i].n));
            assert_null(memchr(h.docs[i].text, '\r', h.docs[i].n));
            assert_int_equal(h.docs[i].text[h.docs[i].n - 1], '\n');
        }
        heldout_fini(&h);
        n_corpora++;
    }
    assert_int_equal(n_corpora, 6);
    json_decref(root);
}

/* What later evaluations need: 100 segments of 384 bytes a corpus, 300 windows of 8,192 + 128 bytes. */
static void test_enough_text(void **unused)
{
    (void)unused;
    json_t *root = load_record(), *record;
    const char *name;
    size_t windows = 0;
    json_object_foreach(json_object_get(root, "corpora"), name, record) {
        struct heldout h;
        struct err e = {0};
        char path[256];
        size_t segments = 0;
        snprintf(path, sizeof path, TINY "heldout/%s.gz", name);
        assert_int_equal(heldout_open(path, &h, &e), 0);
        for (size_t i = 0; i < h.n_docs; i++) {
            segments += h.docs[i].n / 512; /* 384 and the way to the next line or sentence */
            windows += h.docs[i].n >= 8320 ? 1 + (h.docs[i].n - 8320) / 2048 : 0;
        }
        assert_true(segments >= 100);
        heldout_fini(&h);
    }
    assert_true(windows >= 300);
    json_decref(root);
}

/* Writes bytes, gzipped or as they are, to a temporary file. */
static void write_temp(char path[64], const void *bytes, size_t n, bool zip)
{
    snprintf(path, 64, "/tmp/test_heldout.XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    if (zip) {
        gzFile f = gzdopen(fd, "wb");
        assert_int_equal(gzwrite(f, bytes, (unsigned)n), n);
        assert_int_equal(gzclose(f), Z_OK);
    } else {
        assert_int_equal(write(fd, bytes, n), n);
        close(fd);
    }
}

static void expect_error(const void *bytes, size_t n, bool zip, const char *word)
{
    char path[64];
    struct heldout h;
    struct err e = {0};
    write_temp(path, bytes, n, zip);
    int rc = heldout_open(path, &h, &e);
    unlink(path);
    assert_int_equal(rc, ERR_FORMAT);
    assert_non_null(strstr(e.msg, word));
    assert_null(h.docs);
    assert_null(h.bytes.data);
}

static void test_splits(void **unused)
{
    (void)unused;
    char path[64];
    struct heldout h;
    struct err e = {0};
    write_temp(path, "one\0two\n\0x", 10, true);
    assert_int_equal(heldout_open(path, &h, &e), 0);
    unlink(path);
    assert_int_equal(h.n_docs, 3);
    assert_int_equal(h.n_text, 8);
    assert_int_equal(h.docs[1].n, 4);
    assert_memory_equal(h.docs[1].text, "two\n", 4);
    assert_memory_equal(h.docs[2].text, "x", 1);
    heldout_fini(&h);
}

static void test_refuses(void **unused)
{
    (void)unused;
    struct heldout h;
    struct err e = {0};
    expect_error("plain text", 10, false, "not a gzip file");
    expect_error("", 0, true, "empty document");
    expect_error("one\0\0two", 8, true, "empty document");
    expect_error("one\0", 4, true, "empty document");
    expect_error("\0one", 4, true, "empty document");
    assert_int_equal(heldout_open("/nonexistent/x.gz", &h, &e), ERR_IO);
}

/* A member cut short, or with one byte changed, must not pass for the whole. */
static void test_damage(void **unused)
{
    (void)unused;
    FILE *f = fopen(TINY "heldout/iso.gz", "rb");
    assert_non_null(f);
    static char bytes[1 << 18];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_in_range(n, 1000, sizeof bytes - 1);
    expect_error(bytes, n / 2, false, "unexpected end");
    expect_error(bytes, n - 4, false, "unexpected end");
    bytes[n / 2] ^= 4;
    expect_error(bytes, n, false, "held-out");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_committed_text), cmocka_unit_test(test_enough_text),
        cmocka_unit_test(test_splits),         cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
