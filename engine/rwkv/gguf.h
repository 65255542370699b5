/* A model of any readable file as a GGUF ("rwkv7") that llama.cpp loads.
 *
 * The large matrices and the embedding are brought to `type`; in a Q4_0 file the head is Q8_0 (where
 * llama-quantize, which has a search for Q6_K, takes that), and a matrix whose rows are no whole blocks
 * is F16. As llama-quantize does, low-rank matrices stay as they are (F32, F16 or BF16; others F32) and
 * so do vectors, which llama.cpp wants as F32. A tensor that has its type already is copied byte by byte.
 * Tuned states (time_state) have no place in a GGUF and are left out.
 *
 * Memory: the file's mapping and one band of rows, whatever the size of the model. */
#ifndef ENGINE_RWKV_GGUF_H
#define ENGINE_RWKV_GGUF_H

#include "engine/kernels/pool.h"
#include "engine/tensor/write.h"

struct rwkv_gguf {
    enum dtype type;  /* Q8_0, Q4_0, F16, BF16 or F32 */
    const char *name; /* general.name */
    /* What the file itself does not say: a vocabulary. What it says (a GGUF) is taken over first. */
    const struct tensor_meta *meta;
    size_t n_meta;
};

struct rwkv_gguf_sizes {
    size_t tensors, from_bytes,
        to_bytes; /* of the new file; of weights in the old one, in the new one */
};

/* f as opened from f_path (whose ending may decide an order, see source.h) to path: whole, synced and
 * renamed, or not at all. ERR_FORMAT, ERR_UNSUPPORTED (the type), ERR_NOT_FINITE (which tensor holds a
 * number that the type cannot), ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. */
int rwkv_gguf_write(const struct tensor_file *f, const char *f_path, const char *path,
                    const struct rwkv_gguf *o, struct pool *pool, struct rwkv_gguf_sizes *sizes,
                    struct err *e) __attribute__((warn_unused_result));

#endif
