/* Inside engine/tokenizer: the tokenizer itself, and the vocabulary as it is being read. */
#ifndef ENGINE_TOKENIZER_IMPL_H
#define ENGINE_TOKENIZER_IMPL_H

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/trie.h"

#define WORLD_VOCAB 65536 /* ids are 0..65535, 0 without bytes */

/* Tokens by id, in one block: id has the bytes [start[id], start[id + 1]). */
struct vocab {
    unsigned char *bytes;
    uint32_t *start; /* [n + 1] */
    size_t n;        /* ids read so far, id 0 included */
};

struct tokenizer {
    struct vocab vocab;
    struct trie trie; /* none: id = byte */
    size_t n_vocab;   /* at least vocab.n */
    size_t used;
    size_t longest;
};

/* Room for max_ids ids of max_bytes bytes in all; id 0 is there, without bytes. ERR_NOMEM. */
int vocab_init(struct vocab *v, size_t max_ids, size_t max_bytes, struct err *e);
void vocab_fini(struct vocab *v);

/* Takes the vocabulary (in every case) and makes the tokenizer of n_vocab ids; `unit` names in
 * errors what an id stands for in the source ("line", "token"). ERR_FORMAT, ERR_NOMEM. */
int tokenizer_new_take(struct vocab *v, size_t n_vocab, const char *unit, struct tokenizer **out,
                       struct err *e);

#endif
