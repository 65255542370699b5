/* The commands tokenize and detokenize, run with files for standard input and output. */
#include "daemon/cmd.h"
#include "engine/kernels/rng.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define SMALL "tests/data/vocab-small.txt"

/* Runs the command on in [n]; its output goes to out, what it says on stderr is dropped. */
static int run(int (*cmd)(int, char **), int argc, char **argv, const void *in, size_t n,
               struct buf *out)
{
    FILE *from = tmpfile(), *to = tmpfile();
    int saved[3];
    assert_true(from && to);
    assert_int_equal(fwrite(in, 1, n, from), n);
    rewind(from);
    fflush(stdout);
    for (int i = 0; i < 3; i++)
        saved[i] = dup(i);
    dup2(fileno(from), 0);
    dup2(fileno(to), 1);
    assert_non_null(freopen("/dev/null", "w", stderr));
    clearerr(stdin);
    int code = cmd(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    char piece[4096];
    buf_init(out, 64 << 20);
    rewind(to);
    for (size_t k; (k = fread(piece, 1, sizeof piece, to)) > 0;)
        assert_int_equal(buf_append(out, piece, k), 0);
    fclose(from);
    fclose(to);
    return code;
}

static int tokenize(const char *vocab, const void *in, size_t n, struct buf *out)
{
    char *argv[] = {(char *)(uintptr_t) "tokenize", (char *)(uintptr_t) "--vocab",
                    (char *)(uintptr_t)vocab, NULL};
    return run(cmd_tokenize, 3, argv, in, n, out);
}

static int detokenize(const char *vocab, const void *in, size_t n, struct buf *out)
{
    char *argv[] = {(char *)(uintptr_t) "detokenize", (char *)(uintptr_t) "--vocab",
                    (char *)(uintptr_t)vocab, NULL};
    return run(cmd_detokenize, 3, argv, in, n, out);
}

static void test_lines(void **state)
{
    (void)state;
    struct buf b;
    assert_int_equal(tokenize(SMALL, "abcdef", 6, &b), 0);
    assert_string_equal(b.data, "322 103\n");
    buf_fini(&b);
    assert_int_equal(tokenize(SMALL, "", 0, &b), 0);
    assert_string_equal(b.data, "\n");
    buf_fini(&b);
    assert_int_equal(detokenize(SMALL, " 322\t103\n\n0 1", 13, &b), 0);
    assert_int_equal(b.len, 7);
    assert_memory_equal(b.data, "abcdef\0", 7);
    buf_fini(&b);
}

static void test_bytes(void **state)
{
    (void)state;
    char *argv[] = {(char *)(uintptr_t) "tokenize", (char *)(uintptr_t) "--bytes", NULL};
    struct buf b;
    assert_int_equal(run(cmd_tokenize, 2, argv, "a\0\xFF", 3, &b), 0);
    assert_string_equal(b.data, "97 0 255\n");
    buf_fini(&b);
    assert_int_equal(run(cmd_detokenize, 2, argv, "97 0 255\n", 9, &b), 0);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "a\0\xFF", 3);
    buf_fini(&b);
    assert_int_equal(run(cmd_detokenize, 2, argv, "256", 3, &b), 1);
    buf_fini(&b);
}

/* A reader or writer that fails is told by the exit code. */
static int run_with(int fd, const char *file, int flags)
{
    char *argv[] = {(char *)(uintptr_t) "tokenize", (char *)(uintptr_t) "--bytes", NULL};
    int other = open(file, flags), null = open("/dev/null", O_RDWR), saved[3];
    assert_true(other >= 0 && null >= 0);
    fflush(stdout);
    for (int i = 0; i < 3; i++)
        saved[i] = dup(i);
    assert_non_null(freopen("/dev/null", "w", stderr));
    dup2(null, fd == 0 ? 1 : 0);
    dup2(other, fd);
    clearerr(stdin);
    int code = cmd_tokenize(2, argv);
    fflush(stdout);
    clearerr(stdout);
    clearerr(stdin);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    close(other);
    close(null);
    return code;
}

static void test_broken_files(void **state)
{
    (void)state;
    assert_int_equal(run_with(1, "/dev/full", O_WRONLY), 1);
    assert_int_equal(run_with(0, "tests", O_RDONLY), 1);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"1 65536", "1 99999999999999999999999999", "1 -2", "1,2",
                                      "x"};
    char *none[] = {(char *)(uintptr_t) "tokenize", NULL};
    char *both[] = {none[0], (char *)(uintptr_t) "--bytes", (char *)(uintptr_t) "--vocab=x", NULL};
    char *extra[] = {none[0], both[1], (char *)(uintptr_t) "file", NULL};
    struct buf b;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(detokenize(SMALL, bad[i], strlen(bad[i]), &b), 1);
        buf_fini(&b);
    }
    assert_int_equal(tokenize("no-such-file", "a", 1, &b), 1);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
    assert_int_equal(run(cmd_tokenize, 1, none, "a", 1, &b), 2);
    buf_fini(&b);
    assert_int_equal(run(cmd_tokenize, 3, both, "a", 1, &b), 2);
    buf_fini(&b);
    assert_int_equal(run(cmd_tokenize, 3, extra, "a", 1, &b), 2);
    buf_fini(&b);
}

/* The ids of text [n], encoded at once, as the command prints them. */
static void print_ids(const char *text, size_t n, struct buf *out)
{
    struct tokenizer *t;
    struct err e;
    uint32_t *ids = malloc(n * sizeof *ids);
    assert_non_null(ids);
    assert_int_equal(tokenizer_open(SMALL, &t, &e), 0);
    size_t count = tokenizer_encode(t, text, n, ids);
    buf_init(out, 64 << 20);
    for (size_t i = 0; i < count; i++)
        buf_printf(out, "%s%u", i ? " " : "", ids[i]);
    assert_int_equal(buf_puts(out, "\n"), 0);
    tokenizer_free(t);
    free(ids);
}

/* Three pieces' worth of input, with matches across their edges: as if encoded at once. */
static void test_pieces(void **state)
{
    (void)state;
    const size_t n = (3u << 20) + 12345;
    char *text = malloc(n);
    struct buf want, ids, back;
    struct rng r;
    assert_non_null(text);
    rng_init(&r, 8, 0);
    for (size_t i = 0; i < n; i++)
        text[i] = "abcdefgh"[rng_below(&r, 20) < 18 ? (i + 3) % 8 : rng_below(&r, 8)];
    print_ids(text, n, &want);
    assert_int_equal(tokenize(SMALL, text, n, &ids), 0);
    assert_int_equal(ids.len, want.len);
    assert_memory_equal(ids.data, want.data, want.len);
    assert_int_equal(detokenize(SMALL, ids.data, ids.len, &back), 0);
    assert_int_equal(back.len, n);
    assert_memory_equal(back.data, text, n);
    buf_fini(&want);
    buf_fini(&ids);
    buf_fini(&back);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_broken_files), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
