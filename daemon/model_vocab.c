#include "daemon/model_vocab.h"

#include "engine/tensor/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VOCAB_FILE "rwkv_vocab_v20230424.txt"

static bool is_gguf(const char *path)
{
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(magic, 1, sizeof magic, f) : 0;
    if (f)
        fclose(f);
    return n == 4 && !memcmp(magic, "GGUF", 4);
}

/* The vocabulary inside a GGUF; none is not an error. */
static int open_inner(const char *path, struct tokenizer **out, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = tensor_file_open(path, &f, e);
    if (rc < 0)
        return rc;
    rc = tokenizer_open_gguf(f, out, e);
    tensor_file_close(f);
    return rc == ERR_UNSUPPORTED ? 0 : rc;
}

static int open_beside(const char *path, struct tokenizer **out, struct err *e)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    char *vocab = malloc(n + sizeof VOCAB_FILE);
    if (!vocab)
        return err_set(e, ERR_NOMEM, "no memory for a path");
    memcpy(vocab, path, n);
    memcpy(vocab + n, VOCAB_FILE, sizeof VOCAB_FILE);
    int rc = access(vocab, F_OK) == 0 ? tokenizer_open(vocab, out, e) : 0;
    free(vocab);
    return rc;
}

int model_vocab_open(const char *path, const char *vocab, size_t n_vocab, struct tokenizer **out,
                     struct err *e)
{
    int rc = 0;
    *out = NULL;
    if (n_vocab > 256 && vocab)
        rc = tokenizer_open(vocab, out, e);
    if (rc == 0 && !*out && is_gguf(path))
        rc = open_inner(path, out, e);
    if (rc == 0 && !*out && n_vocab > 256)
        rc = open_beside(path, out, e);
    if (rc == 0 && !*out && n_vocab <= 256) {
        *out = tokenizer_new_bytes();
        return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for a vocabulary");
    }
    if (rc == 0 && *out && tokenizer_used(*out) > n_vocab)
        rc = err_set(e, ERR_INVALID, "the vocabulary gives ids up to %zu, the model takes %zu",
                     tokenizer_used(*out) - 1, n_vocab);
    if (rc < 0) {
        tokenizer_free(*out);
        *out = NULL;
    }
    return rc;
}
