/* The command quantize: its exit codes and what it says; the bundled model through it is one that the
 * daemon opens, as are files with a World vocabulary and without any. */
#include "daemon/cmd.h"
#include "daemon/model_vocab.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"

#include <stdlib.h>
#include <unistd.h>

/* Runs `quantize` with these words; what it prints on stderr goes to err. */
static int run(const char *const *words, char *err, size_t size)
{
    char *argv[8] = {(char *)(uintptr_t) "quantize"};
    int argc = 1, saved[2] = {dup(1), dup(2)};
    FILE *to[2] = {tmpfile(), tmpfile()};
    assert_true(to[0] && to[1]);
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++)
        dup2(fileno(to[i]), i + 1);
    int code = cmd_quantize(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    rewind(to[1]);
    err[fread(err, 1, size - 1, to[1])] = 0;
    fclose(to[0]);
    fclose(to[1]);
    return code;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL}, err, sizeof err)

static char err[4096];
static const char tiny[] = "deploy/models/tiny/model.safetensors";

static void test_usage(void **state)
{
    (void)state;
    assert_int_equal(RUN("a"), 2);
    assert_int_equal(RUN("a", "b"), 2);
    assert_int_equal(RUN("a", "b", "--type", "q9"), 2);
    assert_int_equal(RUN("a", "b", "c", "--type", "q8_0"), 2);
    assert_int_equal(RUN("a", "b", "--type", "q8_0", "--threads", "0"), 2);
    assert_int_equal(RUN("/nonexistent/file", "b", "--type", "q8_0"), 1);
    assert_memory_equal(err, "dreamstated quantize: /nonexistent/file: ", 41);
    assert_int_equal(RUN(tiny, "b", "--type", "q4_k"), 1);
}

/* Never over what is read, by whatever name. */
static void test_same_file(void **state)
{
    (void)state;
    size_t n, m;
    folder_open();
    assert_int_equal(RUN(tiny, in_folder("model.gguf"), "--type", "q8_0"), 0);
    assert_int_equal(symlink(in_folder("model.gguf"), in_folder("link")), 0);
    char *before = read_file("model.gguf", &n);
    static const char *const names[] = {"model.gguf", "link"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(RUN(in_folder("model.gguf"), in_folder("%s", names[i]), "--type", "q4_0"),
                         1);
        assert_non_null(strstr(err, "is the file to be read"));
    }
    char *after = read_file("model.gguf", &m);
    assert_true(n == m && !memcmp(before, after, n));
    free(before);
    free(after);
    folder_close("link model.gguf");
}

/* The vocabulary that the daemon finds in the file it wrote has as many tokens in use; 0: none. */
static void check_vocab(const char *name, size_t n_vocab, size_t used)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    assert_int_equal(model_vocab_open(in_folder("%s", name), NULL, n_vocab, &t, &e), 0);
    if (used)
        assert_int_equal(tokenizer_used(t), used);
    else
        assert_null(t);
    tokenizer_free(t);
}

static void test_vocabularies(void **state)
{
    (void)state;
    char source[512];
    folder_open();
    assert_int_equal(RUN(tiny, in_folder("bytes.gguf"), "--type", "q8_0"), 0);
    assert_string_equal(err, "");
    check_vocab("bytes.gguf", 256, 256);
    snprintf(source, sizeof source, "%s", golden_path("rwkv7-rand/rwkv7-rand-bf16.pth"));
    assert_int_equal(RUN(source, in_folder("none.gguf"), "--type", "q4_0"), 0);
    check_vocab("none.gguf", 1000, 0);
    assert_int_equal(RUN(source, in_folder("world.gguf"), "--type", "f16", "--vocab",
                         "tests/data/vocab-small.txt"),
                     0);
    struct tokenizer *t = NULL;
    struct err e = {0};
    assert_int_equal(tokenizer_open("tests/data/vocab-small.txt", &t, &e), 0);
    check_vocab("world.gguf", 1000, tokenizer_used(t));
    tokenizer_free(t);
    folder_close("bytes.gguf none.gguf world.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_same_file),
        cmocka_unit_test(test_vocabularies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
