/* Every file of golden/loader-fixtures: the good ones hold what torch wrote, the bad ones are
 * refused with a message that says why; and the .pth files of the other sets equal their
 * .safetensors twins. */
#include "tests/lib/check.h"

#include <stdlib.h>

#define DIR "loader-fixtures/"

/* The same names, types, shapes and bytes, in any order. */
static void check_equal(const char *got, const char *want)
{
    struct tensor_file *f = golden_open(got), *g = golden_open(want);
    assert_int_equal(tensor_file_count(f), tensor_file_count(g));
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const struct tensor *a = tensor_file_get(f, i), *b = tensor_file_find(g, a->name);
        if (!b)
            fail_msg("%s: %s is not in %s", got, a->name, want);
        assert_int_equal(a->dtype, b->dtype);
        assert_int_equal(a->n_dims, b->n_dims);
        for (int d = 0; d < a->n_dims; d++)
            assert_int_equal(a->shape[d], b->shape[d]);
        assert_int_equal(a->bytes, b->bytes);
        if (a->bytes)
            assert_memory_equal(a->data, b->data, a->bytes);
    }
    tensor_file_close(f);
    tensor_file_close(g);
}

static void check_values(const struct tensor_file *f, const char *name, enum dtype dtype,
                         int n_dims, const float *want, size_t n)
{
    const struct tensor *t = tensor_file_find(f, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->n_dims, n_dims);
    assert_int_equal(t->count, n);
    float *x = golden_f32(f, name, 0);
    for (size_t i = 0; i < n; i++)
        assert_true(x[i] == want[i]);
    free(x);
}

static void test_module_state_dict(void **state)
{
    (void)state;
    check_equal(DIR "module_state_dict.pth", DIR "module_state_dict.safetensors");
    check_equal(DIR "torch2_like.pth", DIR "module_state_dict.safetensors");
    check_equal(DIR "rezipped_deflate.pth", DIR "module_state_dict.safetensors");
}

static void test_mixed_dtypes(void **state)
{
    (void)state;
    check_equal(DIR "mixed_dtypes_params.pth", DIR "mixed_dtypes_params.safetensors");
    struct tensor_file *f = golden_open(DIR "mixed_dtypes_params.pth");
    assert_int_equal(tensor_file_kind(f), TENSOR_FILE_PTH);
    const struct tensor *t = tensor_file_find(f, "empty");
    assert_non_null(t);
    assert_int_equal(t->count, 0);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(tensor_file_find(f, "scalar")->n_dims, 0);
    tensor_file_close(f);
}

/* {'state_dict': {...}, 'epoch': 3, ...}: the tensors of the state_dict under their own names. */
static void test_nested(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open(DIR "nested_with_non_tensors.pth");
    assert_int_equal(tensor_file_count(f), 2);
    check_values(f, "w", DTYPE_F32, 2, (float[]){1, 0, 0, 0, 1, 0, 0, 0, 1}, 9);
    check_values(f, "v", DTYPE_F32, 1, (float[]){0, 1, 2}, 3);
    tensor_file_close(f);
}

static void test_misaligned_and_escapes(void **state)
{
    (void)state;
    struct tensor_file *f = golden_open(DIR "ok_misaligned_escapes.safetensors");
    size_t len;
    assert_int_equal(tensor_file_kind(f), TENSOR_FILE_SAFETENSORS);
    assert_int_equal(tensor_file_count(f), 4);
    check_values(f, "z", DTYPE_U8, 1, (float[]){7}, 1);
    check_values(f, "a\xc3\xa9\xe4\xb8\xad\n\"", DTYPE_F32, 1, (float[]){1.5f}, 1);
    check_values(f, "s", DTYPE_F32, 0, (float[]){-2}, 1);
    check_values(f, "e", DTYPE_F16, 2, NULL, 0);
    assert_string_equal(tensor_file_meta_str(f, "k", &len), "v");
    assert_int_equal(len, 1);
    tensor_file_close(f);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *file, *part;
    } bad[] = {
        {"bad_hole.safetensors", "'w': begins at byte 8 of the data, want 0 (a hole"},
        {"bad_huge_header.safetensors", "header of 1152921504606846976 bytes"},
        {"bad_not_json.safetensors", "no JSON"},
        {"bad_offset_past_end.safetensors", "'w': data_offsets 0 to 16, the file has 8 bytes"},
        {"bad_overflow_shape.safetensors", "'w': the product of its shape overflows"},
        {"bad_short.safetensors", "3 bytes"},
        {"bad_truncated.pth", "cut short"},
        {"bad_unknown_dtype.safetensors", "'w': dtype 'F7', want one of F32"},
        {"legacy_nonzip.pth", "old form without a zip container"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, DIR "%s", bad[i].file);
        const char *path = golden_path(name);
        assert_non_null(path);
        struct err e = {0};
        struct tensor_file *f = NULL;
        assert_int_equal(tensor_file_open(path, &f, &e), ERR_FORMAT);
        assert_null(f);
        if (!strstr(e.msg, bad[i].part))
            fail_msg("%s: \"%s\", wanted \"%s\"", bad[i].file, e.msg, bad[i].part);
    }
}

static void test_other_sets(void **state)
{
    (void)state;
    check_equal("state-files/model-fp32.pth", "state-files/model-fp32.safetensors");
    check_equal("state-files/state-fp32.pth", "state-files/state-fp32.safetensors");
    struct tensor_file *f = golden_open("state-files/state-bf16.pth");
    struct tensor_file *g = golden_open("state-files/state-fp32.pth");
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const struct tensor *t = tensor_file_get(f, i);
        float *a = golden_f32(f, t->name, 0), *b = golden_f32(g, t->name, t->count);
        for (size_t k = 0; k < t->count; k++) /* bf16 is fp32 rounded to nearest even */
            assert_true(a[k] == bf16_to_f32(f32_to_bf16(b[k])));
        free(a);
        free(b);
    }
    tensor_file_close(f);
    tensor_file_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_module_state_dict),
        cmocka_unit_test(test_mixed_dtypes),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_misaligned_and_escapes),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_other_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
