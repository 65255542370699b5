/* The vocabulary that belongs to a model's file. */
#ifndef DAEMON_MODEL_VOCAB_H
#define DAEMON_MODEL_VOCAB_H

#include "engine/tokenizer/tokenizer.h"

/* For the model at path with n_vocab ids. Above 256 ids: the file `vocab` (NULL: none given), else what a
 * GGUF holds, else rwkv_vocab_v20230424.txt beside it. Up to 256: what a GGUF holds, else bytes. *out
 * NULL: there is none. Errors of tokenizer_open; ERR_INVALID: it gives ids that the model does not take. */
int model_vocab_open(const char *path, const char *vocab, size_t n_vocab, struct tokenizer **out,
                     struct err *e) __attribute__((warn_unused_result));

#endif
