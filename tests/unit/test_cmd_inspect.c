/* The command inspect: kinds, JSON, digests, and its exit codes. */
#include "daemon/cmd.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

/* Runs `inspect` with up to three words; what it prints goes to out and err, NUL-terminated. */
static int run(const char *a, const char *b, const char *c, char *out, char *err, size_t size)
{
    char *argv[5] = {(char *)(uintptr_t) "inspect", (char *)(uintptr_t)a, (char *)(uintptr_t)b,
                     (char *)(uintptr_t)c, NULL};
    int argc = 1, saved[2] = {dup(1), dup(2)};
    FILE *to[2] = {tmpfile(), tmpfile()};
    char *text[2] = {out, err};
    while (argv[argc])
        argc++;
    assert_true(to[0] && to[1]);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++)
        dup2(fileno(to[i]), i + 1);
    int code = cmd_inspect(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
        rewind(to[i]);
        text[i][fread(text[i], 1, size - 1, to[i])] = 0;
        fclose(to[i]);
    }
    return code;
}

static char out[65536], err[65536];

static void check_kind(const char *golden, const char *kind)
{
    const char *path = golden_path(golden);
    assert_non_null(path);
    assert_int_equal(run(path, "--json", NULL, out, err, sizeof out), 0);
    json_t *root = json_loads(out, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "kind")), kind);
    assert_int_equal(json_object_size(root), 2);
    json_decref(root);
}

static void test_kinds(void **state)
{
    (void)state;
    check_kind("rwkv7-rand/rwkv7-rand-fp32.safetensors", "model");
    check_kind("rwkv7-rand/rwkv7-rand-q8_0.gguf", "model");
    check_kind("rwkv7-rand/rwkv7-rand-bf16.pth", "model");
    check_kind("state-files/state-bf16.pth", "state");
    check_kind("state-files/state-webrwkv-f16.st", "state");
    check_kind("loader-fixtures/mixed_dtypes_params.pth", "tensors");
}

static void test_json(void **state)
{
    (void)state;
    /* sha256sum of 00 00 c0 3f, of 00 00 e0 40, of 00 00 00 c0, and of nothing */
    static const struct {
        const char *name, *dtype, *sha256;
        size_t n_dims;
    } want[] = {
        {"a\xc3\xa9\xe4\xb8\xad\n\"", "F32",
         "c0e336a5f371ef22cd534e094269f2c1a9635cd080b71ffa671086832d3b60b7", 1},
        {"z", "U8", "ee0a6628f97214b7ef5d15c54388ea478862369e517aa4ef4593aea18c3ff618", 1},
        {"s", "F32", "e4767380eb5e2fc046bce28b8b2a30c81c733be1a56203cd9499066086617f6c", 0},
        {"e", "F16", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 2},
    };
    const char *path = golden_path("loader-fixtures/ok_misaligned_escapes.safetensors");
    assert_int_equal(run("--json", path, NULL, out, err, sizeof out), 0);
    assert_string_equal(err, "");
    json_t *root = json_loads(out, JSON_REJECT_DUPLICATES, NULL);
    json_t *tensors = json_object_get(root, "tensors");
    assert_int_equal(json_array_size(tensors), 4);
    for (size_t i = 0; i < 4; i++) {
        json_t *t = json_array_get(tensors, i);
        assert_string_equal(json_string_value(json_object_get(t, "name")), want[i].name);
        assert_string_equal(json_string_value(json_object_get(t, "dtype")), want[i].dtype);
        assert_string_equal(json_string_value(json_object_get(t, "sha256")), want[i].sha256);
        assert_int_equal(json_array_size(json_object_get(t, "shape")), want[i].n_dims);
    }
    json_t *shape = json_object_get(json_array_get(tensors, 3), "shape");
    assert_int_equal(json_integer_value(json_array_get(shape, 1)), 3);
    json_decref(root);
}

static void test_text(void **state)
{
    (void)state;
    assert_int_equal(run(golden_path("loader-fixtures/ok_misaligned_escapes.safetensors"), NULL,
                         NULL, out, err, sizeof out),
                     0);
    assert_non_null(strstr(out, "safetensors, kind tensors, 4 tensors, 3 elements, 9 bytes"));
    assert_non_null(strstr(out, "\nmetadata\n  k = v\n"));
    assert_non_null(strstr(out, "?\"  ")); /* the line feed in the name does not break the table */
    assert_non_null(strstr(out, "  F16   0 x 3 "));
    assert_int_equal(
        run(golden_path("rwkv7-rand/rwkv7-rand-q8_0.gguf"), NULL, NULL, out, err, sizeof out), 0);
    assert_non_null(strstr(out, "  general.architecture = rwkv7\n"));
    assert_non_null(strstr(out, "  rwkv7.block_count = 3\n"));
}

static void test_failures(void **state)
{
    (void)state;
    assert_int_equal(run(NULL, NULL, NULL, out, err, sizeof out), 2);
    assert_int_equal(run("--what", NULL, NULL, out, err, sizeof out), 2);
    assert_int_equal(run("a", "b", NULL, out, err, sizeof out), 2);
    const char *bad[] = {"/nonexistent/file", "/tmp",
                         golden_path("loader-fixtures/bad_truncated.pth")};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(run(bad[i], "--json", NULL, out, err, sizeof out), 1);
        assert_string_equal(out, "");
        assert_memory_equal(err, "dreamstated inspect: ", 21);
        assert_ptr_equal(strchr(err, '\n'), err + strlen(err) - 1); /* one line */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
