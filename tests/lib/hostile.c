#include "tests/lib/hostile.h"

#include "tests/lib/check.h"

#include <stdlib.h>

struct tensor_file *must_open(const void *bytes, size_t n)
{
    struct err e = {0};
    struct tensor_file *f = NULL;
    if (tensor_file_open_memory(bytes, n, &f, &e) < 0)
        fail_msg("refused: %s", e.msg);
    return f;
}

void must_refuse(const void *bytes, size_t n, const char *part)
{
    struct err e = {0};
    struct tensor_file *f = NULL;
    int rc = tensor_file_open_memory(bytes, n, &f, &e);
    if (rc == 0)
        fail_msg("opened, wanted a refusal: %s", part);
    assert_null(f);
    assert_int_equal(rc, e.code);
    assert_int_equal(rc, ERR_FORMAT);
    if (!strstr(e.msg, part) || strpbrk(e.msg, "\r\n"))
        fail_msg("message is \"%s\", wanted one with \"%s\"", e.msg, part);
}

void check_truncations(const void *bytes, size_t n, size_t enough)
{
    for (size_t k = 0; k < n; k++) {
        struct err e = {0};
        struct tensor_file *f = NULL;
        char *part = malloc(k ? k : 1);
        assert_non_null(part);
        memcpy(part, bytes, k);
        int rc = tensor_file_open_memory(part, k, &f, &e);
        if (rc == 0 && k < enough)
            fail_msg("opened with %zu bytes of %zu", k, n);
        if (rc < 0 && (rc != ERR_FORMAT || !e.msg[0]))
            fail_msg("%zu bytes of %zu: code %d, message \"%s\"", k, n, rc, e.msg);
        tensor_file_close(f);
        free(part);
    }
}

void check_same_tensors(const struct tensor_file *f, const struct tensor *want, size_t n)
{
    assert_int_equal(tensor_file_count(f), n);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = tensor_file_get(f, i);
        assert_string_equal(t->name, want[i].name);
        assert_int_equal(t->dtype, want[i].dtype);
        assert_int_equal(t->n_dims, want[i].n_dims);
        for (int d = 0; d < t->n_dims; d++)
            assert_int_equal(t->shape[d], want[i].shape[d]);
        assert_int_equal(t->bytes, want[i].bytes);
        if (t->bytes)
            assert_memory_equal(t->data, want[i].data, t->bytes);
    }
}
