/* inspect FILE [--json]: what a tensor file holds. */
#include "daemon/base/buf.h"
#include "daemon/base/sha256.h"
#include "daemon/cmd.h"
#include "engine/tensor/tensor.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)256 << 20) /* bytes of output */

static const char *last_part(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* A state file has the matrices of the recurrence and nothing but what belongs to a state. */
static bool is_state(const struct tensor_file *f)
{
    static const char *const parts[] = {"time_state", "wkv", "att_shift", "ffn_shift", "logits"};
    bool matrices = false;
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const char *part = last_part(tensor_file_get(f, i)->name);
        size_t k = 0, n = sizeof parts / sizeof parts[0];
        while (k < n && strcmp(part, parts[k]))
            k++;
        if (k == n)
            return false;
        matrices |= k < 2;
    }
    return matrices;
}

static const char *kind_of(const struct tensor_file *f)
{
    if (tensor_file_find(f, "emb.weight") || tensor_file_find(f, "token_embd.weight"))
        return "model";
    return is_state(f) ? "state" : "tensors";
}

static int print(const char *text)
{
    if (fputs(text, stdout) < 0 || fflush(stdout) != 0) {
        fprintf(stderr, "dreamstated inspect: cannot write to stdout\n");
        return 1;
    }
    return 0;
}

static json_t *tensor_json(const struct tensor *t)
{
    uint8_t digest[32];
    char hex[65];
    tensor_sha256_f32(t, digest, NULL);
    sha256_hex(digest, hex);
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    return json_pack("{s:s, s:s, s:o, s:s}", "name", t->name, "dtype", dtype_name(t->dtype),
                     "shape", shape, "sha256", hex);
}

static int inspect_json(const struct tensor_file *f)
{
    json_t *tensors = json_array();
    int rc = tensors ? 0 : -1;
    for (size_t i = 0; rc == 0 && i < tensor_file_count(f); i++)
        rc = json_array_append_new(tensors, tensor_json(tensor_file_get(f, i)));
    json_t *root = json_pack("{s:s, s:O?}", "kind", kind_of(f), "tensors", tensors);
    char *text = rc == 0 && root ? json_dumps(root, 0) : NULL;
    json_decref(root);
    json_decref(tensors);
    if (!text) {
        fprintf(stderr, "dreamstated inspect: no memory for the report\n");
        return 1;
    }
    rc = print(text) || print("\n");
    free(text);
    return rc;
}

/* Text of the file on one line of at most `most` bytes; a cut never splits a UTF-8 sequence. */
static void put_text(struct buf *b, const char *s, size_t len, size_t most)
{
    size_t n = len;
    if (n > most)
        for (n = most; n && ((unsigned char)s[n] & 0xc0) == 0x80;)
            n--;
    for (size_t i = 0; i < n; i++) {
        bool control = (unsigned char)s[i] < 0x20 || s[i] == 0x7f;
        buf_append(b, control ? "?" : &s[i], 1);
    }
    if (n < len)
        buf_puts(b, " ...");
}

static void put_meta(struct buf *b, const struct tensor_file *f, const char *key)
{
    uint64_t u;
    double d;
    size_t n = 0;
    const char *s = tensor_file_meta_str(f, key, &n);
    buf_puts(b, "  ");
    put_text(b, key, strlen(key), 60);
    buf_puts(b, " = ");
    if (s)
        put_text(b, s, n, 60);
    else if (tensor_file_meta_u64(f, key, &u))
        buf_printf(b, "%" PRIu64, u);
    else if (tensor_file_meta_f64(f, key, &d))
        buf_printf(b, "%.9g", d);
    else if (tensor_file_meta_str_array(f, key, &n))
        buf_printf(b, "[%zu strings]", n);
    else
        buf_puts(b, "(a negative number or an array of numbers)");
    buf_puts(b, "\n");
}

static void shape_text(const struct tensor *t, char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (int d = 0; d < t->n_dims && at < size; d++)
        at += (size_t)snprintf(out + at, size - at, "%s%zu", d ? " x " : "", t->shape[d]);
    if (!t->n_dims)
        snprintf(out, size, "scalar");
}

/* One line a tensor: name, type, shape, the first 16 digits of the digest that --json gives whole.
 */
static void put_table(struct buf *b, const struct tensor_file *f)
{
    char shape[8 * 24], hex[65];
    uint8_t digest[32];
    int wide_name = 4, wide_shape = 5;
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const struct tensor *t = tensor_file_get(f, i);
        shape_text(t, shape, sizeof shape);
        wide_name = (int)strlen(t->name) > wide_name ? (int)strlen(t->name) : wide_name;
        wide_shape = (int)strlen(shape) > wide_shape ? (int)strlen(shape) : wide_shape;
    }
    buf_printf(b, "%-*s  %-4s  %-*s  %s\n", wide_name, "name", "type", wide_shape, "shape",
               "sha256 as F32");
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        const struct tensor *t = tensor_file_get(f, i);
        shape_text(t, shape, sizeof shape);
        tensor_sha256_f32(t, digest, NULL);
        sha256_hex(digest, hex);
        put_text(b, t->name, strlen(t->name), SIZE_MAX);
        buf_printf(b, "%*s  %-4s  %-*s  %.16s\n", wide_name - (int)strlen(t->name), "",
                   dtype_name(t->dtype), wide_shape, shape, hex);
    }
}

static int inspect_text(const struct tensor_file *f, const char *path)
{
    static const char *const format[] = {"safetensors", "GGUF", ".pth"};
    double elements = 0, bytes = 0;
    struct buf b;
    buf_init(&b, MAX_TEXT);
    for (size_t i = 0; i < tensor_file_count(f); i++) {
        elements += (double)tensor_file_get(f, i)->count;
        bytes += (double)tensor_file_get(f, i)->bytes;
    }
    buf_printf(&b, "%s: %s, kind %s, %zu tensors, %.0f elements, %.0f bytes\n", path,
               format[tensor_file_kind(f)], kind_of(f), tensor_file_count(f), elements, bytes);
    if (tensor_file_meta_count(f))
        buf_puts(&b, "\nmetadata\n");
    for (size_t i = 0; i < tensor_file_meta_count(f); i++)
        put_meta(&b, f, tensor_file_meta_key(f, i));
    buf_puts(&b, "\n");
    put_table(&b, f);
    int rc = 1;
    if (b.failed)
        fprintf(stderr, "dreamstated inspect: no memory for the report\n");
    else
        rc = print(b.data);
    buf_fini(&b);
    return rc;
}

int cmd_inspect(int argc, char **argv)
{
    const char *path = NULL;
    bool json = false, wrong = false;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (argv[i][0] == '-' || path)
            wrong = true;
        else
            path = argv[i];
    if (wrong || !path) {
        fprintf(stderr, "usage: dreamstated inspect FILE [--json]\n");
        return 2;
    }
    struct err e = {0};
    struct tensor_file *f = NULL;
    if (tensor_file_open(path, &f, &e) < 0) {
        fprintf(stderr, "dreamstated inspect: %s: %s\n", path, e.msg);
        return 1;
    }
    int rc = json ? inspect_json(f) : inspect_text(f, path);
    tensor_file_close(f);
    return rc;
}
