/* A vocabulary as the metadata of a GGUF file, in the form of llama.cpp's converter ("rwkv"): each token
 * the Python representation of its bytes, and types that tell the end of text and padding from words.
 *
 * A vocabulary of bytes (id = byte) is written as 256 such tokens, id 0 the byte 0; tokenizer_open_gguf
 * knows it again. Ownership: the entries point into the struct and the vocabulary's own memory. */
#ifndef ENGINE_GGUF_VOCAB_H
#define ENGINE_GGUF_VOCAB_H

#include "engine/tensor/write.h"
#include "engine/tokenizer/tokenizer.h"

struct gguf_vocab {
    struct tensor_meta meta[7];
    size_t n_meta;
    char *text;          /* owned: the tokens, each with a NUL */
    const char **tokens; /* owned, [n_vocab] */
    int32_t *types;      /* owned, [n_vocab] */
};

/* Of a model with n_vocab rows, at least tokenizer_used. ERR_INVALID, ERR_NOMEM. */
int gguf_vocab_init(struct gguf_vocab *v, const struct tokenizer *t, size_t n_vocab, struct err *e)
    __attribute__((warn_unused_result));
void gguf_vocab_fini(struct gguf_vocab *v); /* also after a failed init, and of a zeroed one */

#endif
