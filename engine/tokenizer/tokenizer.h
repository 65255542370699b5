/* Bytes to token ids and back: the RWKV World vocabulary (greedy longest match over a trie) and raw
 * bytes (id = byte).
 *
 * A World vocabulary comes from rwkv_vocab_v20230424.txt or out of a GGUF; id 0 is the document
 * separator and has no bytes. A vocabulary must hold each of the 256 single bytes, so encoding any
 * byte string and decoding it gives it back.
 *
 *     struct tokenizer *t;
 *     if (tokenizer_open("rwkv_vocab_v20230424.txt", &t, &e) < 0) ...;
 *     size_t n_ids = tokenizer_encode(t, text, n, ids);
 *     tokenizer_free(t);
 *
 * Threads: read-only after opening, shared freely. Ownership: the caller frees. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct tensor_file;

/* A vocabulary file of either kind: a GGUF is told by its first bytes, anything else is read as
 * text. Errors as below. */
int tokenizer_open(const char *path, struct tokenizer **out, struct err *e)
    __attribute__((warn_unused_result));
/* The text form. ERR_IO, ERR_FORMAT (line, found, wanted), ERR_NOMEM. */
int tokenizer_open_world(const char *path, struct tokenizer **out, struct err *e)
    __attribute__((warn_unused_result));
int tokenizer_open_world_memory(const char *text, size_t n, struct tokenizer **out, struct err *e)
    __attribute__((warn_unused_result));
/* From the tokenizer.ggml.* keys, a World vocabulary or the 256 bytes; ERR_UNSUPPORTED if the file has no
 * rwkv vocabulary. */
int tokenizer_open_gguf(const struct tensor_file *f, struct tokenizer **out, struct err *e)
    __attribute__((warn_unused_result));
/* id = byte, for models whose vocabulary is at most 256. NULL: no memory. */
struct tokenizer *tokenizer_new_bytes(void);
void tokenizer_free(struct tokenizer *t); /* NULL is fine */

/* Number of ids that decode takes: 256, 65536 for World text, as many as the GGUF lists. */
size_t tokenizer_vocab(const struct tokenizer *t);
/* One past the largest id that encode can give (256, World 65530): a model needs as many rows. */
size_t tokenizer_used(const struct tokenizer *t);
/* Bytes of the longest token (1, World 128): text is cut for encoding in pieces no nearer to its
 * end. */
size_t tokenizer_longest(const struct tokenizer *t);
/* The id fed when an empty prompt needs a first token: newline for bytes, 0 for World. */
uint32_t tokenizer_separator(const struct tokenizer *t);
/* True for an id that ends a text (World: 0; bytes: none). */
bool tokenizer_is_end(const struct tokenizer *t, uint32_t id);

/* The ids of text [n bytes], at most n of them, written to ids [n]; returns their count. Never
 * fails. */
size_t tokenizer_encode(const struct tokenizer *t, const void *text, size_t n, uint32_t *ids);
/* The bytes of one token (valid while t lives); *n = 0 for ids without bytes. */
const char *tokenizer_token(const struct tokenizer *t, uint32_t id, size_t *n);
/* Appends the bytes of ids [n]. ERR_INVALID names the first id outside the vocabulary; ERR_NOMEM
 * and ERR_TOO_LARGE come from the buffer. */
int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, struct buf *out,
                     struct err *e);

/* Splits a growing byte string for streaming: the length of the longest prefix of p [n] that ends
 * on a whole UTF-8 character. Bytes that can never become a character count as whole (shown as
 * U+FFFD by utf8_append_valid), so at most 3 bytes are ever held back. */
size_t utf8_whole_prefix(const char *p, size_t n);
bool utf8_is_valid(const char *p, size_t n);
/* Appends p [n] with every invalid byte sequence replaced by U+FFFD (one per maximal subpart, as
 * Unicode recommends). Errors of the buffer. */
int utf8_append_valid(struct buf *out, const char *p, size_t n);

#endif
